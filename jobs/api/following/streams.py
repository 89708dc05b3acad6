"""Server-sent events: an endless response that is woken by news, and ends properly.

``EventStream`` keeps the connection: comments while it is quiet, the credential, the slow reader, the end. What is read
and written is the :class:`Source`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from time import time
from typing import Any, NamedTuple, Protocol

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from prometheus_client import Histogram
from rest_framework import exceptions

from jobs.api.following.wakeups import Waiter, wake_ups
from jobs.api.request import Receive, Send
from jobs.artifacts.signing import CannotSign

logger = logging.getLogger("jobs.following")

MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "Content-Type": MEDIA_TYPE,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "Vary": "Authorization, Accept",
}
START = b"retry: 2000\n\n"
COMMENT = b":\n\n"
# Proxies close a connection that is quiet for longer; 15 is promised.
COMMENT_SECONDS = 12.0
# After a credential ceased to be valid its streams end within 5 seconds: that is this, plus a second in a cache.
CREDENTIAL_SECONDS = 3.0
# A stream whose credential no server could check for so long ends.
UNCHECKED_SECONDS = 30.0
# A reader that takes nothing for so long is cut off.
SEND_SECONDS = 30.0
# After a database error in an open stream.
RETRY_SECONDS = 1.0

LATENCY = Histogram(
    "gateway_stream_latency_seconds",
    "From the time of a new event, by its writer's clock, to sending it in a stream.",
    buckets=(0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1, 2, 5),
)


class Piece(NamedTuple):
    """What a source has to send now."""

    data: bytes = b""
    # Whether there may be more at once, without waiting for news.
    has_more: bool = False
    # Whether the stream ends with this.
    is_last: bool = False
    # Unix times of the events in it.
    times: tuple[float, ...] = ()


class Source(Protocol):
    """What a stream shows. It remembers how far it has come."""

    async def read(self, tick: int) -> Piece:
        """What follows what was read before. Readers that the same ``tick`` of the wake-ups woke may share a read.

        Raises Django's DatabaseError, and DRF's APIException where there is nothing to follow any more.
        """


class EventStream:
    """A response of the API. ``places`` are given back at its end."""

    status = 200

    def __init__(
        self,
        source: Source,
        first: Piece,
        waiter: Waiter,
        receive: Receive,
        check_credential: Callable[[], Awaitable[None]],
        held: ExitStack,
    ) -> None:
        self.headers = dict(HEADERS)
        self._source = source
        self._first = first
        self._waiter = waiter
        self._receive = receive
        self._check_credential = check_credential
        self._held = held
        self._is_gone = False
        self._checked_at = 0.0  # when the credential was last found valid, as the event loop's time

    async def send(self, send: Send, method: str) -> None:
        with self._held:
            headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            if method != "HEAD":
                watch = asyncio.create_task(self._watch_for_disconnect())
                try:
                    await self._run(send)
                except TimeoutError:
                    return  # a reader that takes nothing: the connection is closed without an end
                finally:
                    watch.cancel()
                if self._is_gone:
                    return
            with suppress(TimeoutError):
                await _send(send, b"", more_body=False)

    async def _watch_for_disconnect(self) -> None:
        """Sending does not say that the caller has gone; receiving does."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._waiter.wake.set()

    async def _run(self, send: Send) -> None:
        """Returns when the stream is to end. Raises TimeoutError for a reader that takes nothing."""
        now = asyncio.get_running_loop().time
        ends_at = now() + settings.STREAM_SECONDS
        self._checked_at = now()
        next_check = now() + CREDENTIAL_SECONDS
        await _send(send, START + self._first.data)
        sent_at, piece = now(), self._first
        while not (piece.is_last or self._is_gone or wake_ups.is_stopping or now() >= ends_at):
            if now() >= next_check:
                if not await self._is_valid():
                    return
                next_check = now() + CREDENTIAL_SECONDS
            is_news = not piece.has_more
            if is_news and not await self._waiter.wait(min(ends_at, next_check, sent_at + COMMENT_SECONDS)):
                if now() >= sent_at + COMMENT_SECONDS:
                    await _send(send, COMMENT)
                    sent_at = now()
                continue
            if not is_news:
                await asyncio.sleep(0)  # SQLite's reads let nobody else have a turn
            piece = await self._read()
            if piece.data:
                await _send(send, piece.data)
                sent_at = now()
                if is_news:
                    _observe_latency(piece.times)

    async def _is_valid(self) -> bool:
        """Whether the caller's credential is valid, as far as a server can say or could lately."""
        now = asyncio.get_running_loop().time
        try:
            await self._check_credential()
        except exceptions.AuthenticationFailed:
            return False
        except (DatabaseError, InterfaceError, TimeoutError):
            return now() - self._checked_at < UNCHECKED_SECONDS
        self._checked_at = now()
        return True

    async def _read(self) -> Piece:
        try:
            async with asyncio.timeout(settings.DATABASE_DEADLINE_SECONDS):
                return await self._source.read(self._waiter.tick)
        # The job is gone, or the cursor, or links cannot be signed: the caller learns it when it asks again.
        except (exceptions.APIException, CannotSign):
            return Piece(is_last=True)
        except (DatabaseError, InterfaceError, TimeoutError) as error:
            logger.warning("A stream waits for the database: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            self._waiter.wake.set()  # or the news that woke it would be forgotten
            return Piece()


def _observe_latency(times: tuple[float, ...]) -> None:
    now = time()
    for moment in times:
        LATENCY.observe(max(0.0, now - moment))


async def _send(send: Send, body: bytes, *, more_body: bool = True) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send({"type": "http.response.body", "body": body, "more_body": more_body})


def unix_time(rfc3339: str) -> float:
    return datetime.fromisoformat(rfc3339).timestamp()


def event_frame(event_id: str, data: bytes) -> bytes:
    """One event; ``data`` is JSON, which has no line break."""
    return b"id: %b\ndata: %b\n\n" % (event_id.encode(), data)


def end_frame(status: str) -> bytes:
    """Says that the job is over. Without an id: a client keeps that of the last event."""
    return b'event: end\ndata: {"status": "%b"}\n\n' % status.encode()


class SharedReads:
    """Reads that several streams make at the same time for the same thing, and share."""

    def __init__(self) -> None:
        self._running: dict[Any, asyncio.Future[Any]] = {}

    async def read(self, key: Any, read: Callable[[], Awaitable[Any]]) -> Any:
        """What ``read`` returns. ``key`` has the tick of the caller: a read that began before it may lack its news."""
        while running := self._running.get(key):
            result = await asyncio.shield(running)
            if result is not None:
                return result
        self._running[key] = future = asyncio.get_running_loop().create_future()
        result = None
        try:
            result = await read()
        finally:
            del self._running[key]
            future.set_result(result)  # None where it failed: each of the others tries itself
        return result


shared_reads = SharedReads()
