"""The API's responses as a tenant sees them, for the section “As the tenant sees it” of a job's page."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, cast

from asgiref.sync import async_to_sync
from django.http import HttpRequest
from django.utils.safestring import SafeString

from jobs.admin.json_html import JSONTrees, json_text
from jobs.api.request import ApiRequest
from jobs.api.response import ApiResponse
from jobs.api.views import serve_api_request
from tenants.callers import Caller
from tenants.models import Tenant

# Of each response on a page.
MAX_CHARACTERS = 2**22


class TenantResponse(NamedTuple):
    """A response of the API. ``text`` is its body, ``tree`` the same as HTML: None where that would be too large.

    Of a body of more than ``MAX_CHARACTERS`` the text is the beginning.
    """

    path: str
    status: int
    etag: str
    tree: SafeString | None
    text: str
    characters: int

    @classmethod
    def make(cls, path: str, body: Any, status: int = 200, etag: str = "") -> TenantResponse:
        text = json_text(body)
        return cls(path, status, etag, JSONTrees().tree(body, open_levels=3), text[:MAX_CHARACTERS], len(text))

    @classmethod
    def of(cls, path: str, response: ApiResponse) -> TenantResponse:
        return cls.make(path, json.loads(response.body), response.status, response.headers.get("ETag", ""))

    @property
    def is_cut(self) -> bool:
        return self.characters > len(self.text)


def caller_for(tenant: Tenant) -> Caller:
    """The caller that the API uses for a request with a valid credential of ``tenant``."""
    return Caller(tenant.pk, tenant.slug, tenant.storage_prefix, None)


def get_as_tenant(tenant: Tenant, path: str, request: HttpRequest) -> TenantResponse:
    """The API's response to ``GET path`` by ``tenant``, under the scheme and host of ``request``.

    The API handles the request in this process, without authentication: ``tenant`` is set as the caller.
    """
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "scheme": request.scheme,
        "headers": [(b"host", request.get_host().encode("latin-1"))],
        "gateway": {"request_id": request_id_of(request)},
    }
    inner = ApiRequest(scope)
    inner.user = caller_for(tenant)  # type: ignore[assignment]
    response = cast(ApiResponse, async_to_sync(serve_api_request)(inner))  # which asked for no stream
    return TenantResponse.of(path, response)


def request_id_of(request: HttpRequest) -> str | None:
    """None under WSGI."""
    found: str | None = getattr(request, "scope", {}).get("gateway", {}).get("request_id")
    return found
