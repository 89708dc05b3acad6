"""Receivers of webhooks: real HTTP servers on the event loop of a test, with the behaviours of good and bad ones."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from aiohttp import web

LONGEST_SECONDS = 60.0  # for what should take one, on a slow machine


class Received(NamedTuple):
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def job(self) -> str:
        return self.id.rpartition("-")[0]

    @property
    def seq(self) -> int:
        return int(self.id.rpartition("-")[2])

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


Behaviour = Callable[["Receiver", web.Request, Received], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """What one URL received. ``behaviour`` answers; ``accepted`` has what it answered with 2xx."""

    behaviour: Behaviour
    port: int = 0
    scheme: str = "http"
    received: list[Received] = field(default_factory=list)
    accepted: list[Received] = field(default_factory=list)
    open_requests: int = 0
    most_requests: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    def order(self) -> dict[str, list[int]]:
        """The accepted numbers of each job, in the order of their arrival."""
        order: dict[str, list[int]] = {}
        for each in self.accepted:
            order.setdefault(each.job, []).append(each.seq)
        return order

    def doubles(self) -> int:
        return sum(Counter(each.id for each in self.accepted).values()) - len({each.id for each in self.accepted})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(headers, await request.read())
        self.received.append(received)
        self.open_requests += 1
        self.most_requests = max(self.most_requests, self.open_requests)
        try:
            response = await self.behaviour(self, request, received)
        finally:
            self.open_requests -= 1
        if 200 <= response.status < 300:
            self.accepted.append(received)
        return response


def answering(status: int, **headers: str) -> Behaviour:
    """``answering(429, Retry_After="2")``"""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(receiver: Receiver, request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=status, headers=named, text="noted")

    return answer


accepting = answering(204)


async def hanging(receiver: Receiver, request: web.Request, received: Received) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits that long")


async def dripping(receiver: Receiver, request: web.Request, received: Received) -> web.StreamResponse:
    """A 200 whose body never ends. The status counts."""
    response = web.StreamResponse()
    await response.prepare(request)
    receiver.accepted.append(received)
    while True:
        await response.write(b".")
        await asyncio.sleep(0.05)


async def closing_early(receiver: Receiver, request: web.Request, received: Received) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response(status=599)


refusing = answering(500)


def failing_first(times: int, behaviour: Behaviour = refusing, only: str = "") -> Behaviour:
    """Each event (or those whose id ends with ``only``) fails so often, and is then accepted."""
    seen: Counter[str] = Counter()

    async def answer(receiver: Receiver, request: web.Request, received: Received) -> web.StreamResponse:
        seen[received.id] += 1
        if received.id.endswith(only) and seen[received.id] <= times:
            return await behaviour(receiver, request, received)
        return await accepting(receiver, request, received)

    return answer


@asynccontextmanager
async def receiving(
    behaviour: Behaviour = accepting, port: int = 0, context: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[Receiver]:
    """A receiver at a port of its own."""
    receiver = Receiver(behaviour, scheme="https" if context else "http")
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, address, port, ssl_context=context)
    await site.start()
    assert site._server is not None
    receiver.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool], seconds: float = LONGEST_SECONDS) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
