"""What a page of the console waits for, where its caller asks with ``Prefer: wait=N``."""

from __future__ import annotations

from typing import NamedTuple

from django.http import HttpRequest, HttpResponse
from ulid import ULID


class WaitsFor(NamedTuple):
    """News of a job; both None for news that wakes nobody, so that the view has to look."""

    tenant_id: int | None = None
    job: ULID | None = None


def unchanged(request: HttpRequest, waits_for: WaitsFor) -> HttpResponse:
    """204: there is nothing new. The gateway (``jobs_gateway.page_waits``) runs the view again for a waiting caller."""
    if scope := getattr(request, "scope", None):  # none under WSGI
        scope["gateway"]["waits_for"] = waits_for
    return HttpResponse(status=204)
