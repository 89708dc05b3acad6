"""A proxy between a client and the gateway that fails as a test wishes: it refuses, delays, cuts off, holds back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ProxiedRequest:
    target: str  # path and query
    headers: dict[str, str]  # by name in lower case
    at: float  # time.monotonic()

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def is_stream(self) -> bool:
        return self.headers.get("accept") == "text/event-stream"


@dataclass(frozen=True)
class Fault:
    """What happens to one request; nothing unless given."""

    status: int = 0  # the proxy answers itself
    headers: dict[str, str] = field(default_factory=dict)  # of that answer
    without: tuple[str, ...] = ()  # request headers that are not forwarded, in lower case
    cut_after_bytes: int | None = None  # of the response, after which the connection is reset
    cut_in_order: bool = False  # closed instead of reset
    cut_after: bytes = b""  # the same behind the event of a stream that has these bytes
    stall_after: bytes = b""  # behind that event nothing comes any more
    whole_only: bool = False  # the response is passed on once it has ended


PASS = Fault()
Plan = Callable[[ProxiedRequest], Fault]


class FaultyProxy:
    """One connection of the gateway for each request. ``plan`` names the fault of a request."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.port = 0
        self.plan: Plan = lambda request: PASS
        self.requests: list[ProxiedRequest] = []
        self.answered = 0  # requests whose response has begun
        self.stalled = 0  # responses
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself refers to them weakly

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def streams(self) -> int:
        return sum(request.is_stream for request in self.requests)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(await reader.readuntil(b"\r\n\r\n"), writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        request_line, *lines = head.decode("latin-1").strip().split("\r\n")
        pairs = [line.partition(":")[::2] for line in lines]
        headers = {name.lower(): value.strip() for name, value in pairs}
        request = ProxiedRequest(request_line.split()[1], headers, time.monotonic())
        self.requests.append(request)
        fault = self.plan(request)
        if fault.status:
            answer = {"Content-Length": "0", "Connection": "close"} | fault.headers
            lines = [f"HTTP/1.1 {fault.status} Fault", *(f"{name}: {value}" for name, value in answer.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            await writer.drain()
        else:
            forwarded = {name: value for name, value in headers.items() if name not in fault.without}
            await self._forward(request_line, forwarded | {"connection": "close"}, fault, writer)

    async def _forward(
        self, request_line: str, headers: dict[str, str], fault: Fault, writer: asyncio.StreamWriter
    ) -> None:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            lines = [request_line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
            upstream.write("\r\n".join(lines).encode("latin-1"))
            if fault.whole_only:
                writer.write(await upstream_reader.read())
                await writer.drain()
                return
            passed = b""
            while chunk := await upstream_reader.read(65536):
                if fault.cut_after_bytes is not None and len(passed + chunk) > fault.cut_after_bytes:
                    writer.write(chunk[: fault.cut_after_bytes - len(passed)])
                    await self._cut(writer, fault)
                    return
                self.answered += not passed
                passed += chunk
                writer.write(chunk)
                await writer.drain()
                if passed.endswith(b"\n\n\r\n"):  # the end of an event, which is the end of a chunk
                    if fault.cut_after and fault.cut_after in passed:
                        await self._cut(writer, fault)
                        return
                    if fault.stall_after and fault.stall_after in passed:
                        self.stalled += 1
                        await asyncio.Event().wait()
        finally:
            upstream.close()

    async def _cut(self, writer: asyncio.StreamWriter, fault: Fault) -> None:
        await writer.drain()
        if not fault.cut_in_order:
            writer.transport.abort()


@contextmanager
def faulty_proxy(upstream_port: int) -> Iterator[FaultyProxy]:
    """The proxy while the block runs, in a thread."""
    proxy = FaultyProxy(upstream_port)
    loop, is_up, is_over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        is_up.set()
        await is_over.wait()
        server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())  # and then cancels the connections

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    is_up.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join()
