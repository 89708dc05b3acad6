"""What the pages answer when they cannot, and forms that do not come."""

from __future__ import annotations

import sys
from contextlib import suppress

from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.http.request import UnreadablePostError
from django.views import defaults
from rest_framework.exceptions import APIException

from jobs.api.errors import RETRY_AFTER_SECONDS, problem_of
from jobs_gateway.middleware import Handler
from tenants.side_lane import body_of


class Forms:
    """Has a form read before anything looks into it, and writes down as a page what a form was refused for."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.method == "POST":
            try:
                with suppress(UnreadablePostError):  # nobody is there any more who could be told
                    body_of(request)
            except (APIException, RequestDataTooBig) as error:
                return refusal(error)
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return refusal(error) if isinstance(error, APIException) else None


def refusal(error: Exception) -> HttpResponse:
    """What the API would say, for people."""
    problem = problem_of(error)
    headers = {**problem.headers, "Cache-Control": "no-store"}
    return HttpResponse(f"{problem.detail}\n", "text/plain; charset=utf-8", problem.status, headers=headers)


def server_error(request: HttpRequest) -> HttpResponse:
    """503 while the database is away, for that passes by itself; 500 for what nobody foresaw."""
    if not isinstance(sys.exception(), (OperationalError, InterfaceError)):
        return defaults.server_error(request)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Cache-Control": "no-store"}
    text = "The job store cannot be reached right now. Try again in a few seconds.\n"
    return HttpResponse(text, "text/plain; charset=utf-8", 503, headers=headers)
