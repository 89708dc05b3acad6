"""How a WSGI server's requests come in: Django's own way, and for the API a shorter one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections

from jobs_gateway.cores import OwnCore
from jobs_gateway.middleware import GatewayRequest, is_of_api


class GatewayHandler(WSGIHandler):
    """Django's, which for the API spares what only pages need: signals, script prefix, URLconf, cookies, streams.

    Middleware stays what it is. An answer of the API is in memory as a whole, so connections are done with before it
    is sent.
    """

    request_class = GatewayRequest

    def __init__(self) -> None:
        super().__init__()
        self.core = OwnCore() if settings.WEB_PIN_WORKERS else None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # type: ignore[override]
        if self.core:
            self.core.bind()
        if not is_of_api(environ.get("PATH_INFO", "")):
            return super().__call__(environ, start_response)
        _look_at_connections()
        response: Any = self._middleware_chain(self.request_class(environ))  # type: ignore[attr-defined]  # Django's own
        if not settings.KEEP_CONNECTIONS:
            _look_at_connections()
        start_response(f"{response.status_code} {response.reason_phrase}", list(response.items()))
        return [response.content]


def _look_at_connections() -> None:
    """As Django does before and after a request, at those that the API uses: lost ones and old ones are closed."""
    for alias in filter(None, (settings.API_DATABASE, settings.API_REPLICA)):
        connections[alias].close_if_unusable_or_obsolete()
