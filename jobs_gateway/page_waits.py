"""Pages of the console that wait for news: ``Prefer: wait=N``, as in the API.

A view that has nothing new answers 204 and names what its caller waits for (``jobs.admin.following``). The response is
held back, and the view runs again when there is news, at the latest after ``RECHECK_SECONDS``, with all its checks of
session, user and permissions. Between two runs the caller holds no thread and no database connection.

The waiting is outside Django's handler because that keeps a thread for each request it handles, with its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from jobs.api.following.places import REFUSED, WAITING
from jobs.api.following.prefer import preferred_wait
from jobs.api.following.wakeups import wake_ups
from jobs.api.request import Message, Receive, Scope, Send

# Requests that wait at a time in one worker: each runs its view every two seconds. Further ones are answered at once,
# and their pages poll.
MAX_WAITS = 16
# The longest time between two runs of a view. It finds what wakes nobody: internal notes, a user who is deactivated.
RECHECK_SECONDS = 2.0
# The shortest one: a tenant whose jobs change all the time can wake the readers of one job ten times a second.
MIN_RECHECK_SECONDS = 0.5

Page = Callable[[Scope, Receive, Send], Awaitable[None]]


class PageWaits:
    """The waiting requests of this worker. ``recheck`` runs a page again."""

    def __init__(self, recheck: Page) -> None:
        self._recheck = recheck
        self._taken = 0

    def granted_seconds(self, scope: Scope) -> int | None:
        """How long the caller may wait; None where it does not want to, or where too many others wait."""
        if scope["method"] != "GET" or not scope["path"].startswith("/admin/"):
            return None
        prefer = b", ".join(value for name, value in scope["headers"] if name == b"prefer")
        seconds = preferred_wait(prefer.decode("latin-1"))
        if seconds is not None and self._taken >= MAX_WAITS:
            REFUSED.labels("console").inc()
            return None
        return seconds

    async def answer(self, page: Page, scope: Scope, receive: Receive, send: Send, seconds: int) -> None:
        """Runs ``page``, and runs it again while it has nothing new, for so many seconds.

        Raises what a page raises.
        """
        self._taken += 1
        caller = _Caller(receive)
        try:
            await self._answer(page, caller, scope, send, seconds)
        finally:
            self._taken -= 1
            caller.stop()

    async def _answer(self, page: Page, caller: _Caller, scope: Scope, send: Send, seconds: int) -> None:
        now = asyncio.get_running_loop().time
        ends_at = now() + seconds
        run = _HeldResponse(scope, send, seconds)
        await page(scope, caller.receive, run.send)
        if not run.held:
            return
        wanted = scope["gateway"]["waits_for"]
        scope["gateway"]["followed_by"] = "wait"
        with (
            WAITING.track_inprogress(),
            wake_ups.waiter(*wanted) if wanted.tenant_id is not None else wake_ups.idle_waiter() as waiter,
        ):
            caller.when_gone = waiter.wake.set
            # At once again: the first run was before the registration.
            while not (caller.is_gone or wake_ups.is_stopping or now() >= ends_at):
                run = _HeldResponse(scope, send, seconds)
                await self._recheck(scope, caller.receive, run.send)
                if not run.held:
                    return
                # From the end of a run: on a machine that is too slow for the runs there are fewer of them.
                ran_at = now()
                if await waiter.wait(min(ends_at, ran_at + RECHECK_SECONDS)) and not wake_ups.is_stopping:
                    await caller.wait_gone(ran_at + MIN_RECHECK_SECONDS - now())
        if not caller.is_gone:
            for message in run.held:
                await send(message)


class _HeldResponse:
    """Sends a response on, and says that the preference was applied; holds it back if its caller is to wait."""

    def __init__(self, scope: Scope, send: Send, seconds: int) -> None:
        self.held: list[Message] = []
        self._state = scope["gateway"]
        self._state["waits_for"] = None
        self._send = send
        self._applied = (b"preference-applied", b"wait=%d" % seconds)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], self._applied]}
            if self._state["waits_for"] is not None:
                self.held.append(message)
                return
        if self.held:
            self.held.append(message)
        else:
            await self._send(message)


class _Caller:
    """What is received from the caller, for several runs of a page, and whether the caller has hung up."""

    def __init__(self, receive: Receive) -> None:
        self.when_gone: Callable[[], None] = lambda: None
        self._receive = receive
        self._gone = asyncio.Event()
        self._watch = asyncio.create_task(self._watch_for_disconnect())

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    @property
    def receive(self) -> Receive:
        """For one run of a page: an empty body, later perhaps the disconnect."""
        is_read = False

        async def receive() -> Message:
            nonlocal is_read
            if is_read:
                await self._gone.wait()
                return {"type": "http.disconnect"}
            is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}

        return receive

    async def wait_gone(self, seconds: float) -> None:
        """Returns after so many seconds, or when the caller has hung up."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), max(0.0, seconds))

    def stop(self) -> None:
        self._watch.cancel()

    async def _watch_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        self.when_gone()
