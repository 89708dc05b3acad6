"""The stream of one job's events."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from jobs.api.following.streams import Piece, end_frame, event_frame, shared_reads, unix_time
from jobs.api.following.views import FollowingViewSet
from jobs.api.rendering import to_json
from jobs.api.v1.queries import EVENTS, OVER, EventsRow, found, has_events
from jobs.api.v1.serializers import JobEventsResponseSerializer


class TimelineSource:
    """The public events of the job ``key``, a tenant and a public_id, after ``since``."""

    def __init__(self, view: FollowingViewSet, key: dict[str, Any], since: int) -> None:
        self.view = view
        self.key = key
        self.since = since

    async def read(self, tick: int) -> Piece:
        """Raises JobNotFound."""
        renderer = self.view.fresh_renderer()

        async def read() -> tuple[int, Piece]:
            document = found(await EVENTS.fetch_document({**self.key, "since": self.since}, has_events))
            row = EventsRow.parse(document)
            artifacts = JobEventsResponseSerializer.artifact_rows(row)
            body = JobEventsResponseSerializer.represent(row, renderer.for_document(document, artifacts))
            events = body["events"]
            data = b"".join(event_frame(str(event["seq"]), to_json(event)) for event in events)
            since = events[-1]["seq"] if events else self.since
            # That a replica has no more is not the last word.
            has_more = bool(events) and (since < row.last_public_seq or bool(settings.API_REPLICA))
            is_last = row.status in OVER and not has_more
            if is_last:
                data += end_frame(row.status)
            times = tuple(unix_time(event["created_at"]) for event in events)
            return since, Piece(data, has_more, is_last, times)

        shared = (*self.key.values(), self.since, tick, renderer.fingerprint)
        self.since, piece = await shared_reads.read(shared, read)
        return piece
