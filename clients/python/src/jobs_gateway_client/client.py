"""The client whose methods block."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
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
class Artifact(ArtifactResponse):
    """A picture that a job made."""

    _session: Session = field(repr=False, compare=False)
    _origin: Origin = field(repr=False, compare=False)

    def download(self, path: str | os.PathLike[str]) -> Path:
        """Writes the picture to ``path``, whole or not at all, and returns the path.

        A link that has expired is renewed. The token is never sent to the store. Raises DownloadError where the store
        does not have the picture any more.
        """
        return self._session.result(self._session.operations.download(self, self._origin, path))


class Client:
    """A gateway, as one tenant sees it.

        with Client("https://jobs.example.com") as client:
            for event in client.jobs.events("01KP8E2NH03CBABD5WQDK6ZHC2"):
                print(event.seq, event.message)

    ``token`` is a gateway token or a Shopify session token, by default that of the environment variable
    ``JOBS_GATEWAY_TOKEN``. ``http`` is a client of yours, with proxies or certificates, which stays yours to close.
    All methods raise a :class:`JobsGatewayError`. Several threads may use one client.
    """

    def __init__(
        self, base_url: str, token: str | None = None, *, policy: Policy | None = None, http: httpx.Client | None = None
    ) -> None:
        self._owns_http = http is None
        self._http = http or httpx.Client()
        self._session = Session(self._http, base_url, token, policy or Policy())
        self.jobs = Jobs(self._session)
        self.fleet = Fleet(self._session)

    def events(
        self,
        after: str | None = None,
        *,
        job_type: str | Sequence[str] | None = None,
        event_type: str | Sequence[str] | None = None,
    ) -> Generator[FeedEvent[Artifact], None, None]:
        """Every event of all jobs after the cursor ``after``, in the order in which they were recorded, without end.

        Without ``after`` from the oldest event on, with ``"latest"`` from now on. Save the ``cursor`` of an event once
        you have handled it, and continue with it. Where the gateway's store was restored from a backup, the feed
        begins again: events that this call has emitted (the latest 100,000) are dropped, earlier ones come again with
        the same ``id``.
        """
        return self._session.iterate(self._session.operations.follow_feed(after, job_type, event_type))

    def close(self) -> None:
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Jobs:
    """``client.jobs``"""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(
        self,
        *,
        job_type: str | Sequence[str] | None = None,
        status: JobStatus | None = None,
        created_after: datetime | str | None = None,
        updated_after: datetime | str | None = None,
        page_size: int = 200,
    ) -> Generator[JobSummaryResponse, None, None]:
        """All workflow jobs that match, the newest first, from as many pages of ``page_size`` as there are."""
        return self._session.iterate(
            self._session.operations.list_jobs(job_type, status, created_after, updated_after, page_size)
        )

    def get(self, public_id: str) -> Job[Artifact]:
        """One job of any type. Raises NotFoundError."""
        return self._session.result(self._session.operations.get_job(public_id))

    def events(self, public_id: str, since: int = 0) -> Generator[Event[Artifact], None, None]:
        """The job's events after number ``since``, each once and in order, until the job is over.

        Raises NotFoundError, also where the job is deleted meanwhile.
        """
        return self._session.iterate(self._session.operations.follow_job(public_id, since))

    def wait(self, public_id: str, timeout: float | None = None) -> Job[Artifact]:
        """The job once it is over, be it ``SUCCESS`` or ``FAILURE``.

        Raises JobNotFinishedError, which has the last state, after ``timeout`` seconds (None waits without end), and
        NotFoundError, also where the job is deleted meanwhile.
        """
        return self._session.result(self._session.operations.wait(public_id, timeout))


class Fleet:
    """``client.fleet``: the same jobs as fleet tooling sees them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self, *, status: str | None = None) -> Generator[FleetJobResponse, None, None]:
        """All jobs of every type, the newest first. ``status`` is one of the fleet dialect's, such as ``completed``."""
        return self._session.iterate(self._session.operations.list_fleet(status))


class Session:
    """Performs the operations with an HTTP client."""

    def __init__(self, http: httpx.Client, base_url: str, token: str | None, policy: Policy) -> None:
        self._http = http
        self.operations = Operations(base_url, token, policy, self._artifact)

    def _artifact(self, origin: Origin, data: Mapping[str, Any]) -> Artifact:
        return Artifact(**members(ArtifactResponse, data), _session=self, _origin=origin)

    def iterate(self, steps: EmittingSteps[T, None]) -> Generator[T, None, None]:
        """What the steps emit, one after another."""
        with closing(Run(steps)) as run, closing(Stream()) as stream:
            while isinstance(step := self._next(run, stream), Emit):
                yield from step.values

    def result(self, steps: Steps[T]) -> T:
        """What the steps return."""
        with closing(Run[Any, T](steps)) as run, closing(Stream()) as stream:
            while not isinstance(step := self._next(run, stream), Finished):
                pass  # such steps emit nothing
            return step.result

    def _next(self, run: Run[T, R], stream: Stream) -> Emit[T] | Finished[R]:
        """Performs actions until there is something for the caller."""
        while True:
            action = run.next_action()
            if isinstance(action, (Emit, Finished)):
                return action
            try:
                run.set_outcome(self._perform(action, stream))
            except httpx.RequestError as error:
                run.set_error(error)

    def _perform(self, action: Action, stream: Stream) -> httpx.Response | ServerSentEvent | None:
        if isinstance(action, NextServerSentEvent):
            return stream.next()
        stream.close()
        if isinstance(action, Sleep):
            time.sleep(action.seconds)
            return None
        if isinstance(action, Send):
            return self._http.send(action.request, auth=None, follow_redirects=False)
        if isinstance(action, OpenStream):
            response = self._http.send(action.request, auth=None, follow_redirects=False, stream=True)
            if is_event_stream(response):
                stream.open(response)
                return response
        else:
            response = self._http.send(action.request, auth=None, follow_redirects=True, stream=True)
        with closing(response):
            if isinstance(action, Download) and response.status_code == 200:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    action.file.write(chunk)
            else:
                response.read()
        return response


class Stream:
    """The event stream that is open, if one is."""

    def __init__(self) -> None:
        self._response: httpx.Response | None = None
        self._events: Iterator[ServerSentEvent] = iter(())

    def open(self, response: httpx.Response) -> None:
        self._response = response
        self._events = EventSource(response).iter_sse()

    def next(self) -> ServerSentEvent | None:
        return next(self._events, None)

    def close(self) -> None:
        if self._response:
            self._response.close()
            self._response = None
