"""Keyset paging: a ``cursor`` holds the last job of a page, and is valid for the same tenant and filters only.

Its cost does not grow with depth, unlike that of an offset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from urllib.parse import urlencode

import orjson
from ulid import ULID

from jobs.api.cursors import BadCursor, decrypt_cursor, encrypt_cursor
from jobs.ulid import parse_ulid, ulid_text

# The filters of a list as they are written in a URL: names and values, always in the same order.
Filters = list[tuple[str, str]]


class Position(NamedTuple):
    """The last job of a page."""

    created_at: datetime
    public_id: ULID


def cursor_after(tenant_id: int, filters: Filters, created_at: str, public_id: str) -> str:
    """The cursor of a page that ends with the job of this time and this id in hexadecimal digits."""
    return encrypt_cursor([created_at, ulid_text(public_id), _digest(filters)], _bound_to(tenant_id))


def position_of(cursor: str, tenant_id: int, filters: Filters | None) -> Position:
    """Where the page of ``cursor`` begins. Without ``filters`` the cursor may be of any list of the tenant.

    Raises BadCursor.
    """
    created_at, public_id, digest = decrypt_cursor(cursor, _bound_to(tenant_id))
    if filters is not None and digest != _digest(filters):
        raise BadCursor
    return Position(datetime.fromisoformat(created_at), parse_ulid(public_id))


class PagedRow(Protocol):
    """The columns that a cursor needs. SummaryRow has them."""

    @property
    def public_id(self) -> str: ...

    @property
    def created_at(self) -> str: ...


def next_link(url: str, tenant_id: int, filters: Filters, limit: int, rows: Sequence[PagedRow]) -> dict[str, str]:
    """The ``Link`` header to the page after ``rows``; no header where they do not fill a page."""
    if len(rows) < limit:
        return {}
    cursor = cursor_after(tenant_id, filters, rows[-1].created_at, rows[-1].public_id)
    query = urlencode([("limit", limit), ("cursor", cursor), *filters])
    return {"Link": f'<{url}?{query}>; rel="next"'}


def _bound_to(tenant_id: int) -> object:
    return ["/v1/jobs", tenant_id]


def _digest(filters: Filters) -> str:
    return hashlib.blake2b(orjson.dumps(filters), digest_size=8).hexdigest()
