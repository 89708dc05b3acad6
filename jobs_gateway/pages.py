"""What the pages answer when they cannot."""

from __future__ import annotations

import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.views import defaults

from jobs.egress.errors import RETRY_AFTER_SECONDS


def server_error(request: HttpRequest) -> HttpResponse:
    """503 while the database is away, for that passes by itself; 500 for what nobody foresaw."""
    if not isinstance(sys.exception(), (OperationalError, InterfaceError)):
        return defaults.server_error(request)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Cache-Control": "no-store"}
    text = "The job store cannot be reached right now. Try again in a few seconds.\n"
    return HttpResponse(text, "text/plain; charset=utf-8", 503, headers=headers)
