"""The application that an ASGI server serves: ``jobs_gateway.asgi:application``.

Everything is answered on one event loop a worker. The API and local pictures never leave it; Django's pages (console,
docs, landing page) run in threads, as Django's own ASGI handler does it, behind bounds of their own.
"""

import gc
import logging
import os

import django

from jobs_gateway.worker import end_on_signals

end_on_signals()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jobs_gateway.settings")
logging.captureWarnings(True)  # into the log, in its format
from django.conf import settings  # noqa: E402

from jobs_gateway.settings import limit_pools_of_a_worker  # noqa: E402

limit_pools_of_a_worker()
django.setup(set_prefix=False)

from jobs.database import row_security  # noqa: E402 - once the models are loaded
from jobs_gateway import application as composition  # noqa: E402
from jobs_gateway import metrics  # noqa: E402

application = composition.make_application()

row_security.check_before_serving()
if settings.METRICS_PORT:
    metrics.serve()
# What was loaded stays: the collector need not visit it again. A page of jobs makes thousands of objects that are gone
# with its answer: collecting after 10,000 instead of 700 saves a twentieth of a request.
gc.freeze()
gc.set_threshold(10_000, 10, 10)
