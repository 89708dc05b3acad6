"""Keyset paging: a ``cursor`` says where a page ended, bound to the tenant and the filters it was read with.

Its cost does not grow with depth, as an offset's does. It grants nothing, since the scope of the caller stays what it
is; the checksum is there so that a cursor of another listing is refused, instead of giving a page of neither.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode

from django.db.models import TextChoices
from ulid import ULID

from jobs.models import JobType

_CHECKSUM_BYTES = 8


class Filters(NamedTuple):
    """What narrows a listing, and what a cursor of it is bound to, beside the tenant."""

    types: list[str]  # each once and in one order; none where that would be all of them
    status: str | None
    created_after: datetime | None

    @classmethod
    def of(cls, job_type: list[JobType], status: TextChoices | None, created_after: datetime | None) -> Self:
        types = sorted({member.value for member in job_type})
        return cls([] if len(types) == len(JobType) else types, status and status.value, created_after)


class Position(NamedTuple):
    """The last job of a page."""

    created_at: datetime
    public_id: ULID


def _checksum(place: bytes, listing: object) -> bytes:
    return hashlib.blake2b(repr(listing).encode() + place, digest_size=_CHECKSUM_BYTES).digest()


def _cursor(public_id: str, created_at: str, listing: object) -> str:
    place = f"{public_id} {created_at}".encode()
    return base64.urlsafe_b64encode(_checksum(place, listing) + place).decode()


def position_of(cursor: str, listing: object) -> Position:
    """Where the page of ``cursor`` begins.

    Raises ValueError or OverflowError unless :func:`next_link` gave it, to the letter, for ``listing``: tenant and
    filters. Where there is no such listing (None), it is enough that another may have given it.
    """
    place = base64.b64decode(cursor, altchars=b"-_", validate=True)[_CHECKSUM_BYTES:].decode("ascii")
    public_id, created_at = place.split(" ")
    if listing and cursor != _cursor(public_id, created_at, listing):
        raise ValueError(cursor)
    return Position(datetime.fromisoformat(created_at).astimezone(UTC), ULID.from_hex(public_id.replace("-", "")))


def next_link(url: str, tenant_id: int, filters: Filters, limit: int, rows: list[tuple[Any, ...]]) -> dict[str, str]:
    """The ``Link`` header that leads past ``rows``; none after a page that is not full, which is the last."""
    if len(rows) < limit:
        return {}
    public_id, _, _, created_at = rows[-1]
    cursor = _cursor(public_id, created_at, (tenant_id, filters))
    narrowed = ""
    if any(filters):
        query = {
            "job_type": filters.types,
            "status": filters.status,
            "created_after": filters.created_after and filters.created_after.isoformat(),
        }
        narrowed = "&" + urlencode({name: value for name, value in query.items() if value}, doseq=True)
    return {"Link": f'<{url}?limit={limit}&cursor={quote(cursor)}{narrowed}>; rel="next"'}
