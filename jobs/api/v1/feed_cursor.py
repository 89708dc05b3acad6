"""The feed's cursor: a position of the tenant, and which event was the latest up to there.

A store that was restored, or a primary that lost commits, may have another event there, or none yet. Then the cursor no
longer stands for what its owner has seen.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import orjson

from jobs.api.cursors import BadCursor, decrypt_cursor, encrypt_cursor
from jobs.database.events import EventAtPosition
from jobs.ulid import ulid_text


class FeedFilter(NamedTuple):
    """Which events are in a feed: in ascending order, each once; empty for all."""

    job_types: tuple[str, ...]
    event_types: tuple[str, ...]


class FeedPlace(NamedTuple):
    """Where a reader of the feed is: everything up to ``position`` has been examined."""

    position: int
    # The latest event up to the position, and its fingerprint; 0 and empty where there was none.
    event_position: int
    fingerprint: str

    def holds(self, last_position: int, latest: EventAtPosition | None) -> bool:
        """Whether the store still has what the reader has seen.

        ``last_position`` is the tenant's, ``latest`` the latest event up to ``position``. An event that was pruned
        leaves one before it as the latest, or none.
        """
        if last_position < self.position:
            return False
        if latest is None or latest.position < self.event_position:
            return True
        return latest.position == self.event_position and fingerprint_of(latest) == self.fingerprint


START = FeedPlace(0, 0, "")


def place_at(position: int, latest: EventAtPosition | None) -> FeedPlace:
    """The place at ``position``, where ``latest`` is the latest event up to there."""
    if latest is None:
        return FeedPlace(position, 0, "")
    return FeedPlace(position, latest.position, fingerprint_of(latest))


def fingerprint_of(event: EventAtPosition) -> str:
    identity = f"{ulid_text(event.public_id)}-{event.seq}"
    return hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()


def cursor_of(place: FeedPlace, tenant_id: int, filters: FeedFilter) -> str:
    return encrypt_cursor([*place, _digest(filters)], _bound_to(tenant_id))


def place_of(cursor: str, tenant_id: int, filters: FeedFilter | None) -> FeedPlace:
    """The place of a cursor; without ``filters``, whatever feed of the tenant's it is of. Raises BadCursor."""
    *place, digest = decrypt_cursor(cursor, _bound_to(tenant_id))
    if filters is not None and digest != _digest(filters):
        raise BadCursor
    return FeedPlace(*place)


def _bound_to(tenant_id: int) -> object:
    return ["/v1/events", tenant_id]


@lru_cache(maxsize=256)  # each event of a stream has a cursor
def _digest(filters: FeedFilter) -> str:
    return hashlib.blake2b(orjson.dumps(tuple(filters)), digest_size=8).hexdigest()
