"""What every view of the API has in common: read-only, for one tenant, JSON, cacheable by that tenant alone."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from django.http import HttpResponse
from django.utils.functional import cached_property
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from jobs.egress import errors
from jobs.egress.boundary import Boundary
from jobs.egress.conditional import etag, holds
from jobs.egress.rendering import to_json
from tenants.callers import Caller

HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}


@cache
def _made(classes: tuple[type, ...]) -> list[Any]:
    """One of each class, for all requests: none of them keeps anything about one."""
    return [each() for each in classes]


class TenantViewSet(ViewSet):
    dialect = errors.V1
    http_method_names = ["get", "head", "options"]

    @cached_property
    def caller(self) -> Caller:
        return cast(Caller, self.request.user)

    @cached_property
    def boundary(self) -> Boundary:
        return Boundary(self.request, self.caller)

    @property
    def default_response_headers(self) -> dict[str, str]:
        return dict(HEADERS)

    def get_authenticators(self) -> list[Any]:
        return _made(tuple(self.authentication_classes))

    def get_permissions(self) -> list[Any]:
        return _made(tuple(self.permission_classes))

    def get_renderers(self) -> list[Any]:
        return _made(tuple(self.renderer_classes))

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

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        if type(response) is HttpResponse:  # it was made here, with all it needs
            return response
        return super().finalize_response(request, response, *args, **kwargs)

    def unchanged(self, validator: str) -> HttpResponse | None:
        """``304``, where ``If-None-Match`` says that the caller has the answer already."""
        if not self.is_poll or not holds(self.request.META["HTTP_IF_NONE_MATCH"], validator):
            return None
        response = HttpResponse(status=304, headers={"ETag": validator, **HEADERS})
        del response.headers["Content-Type"]  # where it would be that of the answer which is not sent
        return response

    def answer(self, body: Any, **headers: str) -> HttpResponse:
        """``body`` as JSON, at once: DRF's own Response would be rendered as if it were a template."""
        return HttpResponse(to_json(body), content_type="application/json", headers=headers | HEADERS)
