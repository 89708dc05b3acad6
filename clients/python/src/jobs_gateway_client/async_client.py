"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from httpx_sse import EventSource, ServerSentEvent

from jobs_gateway_client.models import ArtifactResponse, FleetJobResponse, JobStatus, JobSummaryResponse
from jobs_gateway_client.operations import Operations
from jobs_gateway_client.policy import Policy
from jobs_gateway_client.results import Event, FeedEvent, Job, Origin, members
from jobs_gateway_client.steps import (
    CHUNK_BYTES,
    Action,
    Download,
    Emit,
    EmittingSteps,
    Finished,
    NextServerSentEvent,
    OpenStream,
    Run,
    Send,
    Sleep,
    Steps,
    is_event_stream,
)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class AsyncArtifact(ArtifactResponse):
    """A picture that a job made."""

    _session: AsyncSession = field(repr=False, compare=False)
    _origin: Origin = field(repr=False, compare=False)

    async def download(self, path: str | os.PathLike[str]) -> Path:
        """Writes the picture to ``path``, whole or not at all, and returns the path.

        A link that has expired is renewed. The token is never sent to the store. Raises DownloadError where the store
        does not have the picture any more.
        """
        return await self._session.result(self._session.operations.download(self, self._origin, path))


class AsyncClient:
    """A gateway, as one tenant sees it.

        async with AsyncClient("https://jobs.example.com") as client:
            async for event in client.jobs.events("01KP8E2NH03CBABD5WQDK6ZHC2"):
                print(event.seq, event.message)

    ``token`` is a gateway token or a Shopify session token, by default that of the environment variable
    ``JOBS_GATEWAY_TOKEN``. ``http`` is a client of yours, with proxies or certificates, which stays yours to close.
    All methods raise a :class:`JobsGatewayError`. A client belongs to one event loop.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        policy: Policy | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient()
        self._session = AsyncSession(self._http, base_url, token, policy or Policy())
        self.jobs = AsyncJobs(self._session)
        self.fleet = AsyncFleet(self._session)

    def events(
        self,
        after: str | None = None,
        *,
        job_type: str | Sequence[str] | None = None,
        event_type: str | Sequence[str] | None = None,
    ) -> AsyncGenerator[FeedEvent[AsyncArtifact], None]:
        """Every event of all jobs after the cursor ``after``, in the order in which they were recorded, without end.

        Without ``after`` from the oldest event on, with ``"latest"`` from now on. Save the ``cursor`` of an event once
        you have handled it, and continue with it. Where the gateway's store was restored from a backup, the feed
        begins again: events that this call has emitted (the latest 100,000) are dropped, earlier ones come again with
        the same ``id``.
        """
        return self._session.iterate(self._session.operations.follow_feed(after, job_type, event_type))

    async def close(self) -> None:
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncJobs:
    """``client.jobs``"""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def list(
        self,
        *,
        job_type: str | Sequence[str] | None = None,
        status: JobStatus | None = None,
        created_after: datetime | str | None = None,
        updated_after: datetime | str | None = None,
        page_size: int = 200,
    ) -> AsyncGenerator[JobSummaryResponse, None]:
        """All workflow jobs that match, the newest first, from as many pages of ``page_size`` as there are."""
        return self._session.iterate(
            self._session.operations.list_jobs(job_type, status, created_after, updated_after, page_size)
        )

    async def get(self, public_id: str) -> Job[AsyncArtifact]:
        """One job of any type. Raises NotFoundError."""
        return await self._session.result(self._session.operations.get_job(public_id))

    def events(self, public_id: str, since: int = 0) -> AsyncGenerator[Event[AsyncArtifact], None]:
        """The job's events after number ``since``, each once and in order, until the job is over.

        Raises NotFoundError, also where the job is deleted meanwhile.
        """
        return self._session.iterate(self._session.operations.follow_job(public_id, since))

    async def wait(self, public_id: str, timeout: float | None = None) -> Job[AsyncArtifact]:
        """The job once it is over, be it ``SUCCESS`` or ``FAILURE``.

        Raises JobNotFinishedError, which has the last state, after ``timeout`` seconds (None waits without end), and
        NotFoundError, also where the job is deleted meanwhile.
        """
        return await self._session.result(self._session.operations.wait(public_id, timeout))


class AsyncFleet:
    """``client.fleet``: the same jobs as fleet tooling sees them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def list(self, *, status: str | None = None) -> AsyncGenerator[FleetJobResponse, None]:
        """All jobs of every type, the newest first. ``status`` is one of the fleet dialect's, such as ``completed``."""
        return self._session.iterate(self._session.operations.list_fleet(status))


class AsyncSession:
    """Performs the operations with an HTTP client."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, token: str | None, policy: Policy) -> None:
        self._http = http
        self.operations = Operations(base_url, token, policy, self._artifact)

    def _artifact(self, origin: Origin, data: Mapping[str, Any]) -> AsyncArtifact:
        return AsyncArtifact(**members(ArtifactResponse, data), _session=self, _origin=origin)

    async def iterate(self, steps: EmittingSteps[T, None]) -> AsyncGenerator[T, None]:
        """What the steps emit, one after another."""
        async with aclosing(Stream()) as stream:
            with closing(Run(steps)) as run:
                while isinstance(step := await self._next(run, stream), Emit):
                    for value in step.values:
                        yield value

    async def result(self, steps: Steps[T]) -> T:
        """What the steps return."""
        async with aclosing(Stream()) as stream:
            with closing(Run[Any, T](steps)) as run:
                while not isinstance(step := await self._next(run, stream), Finished):
                    pass  # such steps emit nothing
                return step.result

    async def _next(self, run: Run[T, R], stream: Stream) -> Emit[T] | Finished[R]:
        """Performs actions until there is something for the caller."""
        while True:
            action = run.next_action()
            if isinstance(action, (Emit, Finished)):
                return action
            try:
                run.set_outcome(await self._perform(action, stream))
            except httpx.RequestError as error:
                run.set_error(error)

    async def _perform(self, action: Action, stream: Stream) -> httpx.Response | ServerSentEvent | None:
        if isinstance(action, NextServerSentEvent):
            return await stream.next()
        await stream.aclose()
        if isinstance(action, Sleep):
            await asyncio.sleep(action.seconds)
            return None
        if isinstance(action, Send):
            return await self._http.send(action.request, auth=None, follow_redirects=False)
        if isinstance(action, OpenStream):
            response = await self._http.send(action.request, auth=None, follow_redirects=False, stream=True)
            if is_event_stream(response):
                stream.open(response)
                return response
        else:
            response = await self._http.send(action.request, auth=None, follow_redirects=True, stream=True)
        async with aclosing(response):
            if isinstance(action, Download) and response.status_code == 200:
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    await asyncio.to_thread(action.file.write, chunk)
            else:
                await response.aread()
        return response


class Stream:
    """The event stream that is open, if one is."""

    def __init__(self) -> None:
        self._response: httpx.Response | None = None
        self._events: AsyncGenerator[ServerSentEvent, None] | None = None

    def open(self, response: httpx.Response) -> None:
        self._response = response
        self._events = EventSource(response).aiter_sse()

    async def next(self) -> ServerSentEvent | None:
        return await anext(self._events, None) if self._events else None

    async def aclose(self) -> None:
        if self._response and self._events:
            await self._events.aclose()
            await self._response.aclose()
            self._response = self._events = None
