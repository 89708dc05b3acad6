"""The application a WSGI server serves: ``jobs_gateway.wsgi:application``."""

import gc
import logging
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jobs_gateway.settings")
logging.captureWarnings(True)  # into the log, in its form
django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402
from django.core.signals import request_finished  # noqa: E402
from django.db import close_old_connections  # noqa: E402

from jobs.database import row_security  # noqa: E402 - once the models are loaded
from jobs_gateway import metrics  # noqa: E402
from jobs_gateway.handler import GatewayHandler  # noqa: E402

application = GatewayHandler()

if settings.KEEP_CONNECTIONS:
    # Whether a kept connection is still good is looked at before the next request, so not after this one.
    request_finished.disconnect(close_old_connections)

row_security.check_before_serving()
if settings.METRICS_PORT:
    metrics.serve()
# What was loaded stays: the collector need not go through it again. And a page of jobs makes thousands of objects that
# are gone with its answer: looked through after 10,000 instead of 700, a request takes a twentieth less.
gc.freeze()
gc.set_threshold(10_000, 10, 10)
