"""What every view of the API has in common: read-only, for one tenant, JSON, cacheable by that tenant alone."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from jobs.egress.answer import COMMON_HEADERS, Answer
from jobs.egress.boundary import Boundary
from jobs.egress.conditional import etag, holds
from jobs.egress.rendering import require_json, to_json
from tenants.authentication import authenticated
from tenants.callers import Caller


class TenantViewSet(ViewSet):
    """Raises whatever goes wrong: who calls the view answers it, in the dialect of the address."""

    http_method_names = ["get", "head", "options"]
    request: HttpRequest  # type: ignore[assignment]
    caller: Caller

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """A read goes straight to its action, by the same checks in the same order: DRF's way there takes as long as
        the action itself.
        """
        if request.method not in ("GET", "HEAD"):
            return cast(HttpResponse, super().dispatch(request, *args, **kwargs))
        require_json(request)
        request.user = self.caller = authenticated(request)
        return cast(HttpResponse, getattr(self, self.action_map["get"])(request, **kwargs))

    def handle_exception(self, exc: Exception) -> NoReturn:
        raise exc

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
        """The ``ETag`` of an answer that depends on ``parts``, on the tenant, and on the links in force."""
        common = (self.caller.tenant_id, self.boundary.base_url, self.boundary.links.window)
        return etag(*common, *parts, version=version)

    @property
    def is_poll(self) -> bool:
        return "HTTP_IF_NONE_MATCH" in self.request.META

    def unchanged(self, validator: str) -> Answer | None:
        """``304``, where ``If-None-Match`` says that the caller has the answer already."""
        if not self.is_poll or not holds(self.request.META["HTTP_IF_NONE_MATCH"], validator):
            return None
        return Answer(b"", {"ETag": validator}, status=304)

    def answer(self, body: Any, **headers: str) -> Answer:
        """``body`` as JSON, at once: DRF's own Response would be rendered as if it were a template."""
        return Answer(to_json(body), headers)
