"""Finds what support staff search for, each kind by an index: jobs, tenants and tokens.

A job by its id in either API, by the beginning of its id, or by an id anywhere in a pasted text, such as a URL. A
tenant by its slug, name or shop domain or the beginning of one, in upper or lower case. A token by its prefix or by the
beginning of its label.
"""

from __future__ import annotations

import re
import uuid
from typing import NamedTuple

from django.db.models import Q, QuerySet
from ulid import ULID

from jobs.models import Job
from jobs.ulid import parse_ulid
from tenants.models import ApiToken, Tenant

# Rows of each kind that a search shows.
MAX_FOUND = 10
# Shorter beginnings of an id match too many jobs.
MIN_ID_LENGTH = 6
# Longer texts are pasted logs: ids are looked for in their beginning only.
MAX_TEXT = 20_000

_ULID = re.compile(r"(?<![0-9A-Za-z])[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}(?![0-9A-Za-z])")
_UUID = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
    r"|(?<![0-9A-Za-z])[0-9A-Fa-f]{32}(?![0-9A-Za-z])"
)
_TOKEN = re.compile(r"jgw_([a-z0-9]{12})(?![a-z0-9])")
_ULID_START = re.compile(r"[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]*")
_UUID_START = re.compile(r"[0-9A-Fa-f-]+")


class Found(NamedTuple):
    """What a search found: at most ``MAX_FOUND`` rows of each kind."""

    jobs: list[Job]
    tenants: list[Tenant]
    tokens: list[ApiToken]

    @property
    def total(self) -> int:
        return len(self.jobs) + len(self.tenants) + len(self.tokens)


def search(text: str, *, with_tokens: bool) -> Found:
    """What ``text`` names. At most three statements, each of which reads a few rows of an index.

    An id or a token in the text ends the search: what else the text has is not looked at. So does a tenant's whole slug
    or shop domain.
    """
    text = text[:MAX_TEXT].strip()
    nothing = Found([], [], [])
    if not text or "\0" in text:  # PostgreSQL cannot store NUL in text
        return nothing
    jobs = Job.all_tenants.select_related("tenant").defer("request")
    if ids := ids_in(text):
        return nothing._replace(jobs=list(jobs.filter(pk__in=ids).newest_first()))
    if token := _TOKEN.search(text):
        tokens = ApiToken.objects.filter(prefix=token[1]) if with_tokens else ApiToken.objects.none()
        return nothing._replace(tokens=list(tokens.select_related("tenant").defer("token_hash")))
    tenants = list(tenants_like(text)[:MAX_FOUND])
    domain = shop_domain_in(text)
    if exact := [tenant for tenant in tenants if text.lower() == tenant.slug.lower() or domain == tenant.shop_domain]:
        return nothing._replace(tenants=exact)
    return Found(
        list(jobs_beginning_with(jobs, text)[:MAX_FOUND]),
        tenants,
        list(tokens_like(text)[:MAX_FOUND]) if with_tokens else [],
    )


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


def ids_in(text: str) -> list[ULID]:
    """The first ``MAX_FOUND`` job ids in ``text``."""
    found = [parse_job_id(match[0]) for pattern in (_ULID, _UUID) for match in pattern.finditer(text)]
    return list(dict.fromkeys(each for each in found if each))[:MAX_FOUND]


def jobs_beginning_with(jobs: QuerySet[Job], text: str) -> QuerySet[Job]:
    """Those of ``jobs`` whose id begins with ``text``, a part of a ULID or of a UUID."""
    ranges = Q(pk__in=[])
    if len(text) < MIN_ID_LENGTH:
        return jobs.none()
    if _ULID_START.fullmatch(text) and len(text) < 26:
        low, high = (parse_ulid(text.ljust(26, filler)) for filler in ("0", "Z"))
        ranges |= Q(pk__gte=low, pk__lte=high)
    digits = text.replace("-", "")
    if _UUID_START.fullmatch(text) and MIN_ID_LENGTH <= len(digits) < 32:
        low, high = (ULID.from_uuid(uuid.UUID(digits.ljust(32, filler))) for filler in ("0", "f"))
        ranges |= Q(pk__gte=low, pk__lte=high)
    return jobs.filter(ranges).order_by("pk")


def shop_domain_in(text: str) -> str:
    """The host of ``text``, a URL or a host, as shop domains are stored."""
    return text.lower().partition("://")[2].partition("/")[0] if "://" in text else text.lower().rstrip("/")


def tenants_like(text: str) -> QuerySet[Tenant]:
    """Tenants whose slug, name or shop domain begins with ``text``."""
    named = Q(slug__istartswith=text) | Q(name__istartswith=text) | Q(shop_domain__istartswith=shop_domain_in(text))
    return Tenant.objects.filter(named).order_by("slug")


def tokens_like(text: str) -> QuerySet[ApiToken]:
    """Tokens with this prefix, or whose label begins with ``text``."""
    named = Q(prefix=text.removeprefix("jgw_")) | Q(label__istartswith=text)
    return ApiToken.objects.filter(named).select_related("tenant").defer("token_hash").order_by("-created_at", "-pk")


def find_tenant_ids(slug: str) -> list[int]:
    """The id of the tenant with this slug, in a list. One statement."""
    if "\0" in slug:  # PostgreSQL cannot store NUL in text
        return []
    return list(Tenant.objects.filter(slug__iexact=slug).values_list("pk", flat=True))
