"""Keyset paging: a ``cursor`` says where a page ended, bound to the tenant and the filters it was read with.

Its cost does not grow with depth, as an offset's does. It grants nothing, since the scope of the caller stays what it
is; the checksum is there so that a cursor of another listing is refused, instead of giving a page of neither.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ulid import ULID

from jobs.egress.errors import Invalid
from jobs.v1.params import ListParams

_CHECKSUM_BYTES = 8


class Position(NamedTuple):
    """The last job of a page."""

    created_at: datetime
    public_id: ULID


def _checksum(place: bytes, params: ListParams, tenant_id: int) -> bytes:
    listing = repr((tenant_id, params.filters)).encode()
    return hashlib.blake2b(listing + place, digest_size=_CHECKSUM_BYTES).digest()


def position_of(params: ListParams, tenant_id: int) -> Position | None:
    """Where the page asked for begins, None for the first.

    Raises Invalid (422) for a cursor that was altered or belongs to another listing.
    """
    if params.cursor is None:
        return None
    try:
        raw = base64.b64decode(params.cursor, altchars=b"-_", validate=True)
        checksum, place = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
        if checksum == _checksum(place, params, tenant_id):
            public_id, created_at = place.decode("ascii").split(" ")
            return Position(datetime.fromisoformat(created_at), ULID.from_hex(public_id.replace("-", "")))
    except ValueError:
        pass  # told as any other cursor that this listing did not give
    message = "Input should be a cursor that this listing gave, sent with the same filters"
    raise Invalid([{"loc": ["query", "cursor"], "msg": message, "type": "value_error"}])


def next_link(url: str, params: ListParams, tenant_id: int, rows: list[tuple[Any, ...]]) -> dict[str, str]:
    """The ``Link`` header that leads past ``rows``; none after a page that is not full, which is the last."""
    if len(rows) < params.limit:
        return {}
    public_id, _, _, created_at = rows[-1]
    place = f"{public_id} {created_at}".encode()
    query = {
        "limit": params.limit,
        "cursor": base64.urlsafe_b64encode(_checksum(place, params, tenant_id) + place).decode(),
        "job_type": params.types,
        "status": params.status and params.status.value,
        "created_after": params.created_after and params.created_after.isoformat(),
    }
    given = {name: value for name, value in query.items() if value}
    return {"Link": f'<{url}?{urlencode(given, doseq=True)}>; rel="next"'}
