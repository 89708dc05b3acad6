"""The studio dialect over HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import time
from typing import Any, Literal

from jobs.api.body_cache import Rendered
from jobs.api.errors import JobNotFound
from jobs.api.etags import newest_version, shape_of
from jobs.api.following.streams import Piece, Source, unix_time
from jobs.api.following.views import Attempt, FollowingViewSet
from jobs.api.following.wakeups import Waiter
from jobs.api.rendering import to_json
from jobs.api.request import ApiRequest
from jobs.api.response import ApiResponse, Response
from jobs.api.v1 import paging, queries, schema, serializers
from jobs.api.v1.feed import Feed, FeedSource
from jobs.api.v1.feed_cursor import START, FeedPlace
from jobs.api.v1.params import EventsParams, FeedParams, ListParams, place_of_header, seq_of_header
from jobs.api.v1.queries import OVER, found
from jobs.api.v1.timeline import TimelineSource
from jobs.database.prepared import PreparedQuery
from jobs.database.replica import primary_caught_up
from jobs.models import Job
from jobs.ulid import parse_ulid
from tenants.fast_settings import settings

# How long the primary may take to show an event that a caller has from a replica. Any caller can name a ``since``, so
# it is short.
SINCE_CATCH_UP_SECONDS = 0.05


class JobViewSet(FollowingViewSet):
    queryset = Job.all_tenants.none()
    streamed = frozenset({"events"})

    @schema.list_jobs
    async def list(self, request: ApiRequest) -> ApiResponse:
        tenant_id = self.caller.tenant_id
        params = ListParams.of(request, tenant_id)
        document = await queries.job_page(tenant_id, params)
        serializer = serializers.JobListResponseSerializer
        filters = params.query()
        validator = self.validator(shape_of(serializer), document, params.limit, params.offset, filters)
        if not_modified := self.not_modified(validator):
            return not_modified

        def render() -> Rendered:
            rows = queries.summaries(document)
            url = self.renderer.base_url + request.path
            link = paging.next_link(url, tenant_id, filters, params.limit, rows)
            return Rendered(to_json(serializer.represent(rows, params)), link)

        # The validator stands for the document: it is made of it.
        rendered = self.rendered(self.renderer, render, 0, request.path, validator)
        return ApiResponse(rendered.body, {"ETag": validator, **rendered.facts})

    @schema.get_job
    async def retrieve(self, request: ApiRequest, public_id: str) -> ApiResponse:
        key = self.key_of(public_id)
        attempt = partial(self.one_job, queries.DETAIL, serializers.JobDetailResponseSerializer, self.is_enough, key)
        return await self.answer_when_due(key["public_id"], "Authorization, Prefer", attempt)

    @schema.list_job_events
    async def events(self, request: ApiRequest, public_id: str) -> Response:
        # The parameters come before the id, so that a bad one is reported for every id alike.
        since = EventsParams.of(request).since
        if self.wants_stream:
            if last_event_id := request.header(b"last-event-id"):
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
        return queries.version_of(document) >= newest_version(self.request.header(b"if-none-match") or "")

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
        asked = (shape_of(serializer), key["public_id"].hex, more)
        if self.is_poll:
            header = queries.Header.parse(await read(queries.VERSION, self.is_enough))
            validator = self.validator(*asked, version=header.version, renderer=renderer)
            if not_modified := self.not_modified(validator, about(header.status, header.updated_at)):
                return Attempt(not_modified, header.status in OVER)
        document = await read(query, is_enough)
        since = more.get("since", 0)
        if since and settings.API_REPLICA and queries.last_public_seq_of(document) < since:
            document = found(
                await primary_caught_up(
                    partial(query.read_document, {**key, **more}),
                    lambda document: queries.last_public_seq_of(found(document)) >= since,
                    SINCE_CATCH_UP_SECONDS,
                )
            )

        def render() -> Rendered:
            row = serializer.row.parse(document)
            artifacts = serializer.artifact_rows(row)
            body = serializer.represent(row, renderer.for_document(document, artifacts))
            header = queries.Header(row.version, row.status, row.updated_at)
            return Rendered(to_json(body), (header, bool(body.get("events"))))

        rendered = self.rendered(renderer, render, len(document), serializer, document)
        header, has_events = rendered.facts
        validator = self.validator(*asked, version=header.version, renderer=renderer)
        response = ApiResponse(rendered.body, {"ETag": validator, **about(header.status, header.updated_at)})
        return Attempt(response, header.status in OVER or self.is_poll or has_events)


class EventViewSet(FollowingViewSet):
    """The feed."""

    queryset = Job.all_tenants.none()
    streamed = frozenset({"page"})

    @schema.list_events
    async def page(self, request: ApiRequest) -> Response:
        tenant_id = self.caller.tenant_id
        params = FeedParams.of(request, tenant_id)
        feed = Feed(tenant_id, params.filters())
        if self.wants_stream:
            place: FeedPlace | Literal["latest"] = params.after or "latest"
            if last_event_id := request.header(b"last-event-id"):
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
