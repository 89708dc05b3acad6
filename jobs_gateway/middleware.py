"""What stands between the server and the views: request ids for all, and a short way for the API."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponseBase
from django.utils.functional import cached_property
from django.utils.http import parse_header_parameters

from jobs.api.views import answer
from jobs_gateway.patience import patience
from tenants.proxies import came_by_proxy

Handler = Callable[[HttpRequest], HttpResponseBase]

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def is_of_api(path: str) -> bool:
    return path.startswith(("/v1/", "/job/")) or path in ("/v1", "/job")


class GatewayRequest(WSGIRequest):
    """Reads a query string as UTF-8, where Django reads it in the charset that ``Content-Type`` gives the body.

    Some charsets are none for text ("hex"), which Django meets before anything could turn its error into an answer.
    """

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))

    @property
    def scheme(self) -> str:
        """Of what is said about TLS, only what a proxy of ours says."""
        if settings.SECURE_PROXY_SSL_HEADER and not came_by_proxy(self):
            return str(self.environ["wsgi.url_scheme"])
        return str(super().scheme)

    @cached_property
    def _host(self) -> str:
        return super().get_host()

    def get_host(self) -> str:
        """Checked once, however many ask. Raises DisallowedHost."""
        return self._host


class RequestId:
    """``X-Request-ID`` on every response: the caller's own when it is sane, else a new one. No response takes long."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _SANE_REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
        request.request_id = request_id  # type: ignore[attr-defined]
        with patience.of(settings.DATABASE_PATIENCE_SECONDS):
            response = self.get_response(request)
        response.headers["X-Request-ID"] = request_id
        return response


class ApiLane:
    """Answers ``/v1`` and ``/job`` without the middleware that only pages need: sessions, messages, CSRF, static files.

    What it leaves out, it stands in for: the host is checked, and every error leaves as JSON as its dialect writes it.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        if is_of_api(path):
            response = answer(request)
            if rate := getattr(request, "rate", None):  # where the caller stands, on every answer that was counted
                for name, value in rate.headers.items():
                    response.headers[name] = value
            return response
        return self.get_response(request)
