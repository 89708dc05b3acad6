"""The application a WSGI server serves: ``jobs_gateway.wsgi:application``."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jobs_gateway.settings")
application = get_wsgi_application()
