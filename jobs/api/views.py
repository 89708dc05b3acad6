"""The base of all views of the API: read-only, for one tenant, JSON, cacheable only by that tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any, cast

from django.db import OperationalError
from django.urls import resolve
from django.utils.functional import cached_property
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.viewsets import ViewSet

from jobs.api import errors
from jobs.api.body_cache import Rendered, bodies
from jobs.api.etags import etag, holds
from jobs.api.rendering import require_json, to_json
from jobs.api.request import ApiRequest, Receive, Scope, Send
from jobs.api.response import ApiResponse, Response
from jobs.api.tenant_renderer import TenantRenderer, count_presigned
from jobs.database.credentials import CREDENTIALS
from tenants.authentication import BearerAuthentication
from tenants.callers import Caller
from tenants.fast_settings import settings

# Cached because clients poll the same URLs, and resolving a route costs as much as authentication.
_resolved = lru_cache(maxsize=1024)(resolve)
_authentication = BearerAuthentication()


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application of ``/v1`` and ``/job``. Every error is JSON in the dialect of the address."""
    request = ApiRequest(scope, receive=receive)
    response = await serve_api_request(request)
    if request.rate:  # on every response that was counted
        response.headers.update(request.rate.headers)
    await response.send(send, request.method or "")


async def serve_api_request(request: ApiRequest) -> Response:
    """The response, errors too; those nobody foresaw have their trace in the log.

    If ``request.user`` is a :class:`Caller` already, the credential is not checked.
    """
    try:
        request.get_host()
        request.resolver_match = match = _resolved(request.path_info)
        async with asyncio.timeout(settings.DATABASE_DEADLINE_SECONDS) as request.deadline:
            return await match.func(request, *match.args, **match.kwargs)
    except TimeoutError:
        return error_response(request, OperationalError(f"no answer within {settings.DATABASE_DEADLINE_SECONDS} s"))
    except Exception as error:  # noqa: BLE001 - every error becomes JSON
        return error_response(request, error)


def error_response(request: ApiRequest, error: Exception) -> Response:
    """``error`` in the dialect of the address that was asked."""
    dialect = errors.V1 if request.path_info.startswith("/v1") else errors.FLEET
    return dialect.response(error, request.scope["gateway"]["request_id"])


class TenantViewSet(ViewSet):
    """Raises errors, for :func:`serve_api_request`. Actions are coroutines that return a :class:`Response`."""

    http_method_names = ["get", "head", "options"]
    # For the OpenAPI document. Dispatch calls the authentication itself and rejects everyone else.
    authentication_classes = [BearerAuthentication]
    permission_classes = [IsAuthenticated]
    request: ApiRequest  # type: ignore[assignment]
    caller: Caller

    async def dispatch(self, request: ApiRequest, *args: Any, **kwargs: Any) -> Response:  # type: ignore[override]
        """Negotiation, authentication, action: DRF's order, without its request, whose way here is all synchronous.

        DRF's permission and throttle classes are not called: ``jobs.api.checks`` rejects settings that name some.
        """
        self.negotiate(request)
        caller: Any = getattr(request, "user", None)
        if type(caller) is not Caller:
            caller = await _authentication.authenticate(request, CREDENTIALS, request.read_body)
            request.user = caller
        self.caller = caller
        if request.method in ("GET", "HEAD"):
            for method in self.action_map:
                # DRF keeps the bound action here: a cycle, which only the garbage collector would end.
                delattr(self, method)
            return await getattr(self, self.action_map["get"])(request, **kwargs)
        if request.method != "OPTIONS":
            raise MethodNotAllowed(request.method or "")
        about = self.metadata_class().determine_metadata(cast(Request, request), self)  # type: ignore[misc, operator]
        return self.respond(about, {"Allow": ", ".join(self.allowed_methods)})

    def negotiate(self, request: ApiRequest) -> None:
        """Raises NotAcceptable."""
        require_json(request)

    @cached_property
    def renderer(self) -> TenantRenderer:
        return TenantRenderer(self.request, self.caller)

    def validator(self, *parts: object, version: int | None = None, renderer: TenantRenderer | None = None) -> str:
        """The ``ETag`` of a response that depends on ``parts``, on the tenant, and on how it is rendered."""
        return etag(self.caller.tenant_id, (renderer or self.renderer).fingerprint, *parts, version=version)

    def rendered(
        self, renderer: TenantRenderer, render: Callable[[], Rendered], source_bytes: int, *source: Hashable
    ) -> Rendered:
        """What ``render`` returns or returned for the same ``source`` and an equal renderer.

        ``source`` is all that the response depends on beside the renderer, and has ``source_bytes`` of text.
        """
        key = (self.caller.tenant_id, renderer.fingerprint, *source)
        found = bodies.get(key)
        if found is not None:
            count_presigned(found.presigned)
            return found.rendered
        rendered = render()
        if not renderer.tally.omitted:  # what is left out is logged and counted at each request
            bodies.put(key, rendered, renderer.tally.presigned, source_bytes)
        return rendered

    @property
    def is_poll(self) -> bool:
        return self.request.header(b"if-none-match") is not None

    def not_modified(self, validator: str, headers: Mapping[str, str] | None = None) -> ApiResponse | None:
        """``304`` if ``If-None-Match`` matches, else None."""
        if_none_match = self.request.header(b"if-none-match")
        if if_none_match is None or not holds(if_none_match, validator):
            return None
        return ApiResponse(b"", {"ETag": validator, **(headers or {})}, status=304)

    def respond(self, body: Any, headers: Mapping[str, str] | None = None) -> ApiResponse:
        return ApiResponse(to_json(body), headers or {})
