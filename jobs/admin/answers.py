"""“As the tenant sees it”: what the API answers the tenant, asked of the API itself."""

from __future__ import annotations

import io
import json
from typing import NamedTuple

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest
from django.utils.safestring import SafeString

from jobs.admin.json_view import folded
from jobs.api.views import answer
from tenants.callers import Caller
from tenants.models import Tenant


class Answer(NamedTuple):
    path: str
    status: int
    etag: str
    body: SafeString
    text: str


def caller_of(tenant: Tenant) -> Caller:
    """The caller that the API would make of a credential of ``tenant``."""
    return Caller(tenant.pk, tenant.slug, tenant.storage_prefix, None)


def as_tenant(tenant: Tenant, path: str, request: HttpRequest) -> Answer:
    """What ``GET path`` answers ``tenant`` right now, at the address that ``request`` came to.

    The console knows no view of the API, only addresses: they are asked in this process as the server would ask, for
    the tenant as a caller who was already let in.
    """
    inner = WSGIRequest(
        {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "HTTP_HOST": request.get_host(),
            "SERVER_NAME": request.META.get("SERVER_NAME", ""),
            "SERVER_PORT": request.META.get("SERVER_PORT", ""),
            "wsgi.url_scheme": request.scheme,
            "wsgi.input": io.BytesIO(),
        }
    )
    inner.user = caller_of(tenant)  # type: ignore[assignment]
    inner.request_id = request.request_id  # type: ignore[attr-defined]
    response = answer(inner)
    body = json.loads(response.content)
    text = json.dumps(body, indent=2, ensure_ascii=False)
    return Answer(path, response.status_code, response.headers.get("ETag", ""), folded(body, open_levels=3), text)
