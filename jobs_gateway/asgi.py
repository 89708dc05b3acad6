"""The application an ASGI server serves: ``jobs_gateway.asgi:application``."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jobs_gateway.settings")
application = get_asgi_application()
