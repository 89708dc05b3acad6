"""Views whose answers can be followed: as a stream, or by waiting for news (CONTRACT.md, section 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar, NamedTuple

from ulid import ULID

from jobs.api.following.places import STREAMS, WAITING, TooManyStreams, WorkerIsFull, places
from jobs.api.following.prefer import preferred_wait
from jobs.api.following.streams import EventStream, Piece, Source
from jobs.api.following.wakeups import Waiter, wake_ups
from jobs.api.rendering import prefers_stream
from jobs.api.request import ApiRequest
from jobs.api.response import ApiResponse, Response
from jobs.api.tenant_renderer import TenantRenderer
from jobs.api.views import TenantViewSet
from jobs.database.credentials import CREDENTIALS
from tenants.authentication import Unauthenticated, verify_credential
from tenants.callers import CredentialRejected
from tenants.fast_settings import settings

# A credential was checked at most so many seconds ago when a stream goes on, or a request is answered that waited.
CREDENTIAL_AGE_SECONDS = 1.0


class Attempt(NamedTuple):
    """A response, and whether it is what a waiting caller waits for."""

    response: ApiResponse
    is_due: bool
    # The next attempt may find it at once, without news.
    goes_on: bool = False


class FollowingViewSet(TenantViewSet):
    """``streamed`` are the actions that can answer as a stream."""

    streamed: ClassVar[frozenset[str]] = frozenset()
    wants_stream = False

    def negotiate(self, request: ApiRequest) -> None:
        if self.action_map["get"] in self.streamed and prefers_stream(request):
            self.wants_stream = True
        else:
            super().negotiate(request)

    def fresh_renderer(self) -> TenantRenderer:
        """For the caller as of its latest check, with links signed now."""
        return TenantRenderer(self.request, self.caller)

    async def check_credential(self) -> None:
        """Raises Unauthenticated where the caller's credential is no longer valid, and what the database raises."""
        try:
            self.caller = await verify_credential(
                self.request.header(b"authorization") or "", CREDENTIALS, CREDENTIAL_AGE_SECONDS
            )
        except CredentialRejected as rejection:
            self.request.rejection = rejection.reason
            raise Unauthenticated from None

    async def open_stream(
        self, job: ULID | None, start: Callable[[Waiter], Awaitable[tuple[Source, Piece] | None]]
    ) -> Response:
        """The stream that ``start`` makes with its first piece; ``204`` where it makes none.

        Raises TooManyStreams and WorkerIsFull.
        """
        self.request.scope["gateway"]["followed_by"] = "stream"
        with ExitStack() as held:
            held.enter_context(places.taken(self.caller.tenant_id, STREAMS))
            waiter = held.enter_context(wake_ups.waiter(self.caller.tenant_id, job))
            started = await start(waiter)
            if started is None:
                return no_content()
            return EventStream(*started, waiter, self.request.receive, self.check_credential, held.pop_all())

    async def answer_when_due(
        self, job: ULID | None, vary: str, attempt: Callable[[bool], Awaitable[Attempt]]
    ) -> ApiResponse:
        """What ``attempt`` comes to, as soon as it is due where the caller would wait, else at once.

        ``attempt`` gets whether it has to read what the primary has, unless that is down. ``job`` is what the caller
        waits for news of; None for all of the tenant's.
        """
        seconds = preferred_wait(self.request.header(b"prefer") or "") if self.request.method == "GET" else None
        if seconds is not None:
            try:
                with (
                    places.taken(self.caller.tenant_id, WAITING),
                    wake_ups.waiter(self.caller.tenant_id, job) as waiter,
                ):
                    response = await self._wait(seconds, waiter, attempt)
            except (TooManyStreams, WorkerIsFull):
                seconds = None
        if seconds is None:
            response = (await attempt(False)).response
        else:
            response.headers["Preference-Applied"] = f"wait={seconds}"
        response.headers["Vary"] = vary
        return response

    async def _wait(self, seconds: int, waiter: Waiter, attempt: Callable[[bool], Awaitable[Attempt]]) -> ApiResponse:
        self.request.scope["gateway"]["followed_by"] = "wait"
        now = asyncio.get_running_loop().time
        began = now()
        if self.request.deadline:
            self.request.deadline.reschedule(None)  # each attempt has its own
        with self._disconnects(waiter) as is_gone:
            while True:
                is_over = now() >= began + seconds
                async with asyncio.timeout(settings.DATABASE_DEADLINE_SECONDS):
                    if now() > began + CREDENTIAL_AGE_SECONDS:
                        await self.check_credential()
                    made = await attempt(True)
                if made.is_due or is_over or wake_ups.is_stopping or is_gone():
                    return made.response
                if made.goes_on:
                    await asyncio.sleep(0)  # SQLite's reads let nobody else have a turn
                else:
                    await waiter.wait(began + seconds)

    @contextmanager
    def _disconnects(self, waiter: Waiter) -> Iterator[Callable[[], bool]]:
        """Wakes the waiter when the caller hangs up; gives whether it has."""
        receive, gone = self.request.receive, False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            waiter.wake.set()

        task = asyncio.create_task(watch())
        try:
            yield lambda: gone
        finally:
            task.cancel()


def no_content() -> ApiResponse:
    """``204``: a stream that has nothing to show, now or later."""
    response = ApiResponse(b"", {"Cache-Control": "no-store", "Vary": "Authorization, Accept"}, status=204)
    del response.headers["Content-Type"], response.headers["Content-Length"]
    return response
