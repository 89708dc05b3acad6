"""Finds what support staff search for: job ids of both APIs, tenant slugs and shop domains."""

from __future__ import annotations

import uuid

from django.db.models import Q
from ulid import ULID

from jobs.ulid import parse_ulid
from tenants.models import Tenant


def parse_job_id(text: str) -> ULID | None:
    """Parses a job id: a ULID as in ``/v1``, or a UUID as in ``/job``. None for anything else."""
    try:
        return parse_ulid(text)
    except ValueError:
        pass
    try:
        return ULID.from_uuid(uuid.UUID(text)) if len(text) in (32, 36) else None
    except ValueError:
        return None


def find_tenant_ids(text: str) -> list[int]:
    """Ids of the tenants with this slug or shop domain; the domain may be given as a URL. One statement."""
    if "\0" in text:  # PostgreSQL cannot store NUL in text
        return []
    name = text.lower().removeprefix("https://").rstrip("/")
    return list(Tenant.objects.filter(Q(slug=text) | Q(shop_domain=name)).values_list("pk", flat=True))
