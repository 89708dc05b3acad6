"""Following a job or the feed: by a stream where there can be one, else by waiting, else by polling."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent

from jobs_gateway_client.errors import (
    ApiError,
    ConnectionFailedError,
    CursorGoneError,
    JobNotFinishedError,
    JobsGatewayError,
)
from jobs_gateway_client.policy import Policy, Retries
from jobs_gateway_client.requests import (
    POLL_SECONDS,
    SHAPE_ERRORS,
    Params,
    Requests,
    attempt,
    connection_failed,
    expected_shape,
    json_object,
    raise_for_status,
    retry_after_seconds,
    unexpected_shape,
)
from jobs_gateway_client.results import (
    ArtifactT,
    Event,
    FeedEvent,
    Job,
    MakeArtifact,
    event_of,
    feed_event_of,
    job_of,
)
from jobs_gateway_client.steps import (
    Emit,
    EmittingSteps,
    NextServerSentEvent,
    Sleep,
    Steps,
    is_event_stream,
    open_stream,
)

T = TypeVar("T")

NEXT = NextServerSentEvent()
OVER = ("SUCCESS", "FAILURE")
# After a stream that ended, unless it says otherwise.
RECONNECT_SECONDS = 2.0
FEED_PAGE = 100
# Beyond its deadline a request that waits for a job may take so long to be answered.
LATE_SECONDS = 10.0
# So many latest ids of the feed are kept, to drop doubles after CURSOR_GONE.
MAX_IDS = 100_000
# There was no connection at all.
NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Page(Generic[T]):
    items: Sequence[T]
    has_more: bool  # ask again at once
    is_over: bool  # nothing follows


class Source(Protocol[T]):
    """What is followed, and how far it was read."""

    path: str

    # The parameters of the next request.
    def params(self) -> Params: ...

    # Where a stream continues; None where it cannot: the next request is one for a page, without waiting.
    def last_event_id(self) -> str | None: ...

    # One event of a stream; None for one that was read before.
    def read_event(self, data: Mapping[str, Any], event_id: str) -> T | None: ...

    # The response to a request for a page.
    def read_page(self, response: httpx.Response) -> Page[T]: ...

    # Begins again. Raises ``error`` where that makes no sense.
    def restart(self, error: CursorGoneError) -> None: ...


class JobSource(Generic[ArtifactT]):
    """The events of a job after ``since``."""

    def __init__(self, public_id: str, since: int, make_artifact: MakeArtifact[ArtifactT]) -> None:
        self.path = job_path(public_id) + "/events"
        self._public_id = public_id
        self._since = since
        self._make_artifact = make_artifact

    def params(self) -> Params:
        return {"since": self._since}

    def last_event_id(self) -> str | None:
        return str(self._since)

    def read_event(self, data: Mapping[str, Any], event_id: str) -> Event[ArtifactT] | None:
        event = event_of(data, self._public_id, self._make_artifact)
        return event if self._is_new(event) else None

    def read_page(self, response: httpx.Response) -> Page[Event[ArtifactT]]:
        # All are decoded before the first counts as read, so that none is lost where one cannot be decoded.
        shown = json_object(response)["events"]
        events = [event_of(each, self._public_id, self._make_artifact) for each in shown]
        is_over = not events and response.headers.get("Job-Status") in OVER
        return Page([event for event in events if self._is_new(event)], has_more=bool(events), is_over=is_over)

    def _is_new(self, event: Event[ArtifactT]) -> bool:
        if event.seq <= self._since:
            return False
        self._since = event.seq
        return True

    def restart(self, error: CursorGoneError) -> None:
        raise error


class FeedSource(Generic[ArtifactT]):
    """The events of all jobs after a cursor."""

    path = "/v1/events"

    def __init__(self, after: str | None, filters: Params, make_artifact: MakeArtifact[ArtifactT]) -> None:
        self._after = after
        self._filters = filters
        self._make_artifact = make_artifact
        self._ids: deque[str] = deque(maxlen=MAX_IDS)
        self._doubles: set[str] = set()

    def params(self) -> Params:
        # The first page has one event at most, so that this event has a cursor, behind which a stream continues.
        limit = 1 if self.last_event_id() is None else FEED_PAGE
        return {**self._filters, "after": self._after, "limit": limit}

    def last_event_id(self) -> str | None:
        return None if self._after in (None, "latest") else self._after

    def read_event(self, data: Mapping[str, Any], event_id: str) -> FeedEvent[ArtifactT] | None:
        event = feed_event_of(data, event_id, self._make_artifact)
        self._after = event_id
        return event if self._is_new(event) else None

    def read_page(self, response: httpx.Response) -> Page[FeedEvent[ArtifactT]]:
        page = json_object(response)
        before, cursor, last = self._after or "", page["cursor"], len(page["events"]) - 1
        events = [
            feed_event_of(each, cursor if place == last else before, self._make_artifact)
            for place, each in enumerate(page["events"])
        ]
        has_more = page["has_more"]
        self._after = cursor
        return Page([event for event in events if self._is_new(event)], has_more=has_more, is_over=False)

    def restart(self, error: CursorGoneError) -> None:
        if self._after is None:
            raise error
        self._after = None
        self._doubles = set(self._ids)

    def _is_new(self, event: FeedEvent[ArtifactT]) -> bool:
        if event.id in self._doubles:
            return False
        self._ids.append(event.id)
        return True


class Modes:
    """How news are asked for now. What did not work is tried again after ``policy.fallback_seconds``."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._stream_again_at = 0.0
        self._wait_again_at = 0.0

    @property
    def may_stream(self) -> bool:
        return monotonic() >= self._stream_again_at

    @property
    def may_wait(self) -> bool:
        return monotonic() >= self._wait_again_at

    def stream_failed(self) -> None:
        self._stream_again_at = monotonic() + self._policy.fallback_seconds

    def wait_failed(self, error: JobsGatewayError) -> None:
        """A proxy may not let a request wait; a connection that was refused says nothing about that."""
        status = error.status if isinstance(error, ApiError) else None
        if status in (502, 504) or (isinstance(error, ConnectionFailedError) and not was_refused(error)):
            self._wait_again_at = monotonic() + self._policy.fallback_seconds


class Following(Generic[T]):
    """Emits what ``source`` has until it is over, through whatever happens to connections and gateway."""

    def __init__(self, requests: Requests, source: Source[T]) -> None:
        self._requests = requests
        self._source = source
        self._modes = Modes(requests.policy)
        self._retries = Retries(requests.policy, follow=True)

    def steps(self) -> EmittingSteps[T, None]:
        is_over = False
        while not is_over:
            try:
                position = self._source.last_event_id()
                if position is not None and self._modes.may_stream:
                    is_over = yield from self._read_stream(position)
                else:
                    is_over = yield from self._read_page(is_first=position is None)
            except CursorGoneError as error:
                self._source.restart(error)
                yield self._reconnect_pause(RECONNECT_SECONDS)
            except JobsGatewayError as error:
                yield Sleep(self._retries.delay(error))

    # Each of these returns whether all is over.

    def _read_stream(self, position: str) -> EmittingSteps[T, bool]:
        response = yield from self._open_stream(position)
        if response is None:
            return False
        if response.status_code == 204:
            return True
        if not is_event_stream(response):  # a proxy has removed Accept: this is a page
            self._modes.stream_failed()
            return (yield from self._emit_page(response, pause=True))
        return (yield from self._emit_stream(response))

    def _emit_stream(self, response: httpx.Response) -> EmittingSteps[T, bool]:
        reconnect_seconds: float | None = None
        try:
            while True:
                event: ServerSentEvent | None = yield NEXT
                if event is None:
                    break
                if event.event == "end":
                    return True
                reconnect_seconds = reconnect_seconds or RECONNECT_SECONDS
                if event.retry is not None:
                    reconnect_seconds = max(event.retry / 1000, self._requests.policy.backoff_seconds)
                if event.data:  # else a comment, after which httpx-sse repeats the id
                    try:  # without expected_shape, which would take a tenth of the time of an event
                        item = self._source.read_event(json.loads(event.data), event.id)
                    except SHAPE_ERRORS as error:
                        raise unexpected_shape(response, error) from error
                    self._retries.reset()
                    if item is not None:
                        yield Emit((item,))
        except httpx.RequestError:
            pass  # cut off, or silent for too long: continue behind the last event
        self._retries.reset()  # not before, for what cannot be read would be asked for without end
        if reconnect_seconds:
            yield self._reconnect_pause(reconnect_seconds)
        else:
            self._modes.stream_failed()  # not one event: a proxy keeps what it should pass on
        return False

    def _reconnect_pause(self, longest_seconds: float) -> Sleep:
        return Sleep(random.uniform(0, longest_seconds))  # noqa: S311 - spreads the clients of a renewed server

    def _open_stream(self, position: str) -> Steps[httpx.Response | None]:
        """The response; None where a stream is refused, which a request for a page will explain if need be."""
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Last-Event-ID": position}
        seconds = self._requests.policy.silence_seconds
        request = self._requests.get(self._source.path, self._source.params(), seconds, headers)
        try:
            response = yield from open_stream(request)
            raise_for_status(response)
        except httpx.RequestError as error:
            if not isinstance(error, NOT_CONNECTED):
                self._modes.stream_failed()
            raise connection_failed(error) from error
        except ApiError as error:
            if error.status != 406 and (not error.is_retryable or error.code == "RATE_LIMITED"):
                raise
            self._modes.stream_failed()
            return None
        return response

    def _read_page(self, *, is_first: bool) -> EmittingSteps[T, bool]:
        policy = self._requests.policy
        waits = self._modes.may_wait and not is_first
        seconds = policy.read_seconds + (policy.wait_seconds if waits else 0)
        headers = prefer_wait(policy.wait_seconds) if waits else {}
        request = self._requests.get(self._source.path, self._source.params(), seconds, headers)
        try:
            response = yield from attempt(request)
        except JobsGatewayError as error:
            if waits:
                self._modes.wait_failed(error)
            raise
        self._retries.reset()
        return (yield from self._emit_page(response, pause=not is_first))

    def _emit_page(self, response: httpx.Response, *, pause: bool) -> EmittingSteps[T, bool]:
        with expected_shape(response):
            page = self._source.read_page(response)
        yield Emit(page.items)
        if pause and not (page.is_over or page.has_more or has_waited(response)):
            yield Sleep(pause_seconds(response))
        return page.is_over


def wait_for_end(
    requests: Requests, public_id: str, timeout_seconds: float | None, make_artifact: MakeArtifact[ArtifactT]
) -> Steps[Job[ArtifactT]]:
    """The job, once it is over. Raises JobNotFinishedError after ``timeout_seconds``; None waits without end."""
    policy = requests.policy
    deadline = inf if timeout_seconds is None else monotonic() + timeout_seconds
    modes, retries = Modes(policy), Retries(policy, follow=True)
    job: Job[ArtifactT] | None = None
    while True:
        remaining = max(0.0, deadline - monotonic())
        seconds = int(min(policy.wait_seconds, remaining)) if modes.may_wait else 0
        read_seconds = min(seconds + policy.read_seconds, remaining + LATE_SECONDS)
        failure: JobsGatewayError | None = None
        try:
            request = requests.get(job_path(public_id), None, read_seconds, prefer_wait(seconds) if seconds else {})
            response = yield from attempt(request)
            with expected_shape(response):
                job = job_of(json_object(response), make_artifact)
            if job.is_over:
                return job
            retries.reset()
            pause = 0.0 if has_waited(response) else pause_seconds(response)
        except JobsGatewayError as error:
            if seconds:
                modes.wait_failed(error)
            failure = error
            pause = retries.delay(error)
        remaining = deadline - monotonic()
        # A response that asks for a pause is not asked again before it is over.
        if remaining <= 0 or (failure and pause >= remaining):
            raise JobNotFinishedError(public_id, timeout_seconds or 0.0, job) from failure
        yield Sleep(min(pause, remaining))


def job_path(public_id: str) -> str:
    return f"/v1/jobs/{quote(public_id, safe='')}"


def prefer_wait(seconds: int) -> dict[str, str]:
    return {"Prefer": f"wait={seconds}"}


def has_waited(response: httpx.Response) -> bool:
    """Whether the response came when there was news, or after the time to wait: ask again at once."""
    return "Preference-Applied" in response.headers


def pause_seconds(response: httpx.Response) -> float:
    """Until the next poll pays."""
    asked = retry_after_seconds(response)
    return POLL_SECONDS if asked is None else asked


def was_refused(error: ConnectionFailedError) -> bool:
    """Whether there was no connection at all."""
    return isinstance(error.__cause__, NOT_CONNECTED)
