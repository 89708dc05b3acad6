"""What every view of the API has in common: read-only, for one tenant, JSON, cacheable by that tenant alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from django.http import HttpRequest, HttpResponse
from django.template.response import SimpleTemplateResponse
from django.urls import resolve
from django.utils.functional import cached_property
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from jobs.api import errors
from jobs.api.answer import COMMON_HEADERS, Answer
from jobs.api.etags import etag, holds
from jobs.api.rendering import require_json, to_json
from jobs.api.tenant_renderer import Boundary
from tenants.authentication import authenticated
from tenants.callers import Caller

# Clients poll the same addresses over and over, and finding a route takes as long as checking the caller.
_resolved = lru_cache(maxsize=1024)(resolve)


def answer(request: HttpRequest) -> HttpResponse:
    """What the API answers, errors too: those in the dialect of the address, with their trace in the log.

    ``request.user`` is the caller where it is a :class:`Caller` already, else whoever the credential stands for.
    """
    path = request.path_info
    try:
        request.get_host()
        request.resolver_match = match = _resolved(path)
        response: HttpResponse = match.func(request, *match.args, **match.kwargs)
        if isinstance(response, SimpleTemplateResponse):
            response.render()
            response.headers["Content-Length"] = str(len(response.content))
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets JSON
        dialect = errors.V1 if path.startswith("/v1") else errors.FLEET
        return dialect.answer(error, request.request_id)  # type: ignore[attr-defined]
    return response


class TenantViewSet(ViewSet):
    """Raises whatever goes wrong, for :func:`answer`."""

    http_method_names = ["get", "head", "options"]
    request: HttpRequest  # type: ignore[assignment]
    caller: Caller

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """A read goes straight to its action, by the same checks in the same order: DRF's way there takes as long as
        the action itself.
        """
        if request.method not in ("GET", "HEAD"):
            return cast(HttpResponse, super().dispatch(request, *args, **kwargs))
        require_json(request)
        if type(getattr(request, "user", None)) is not Caller:
            request.user = authenticated(request)  # type: ignore[assignment]
        self.caller = cast(Caller, request.user)
        return cast(HttpResponse, getattr(self, self.action_map["get"])(request, **kwargs))

    @cached_property
    def boundary(self) -> Boundary:
        return Boundary(self.request, self.caller)

    @property
    def default_response_headers(self) -> dict[str, str]:
        return dict(COMMON_HEADERS)

    def options(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().options(request, *args, **kwargs)
        response.headers["Allow"] = ", ".join(self.allowed_methods)
        return response

    def validator(self, *parts: object, version: int | None = None) -> str:
        """The ``ETag`` of an answer that depends on ``parts``, on the tenant, and on how it is rendered."""
        return etag(self.caller.tenant_id, self.boundary.fingerprint, *parts, version=version)

    @property
    def is_poll(self) -> bool:
        return "HTTP_IF_NONE_MATCH" in self.request.META

    def unchanged(self, validator: str, headers: Mapping[str, str] | None = None) -> Answer | None:
        """``304``, where ``If-None-Match`` says that the caller has the answer already."""
        if not self.is_poll or not holds(self.request.META["HTTP_IF_NONE_MATCH"], validator):
            return None
        return Answer(b"", {"ETag": validator, **(headers or {})}, status=304)

    def answer(self, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """``body`` as JSON, at once: DRF's own Response would be rendered as if it were a template."""
        return Answer(to_json(body), headers or {})
