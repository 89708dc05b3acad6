"""The studio dialect over HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import time
from typing import Any, Literal

from jobs.api.errors import JobNotFound
from jobs.api.etags import newest_version, shape_of
from jobs.api.following.streams import Piece, Source, unix_time
from jobs.api.following.views import Attempt, FollowingViewSet
from jobs.api.following.wakeups import Waiter
from jobs.api.request import GatewayRequest
from jobs.api.response import ApiResponse, Response
from jobs.api.v1 import paging, queries, schema, serializers
from jobs.api.v1.feed import Feed, FeedSource
from jobs.api.v1.feed_cursor import START, FeedPlace
from jobs.api.v1.params import EventsParams, FeedParams, ListParams, place_of_header, seq_of_header
from jobs.api.v1.queries import OVER, found
from jobs.api.v1.timeline import TimelineSource
from jobs.database.prepared import PreparedQuery
from jobs.models import Job
from jobs.ulid import parse_ulid


class JobViewSet(FollowingViewSet):
    queryset = Job.all_tenants.none()
    streamed = frozenset({"events"})

    @schema.list_jobs
    async def list(self, request: GatewayRequest) -> ApiResponse:
        tenant_id = self.caller.tenant_id
        params = ListParams.read(request.GET, tenant_id)
        rows = await queries.job_page(tenant_id, params)
        shape = serializers.JobListResponseSerializer(context={"renderer": self.renderer})
        validator = self.validator(shape_of(type(shape)), rows, vars(params))
        if not_modified := self.not_modified(validator):
            return not_modified
        url = self.renderer.base_url + request.path
        link = paging.next_link(url, tenant_id, params.query(), params.limit, rows)
        return self.respond(shape.to_representation((rows, params)), {"ETag": validator, **link})

    @schema.get_job
    async def retrieve(self, request: GatewayRequest, public_id: str) -> ApiResponse:
        key = self.key_of(public_id)
        attempt = partial(self.one_job, queries.DETAIL, serializers.JobDetailResponseSerializer, self.is_enough, key)
        return await self.answer_when_due(key["public_id"], "Authorization, Prefer", attempt)

    @schema.list_job_events
    async def events(self, request: GatewayRequest, public_id: str) -> Response:
        # The parameters come before the id, so that a bad one is reported for every id alike.
        since = EventsParams.read(request.GET).since
        if self.wants_stream:
            if last_event_id := request.META.get("HTTP_LAST_EVENT_ID"):
                since = seq_of_header(last_event_id)
            key = self.key_of(public_id)
            return await self.open_stream(key["public_id"], partial(self.start_timeline, key, since))
        key = self.key_of(public_id)
        attempt = partial(
            self.one_job, queries.EVENTS, serializers.JobEventsResponseSerializer, self.is_page, key, since=since
        )
        return await self.answer_when_due(key["public_id"], "Authorization, Accept, Prefer", attempt)

    def key_of(self, public_id: str) -> dict[str, Any]:
        """What a statement about one job is bound with. Raises JobNotFound for what is no ULID."""
        try:
            return {"tenant": self.caller.tenant_id, "public_id": parse_ulid(public_id)}
        except ValueError:
            raise JobNotFound from None

    async def start_timeline(self, key: dict[str, Any], since: int, waiter: Waiter) -> tuple[Source, Piece] | None:
        """None where the job is over, and no event follows ``since``."""
        source = TimelineSource(self, key, since)
        first = await source.read(waiter.tick)
        return None if first.is_last and source.since == since else (source, first)

    def is_enough(self, document: str | None) -> bool:
        """Whether the replica's row can be used: it exists, and is not older than the version that the client has."""
        if document is None:
            return False
        return queries.version_of(document) >= newest_version(self.request.META.get("HTTP_IF_NONE_MATCH", ""))

    def is_page(self, document: str | None) -> bool:
        """Whether it has events for the caller, too."""
        return self.is_enough(document) and queries.has_events(document)

    async def one_job(
        self,
        query: PreparedQuery,
        serializer: type[serializers.OneJobSerializer],
        is_enough: Callable[[str | None], bool],
        key: dict[str, Any],
        latest: bool,
        **more: int,
    ) -> Attempt:
        """The response about one job; a poll that still holds is answered from the job's header row alone.

        It is due where the job is over, where the caller's validator no longer holds or, without one, where there are
        events. With ``latest`` it is what the primary has.
        """

        async def read(query: PreparedQuery, is_enough: Callable[[str | None], bool]) -> str:
            values = {**key, **more}
            if latest:
                return found(await query.fetch_latest_document(values))
            return found(await query.fetch_document(values, is_enough))

        renderer = self.fresh_renderer() if latest else self.renderer
        asked = (shape_of(serializer), str(key["public_id"]), more)
        if self.is_poll:
            header = queries.Header.parse(await read(queries.VERSION, self.is_enough))
            validator = self.validator(*asked, version=header.version, renderer=renderer)
            if not_modified := self.not_modified(validator, about(header.status, header.updated_at)):
                return Attempt(not_modified, header.status in OVER)
        document = await read(query, is_enough)
        row = serializer.row.parse(document)
        body = serializer(
            context={"renderer": renderer.for_document(document, serializer.artifact_rows(row))}
        ).to_representation(row)
        validator = self.validator(*asked, version=row.version, renderer=renderer)
        response = self.respond(body, {"ETag": validator, **about(row.status, row.updated_at)})
        return Attempt(response, row.status in OVER or self.is_poll or bool(body.get("events")))


class EventViewSet(FollowingViewSet):
    """The feed."""

    queryset = Job.all_tenants.none()
    streamed = frozenset({"page"})

    @schema.list_events
    async def page(self, request: GatewayRequest) -> Response:
        tenant_id = self.caller.tenant_id
        params = FeedParams.read(request.GET, tenant_id)
        feed = Feed(tenant_id, params.filters())
        if self.wants_stream:
            place: FeedPlace | Literal["latest"] = params.after or "latest"
            if last_event_id := request.META.get("HTTP_LAST_EVENT_ID"):
                place = place_of_header(last_event_id, tenant_id, feed.filters)
            return await self.open_stream(None, partial(self.start_feed, feed, place))
        begin = await feed.end() if params.after == "latest" else params.after or START

        async def attempt(latest: bool) -> Attempt:
            nonlocal begin
            page = await feed.page(begin, params.limit, latest=latest)
            if not page.rows:
                begin = page.place
            response = self.respond(feed.body(page, self.fresh_renderer()))
            return Attempt(response, is_due=bool(page.rows), goes_on=page.has_more)

        return await self.answer_when_due(None, "Authorization, Accept, Prefer", attempt)

    async def start_feed(
        self, feed: Feed, place: FeedPlace | Literal["latest"], waiter: Waiter
    ) -> tuple[Source, Piece] | None:
        if place == "latest":
            return FeedSource(self, feed, await feed.end()), Piece()
        source = FeedSource(self, feed, place)
        return source, await source.read(waiter.tick)


# Seconds until a poll may find something new, by the age of the job's latest event in seconds.
POLL_HINTS = ((60, 2), (600, 5), (3600, 15), (math.inf, 30))


def about(status: str, updated_at: str) -> dict[str, str]:
    """The headers that say how the job is, and when to ask again."""
    headers = {"Job-Status": status}
    if status not in OVER:
        age = time() - unix_time(updated_at)
        headers["Retry-After"] = str(next(seconds for below, seconds in POLL_HINTS if age < below))
    return headers
