"""The application a WSGI server serves: ``jobs_gateway.wsgi:application``."""

import logging
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jobs_gateway.settings")
logging.captureWarnings(True)  # into the log, in its form
application = get_wsgi_application()

from django.conf import settings  # noqa: E402

from jobs.egress import row_security  # noqa: E402 - once the models are loaded
from jobs_gateway import metrics  # noqa: E402
from jobs_gateway.middleware import GatewayRequest  # noqa: E402

application.request_class = GatewayRequest

row_security.check_before_serving()
if settings.METRICS_PORT:
    metrics.serve()
