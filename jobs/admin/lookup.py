"""What support pastes into the search box: ids of both dialects, tenant slugs, shop domains."""

from __future__ import annotations

import uuid

from django.db.models import Q
from ulid import ULID

from jobs.ulid import parse_ulid
from tenants.models import Tenant


def parse_job_id(text: str) -> ULID | None:
    """The job id that ``text`` is: a ULID as on ``/v1``, or a UUID as on ``/job``; None for anything else."""
    try:
        return parse_ulid(text)
    except ValueError:
        pass
    try:
        return ULID.from_uuid(uuid.UUID(text)) if len(text) in (32, 36) else None
    except ValueError:
        return None


def find_tenant_ids(text: str) -> list[int]:
    """The tenants with this slug or this shop domain, which may be pasted as an address: one statement."""
    if "\0" in text:  # PostgreSQL has no such text
        return []
    name = text.lower().removeprefix("https://").rstrip("/")
    return list(Tenant.objects.filter(Q(slug=text) | Q(shop_domain=name)).values_list("pk", flat=True))
