"""The OpenAPI document, its address and its pages. Each dialect's ``schema.py`` describes its operations."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from django.http import HttpResponse
from django.views.generic import TemplateView
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from rest_framework.exceptions import MethodNotAllowed

from jobs.api.etags import etag, holds
from jobs.api.rendering import require_json, to_json
from jobs.api.request import ApiRequest
from jobs.api.response import ApiResponse
from jobs.models import JobType

# Parameters by their name, responses by their status.
SHARED = {
    "parameters": {
        "public_id": "PublicId",
        "X-Shopify-Hmac-Sha256": "ShopifyHmac",
        "Prefer": "Prefer",
        "Last-Event-ID": "LastEventId",
        "If-None-Match": "IfNoneMatch",
    },
    "responses": {
        "304": "NotModified",
        "401": "Unauthenticated",
        "404": "JobNotFound",
        "406": "NotAcceptable",
        "422": "Invalid",
        "429": "RateLimited",
        "503": "Unavailable",
    },
}


class BearerScheme(OpenApiAuthenticationExtension):
    target_class = "tenants.authentication.BearerAuthentication"
    name = "bearerAuth"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "A gateway token or a Shopify session token."}


def as_published(result: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Postprocessing hook: the document in the form of the published contract."""
    result["security"] = [{BearerScheme.name: []}]
    result["servers"] = [{"url": "/"}]
    components = result["components"]
    components["schemas"]["CtmJobType"] = {"type": "string", "enum": JobType.values}
    for operation in (operation for path in result["paths"].values() for operation in path.values()):
        operation["parameters"] = [
            shared(components, "parameters", parameter["name"], {"required": False, **parameter})
            for parameter in operation["parameters"]
        ]
        for status, response in operation["responses"].items():
            operation["responses"][status] = shared(components, "responses", status, response)
    for schema in components["schemas"].values():
        for name, described in schema.get("properties", {}).items():
            schema["properties"][name] = null_as_alternative(described)
    return result


def shared(components: dict[str, Any], kind: str, key: str, part: dict[str, Any]) -> dict[str, Any]:
    """A reference to the component that ``part`` is; ``part`` itself where it is one operation's own."""
    name = SHARED[kind].get(key)
    if name is None or components.setdefault(kind, {}).setdefault(name, part) != part:
        return part
    return {"$ref": f"#/components/{kind}/{name}"}


def null_as_alternative(schema: dict[str, Any]) -> dict[str, Any]:
    """``anyOf`` with null, where drf-spectacular writes two types or ``oneOf``; anything at all may be null anyway."""
    description = {"description": schema.pop("description")} if "description" in schema else {}
    match schema:
        case {"type": [kind, "null"]}:
            schema = {"anyOf": [schema | {"type": kind}, {"type": "null"}]}
        case {"oneOf": [other, {"type": "null"}]}:
            schema = {"anyOf": [other, {"type": "null"}]} if other else {}
    return schema | description


@cache
def document() -> tuple[bytes, str]:
    """The document as JSON and its ``ETag``; made in a tenth of a second."""
    made = SchemaGenerator().get_schema(public=True)
    return to_json(made), etag(made)


_lock = asyncio.Lock()  # drf-spectacular loads its extensions at its first use, which fails for two threads


async def openapi_document(request: ApiRequest) -> ApiResponse:
    """For anyone, so that tools can read it before they have a token."""
    require_json(request)
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        raise MethodNotAllowed(request.method or "")
    async with _lock:
        body, validator = await asyncio.to_thread(document)
    headers = {"ETag": validator, "Cache-Control": "public, max-age=300", "Vary": "Accept"}
    if request.method == "OPTIONS":
        return ApiResponse(b"{}", headers | {"Allow": "GET, HEAD, OPTIONS"})
    if holds(request.header(b"if-none-match") or "", validator):
        return ApiResponse(b"", headers, 304)
    return ApiResponse(body, headers)


class DocsPage(TemplateView):
    """A page that shows the document; its policy lets the browser load only what the gateway serves.

    ``styles`` are the hashes of what the page's library writes into it, empty or not; the rest is in files.
    """

    styles = ""

    def render_to_response(self, context: dict[str, Any], **kwargs: Any) -> HttpResponse:
        policy = (
            f"default-src 'self'; style-src 'self' {self.styles}; img-src 'self' data:; worker-src blob:; "
            "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        return super().render_to_response(context, headers={"Content-Security-Policy": policy}, **kwargs)


swagger = DocsPage.as_view(template_name="docs/swagger.html")
redoc = DocsPage.as_view(
    template_name="docs/redoc.html",
    # An empty element, which it fills by script, and the style sheet of its scroll bars.
    styles="'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' "
    "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='",
)
