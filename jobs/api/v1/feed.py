"""The feed: every public event of a tenant's jobs, in the order of their positions."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import orjson
from django.conf import settings
from rest_framework import exceptions

from jobs.api.following.streams import Piece, event_frame, shared_reads, unix_time
from jobs.api.following.views import FollowingViewSet
from jobs.api.rendering import to_json
from jobs.api.tenant_renderer import TenantRenderer
from jobs.api.v1 import queries
from jobs.api.v1.feed_cursor import FeedFilter, FeedPlace, cursor_of, place_at
from jobs.api.v1.serializers import FeedEventSerializer, FeedResponseSerializer
from jobs.database.events import EventAtPosition, EventRow, FeedRow
from jobs.database.replica import primary_caught_up

PAGE_OF_STREAM = 100


class CursorGone(exceptions.APIException):
    """The store no longer has what the cursor's owner has seen."""

    status_code = 410
    default_code = "CURSOR_GONE"
    default_detail = (
        "The store is not the one that gave this cursor: it was restored, or lost its last events. Start again without "
        "a cursor, and drop the events that you have by their id."
    )


class FeedPage(NamedTuple):
    rows: list[FeedRow]
    place: FeedPlace  # after the last position that was examined
    has_more: bool
    document: str | None  # that it was read from


class Feed(NamedTuple):
    """The feed of one tenant through one filter."""

    tenant_id: int
    filters: FeedFilter

    async def end(self) -> FeedPlace:
        """After everything there is, by the primary."""
        document = await queries.FEED_END.read_document({"tenant": self.tenant_id}, settings.API_DATABASE)
        row = queries.FeedEndRow.parse(document)
        return place_at(row.last_position, _event(row.at_end))

    async def page(self, place: FeedPlace, limit: int, *, latest: bool = False) -> FeedPage:
        """What follows ``place``; with ``latest`` as the primary has it. Raises CursorGone.

        That nothing follows, and that the cursor is gone, is the primary's word.
        """
        query = queries.FEEDS[bool(self.filters.job_types), bool(self.filters.event_types)]
        values = {
            "tenant": self.tenant_id,
            "after": place.position,
            "job_types": _listed(self.filters.job_types),
            "event_types": _listed(self.filters.event_types),
        }
        if latest:
            document = await query.fetch_latest_document(values, limit)
        else:
            document = await query.fetch_document(values, lambda document: has_events(document, place), limit)
        row = queries.FeedPageRow.parse(document)
        if settings.API_REPLICA and row.last_position < place.position:
            read = partial(query.read_document, values, limit=limit)
            document = await primary_caught_up(read, lambda document: position_of(document) >= place.position)
            row = queries.FeedPageRow.parse(document)
        if not place.holds(row.last_position, _event(row.at_cursor)):
            raise CursorGone
        rows = [FeedRow._make(each) for each in row.events if each is not None]
        if len(rows) < len(row.events) or len(rows) == limit:
            after = place_after(rows[-1])
        else:
            after = place_at(min(row.last_examined, row.last_position), _event(row.at_end))
        return FeedPage(rows, after, after.position < row.last_position, document)

    def cursor(self, place: FeedPlace) -> str:
        return cursor_of(place, self.tenant_id, self.filters)

    def body(self, page: FeedPage, renderer: TenantRenderer) -> dict[str, Any]:
        """``FeedResponse``."""
        events = self._events(page, renderer)
        return {"events": events, "cursor": self.cursor(page.place), "has_more": page.has_more}

    def frames(self, page: FeedPage, renderer: TenantRenderer) -> bytes:
        """The events of a page as they are streamed."""
        return b"".join(
            event_frame(self.cursor(place_after(row)), to_json(event))
            for row, event in zip(page.rows, self._events(page, renderer), strict=True)
        )

    def _events(self, page: FeedPage, renderer: TenantRenderer) -> list[dict[str, Any]]:
        if page.document is not None:
            renderer = renderer.for_document(page.document, FeedResponseSerializer.artifact_rows(page.rows))
        return [FeedEventSerializer.represent(row, renderer) for row in page.rows]


class FeedSource:
    """The stream of a feed."""

    def __init__(self, view: FollowingViewSet, feed: Feed, place: FeedPlace) -> None:
        self.view = view
        self.feed = feed
        self.place = place

    async def read(self, tick: int) -> Piece:
        renderer = self.view.fresh_renderer()

        async def read() -> tuple[FeedPlace, Piece]:
            page = await self.feed.page(self.place, PAGE_OF_STREAM)
            # That a replica has no more is not the last word.
            has_more = page.has_more or bool(page.rows and settings.API_REPLICA)
            times = tuple(unix_time(EventRow._make(row.event).created_at) for row in page.rows)
            return page.place, Piece(self.feed.frames(page, renderer), has_more, times=times)

        self.place, piece = await shared_reads.read((self.feed, self.place, tick, renderer.fingerprint), read)
        return piece


def has_events(document: str | None, place: FeedPlace) -> bool:
    """Whether a replica's page will do: it has events, and all that the caller has seen."""
    row = queries.FeedPageRow.parse(document)
    return bool(row.events) and place.holds(row.last_position, _event(row.at_cursor))


def position_of(document: str | None) -> int:
    return queries.FeedPageRow.parse(document).last_position


def place_after(row: FeedRow) -> FeedPlace:
    public_id, seq = row.job[0], row.event[0]
    return place_at(row.position, EventAtPosition(row.position, public_id, seq))


def _event(found: list[list[Any]]) -> EventAtPosition | None:
    return EventAtPosition._make(found[0]) if found else None


def _listed(texts: tuple[str, ...]) -> str:
    # PostgreSQL has no NUL in its JSON, and no event has one in its type.
    return orjson.dumps([text for text in texts if "\0" not in text]).decode()
