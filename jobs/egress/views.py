"""What every view of the API has in common: read-only, for one tenant, JSON, cacheable by that tenant alone."""

from __future__ import annotations

from typing import Any, cast

from django.utils.functional import cached_property
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from jobs.egress import errors
from jobs.egress.boundary import Boundary
from jobs.egress.conditional import etag, holds
from tenants.callers import Caller


class TenantViewSet(ViewSet):
    dialect = errors.V1
    http_method_names = ["get", "head", "options"]

    @property
    def caller(self) -> Caller:
        return cast(Caller, self.request.user)

    @cached_property
    def boundary(self) -> Boundary:
        return Boundary(self.request, self.caller)

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {"Cache-Control": "private, no-cache", "Vary": "Authorization"}

    def get_exception_handler(self) -> Any:
        return self.dialect.response

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

    def unchanged(self, validator: str) -> Response | None:
        """``304``, where ``If-None-Match`` says that the caller has the answer already."""
        if not self.is_poll or not holds(self.request.META["HTTP_IF_NONE_MATCH"], validator):
            return None
        return Response(status=304, headers={"ETag": validator})

    def answer(self, body: Any, validator: str, headers: dict[str, str] | None = None) -> Response:
        return Response(body, headers={"ETag": validator, **(headers or {})})
