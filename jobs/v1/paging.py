"""Keyset paging: the ``cursor`` says where a page ended, bound to the tenant and the filters it was read with.

Its cost does not grow with depth, as an offset's does. It grants nothing: the scope of the caller stays what it is. The checksum is there so that a cursor of another listing
is refused instead of quietly giving a page that belongs to neither.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ulid import ULID

from jobs.egress.errors import Invalid
from jobs.ulid import ulid_text
from jobs.v1.params import ListParams

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLACE = struct.Struct(">q16s")  # microseconds since 1970, the id
_CHECKSUM_BYTES = 8


class Position(NamedTuple):
    """The last job of a page."""

    created_at: datetime
    public_id: ULID


def _checksum(place: bytes, listing: object) -> bytes:
    return hashlib.blake2b(repr(listing).encode() + place, digest_size=_CHECKSUM_BYTES).digest()


def _write(position: Position, listing: object) -> str:
    place = _PLACE.pack((position.created_at - _EPOCH) // timedelta(microseconds=1), position.public_id.bytes)
    return base64.urlsafe_b64encode(place + _checksum(place, listing)).decode()


def _read(cursor: str, listing: object) -> Position:
    try:
        raw = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        place, checksum = raw[: _PLACE.size], raw[_PLACE.size :]
        microseconds, public_id = _PLACE.unpack(place)
        if checksum == _checksum(place, listing):
            return Position(_EPOCH + timedelta(microseconds=microseconds), ULID(public_id))
    except (UnicodeEncodeError, binascii.Error, struct.error, OverflowError):
        pass  # told as any other cursor that this listing did not give
    message = "Input should be a cursor that this listing gave, sent with the same filters"
    raise Invalid([{"loc": ["query", "cursor"], "msg": message, "type": "value_error"}])


def position_of(params: ListParams, tenant_id: int) -> Position | None:
    """Where the page asked for begins, None for the first.

    Raises Invalid (422) for a cursor that was altered or belongs to another listing.
    """
    return None if params.cursor is None else _read(params.cursor, (tenant_id, params.filters))


def next_link(url: str, params: ListParams, tenant_id: int, rows: list[tuple[Any, ...]]) -> dict[str, str]:
    """The ``Link`` header that leads past ``rows``; none after a page that is not full, which is the last."""
    if len(rows) < params.limit:
        return {}
    public_id, _, _, created_at = rows[-1]
    last = Position(datetime.fromisoformat(created_at), ULID.from_str(ulid_text(public_id)))
    query = {
        "job_type": params.types,
        "status": params.status and params.status.value,
        "created_after": params.created_after and params.created_after.isoformat(),
        "limit": params.limit,
        "cursor": _write(last, (tenant_id, params.filters)),
    }
    given = {name: value for name, value in query.items() if value}
    return {"Link": f'<{url}?{urlencode(given, doseq=True)}>; rel="next"'}
