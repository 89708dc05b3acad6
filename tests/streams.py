"""A client of streams on a bare socket: what arrives, byte by byte, with nothing that a library would smooth over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson


class Frame(NamedTuple):
    """One event of a stream, as its lines say it."""

    id: str | None
    event: str | None
    data: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.data)


@dataclass
class Stream:
    status: int
    headers: dict[str, str]  # by name in lower case
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    comments: int = 0
    retry: int | None = None
    is_complete = False  # whether the response ended properly

    async def body(self) -> bytes:
        """All that is left, of a response of any kind."""
        return b"".join([chunk async for chunk in self._chunks()])

    async def frames(self) -> AsyncIterator[Frame]:
        """Every event until the response ends, properly or not."""
        buffer = b""
        async for chunk in self._chunks():
            buffer += chunk
            while b"\n\n" in buffer:
                block, _, buffer = buffer.partition(b"\n\n")
                if frame := self._frame(block):
                    yield frame

    def close(self) -> None:
        """As a caller does that is gone."""
        self._writer.close()

    def _frame(self, block: bytes) -> Frame | None:
        fields: dict[bytes, bytes] = {}
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            fields[name] = value.removeprefix(b" ")
        if b"" in fields:
            self.comments += 1
        if b"retry" in fields:
            self.retry = int(fields[b"retry"])
        if b"data" not in fields:
            return None
        texts = {name: fields[name].decode() if name in fields else None for name in (b"id", b"event")}
        return Frame(texts[b"id"], texts[b"event"], fields[b"data"])

    async def _chunks(self) -> AsyncIterator[bytes]:
        if "content-length" in self.headers:
            yield await self._reader.readexactly(int(self.headers["content-length"]))
            return
        if self.headers.get("transfer-encoding") != "chunked":
            return
        while size := await self._reader.readline():
            if length := int(size, 16):
                yield (await self._reader.readexactly(length + 2))[:-2]
            else:
                self.is_complete = True
                return


@asynccontextmanager
async def get(port: int, path: str, token: str, **headers: str) -> AsyncIterator[Stream]:
    """The response to a request; ``Last_Event_ID="3"`` sends ``Last-Event-ID: 3``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    given = {"Host": "localhost", "Authorization": f"Bearer {token}", "Connection": "close"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
    try:
        status = int((await reader.readline()).split()[1])
        received = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.decode().partition(":")
            received[name.lower()] = value.strip()
        yield Stream(status, received, reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def stream(port: int, path: str, token: str, **headers: str) -> AsyncIterator[Stream]:
    """As :func:`get`, with ``Accept: text/event-stream``."""
    async with get(port, path, token, Accept="text/event-stream", **headers) as response:
        yield response


LONGEST_SECONDS = 20.0  # for what should take one


async def first(opened: Stream, number: int) -> list[Frame]:
    """The next ``number`` events of a stream, or those until it ends. Raises TimeoutError."""
    frames: list[Frame] = []
    async with asyncio.timeout(LONGEST_SECONDS):
        async for frame in opened.frames():
            frames.append(frame)
            if len(frames) == number:
                break
    return frames


async def end_of(opened: Stream) -> list[Frame]:
    """All that is left of a stream, which ends. Raises TimeoutError."""
    async with asyncio.timeout(LONGEST_SECONDS):
        return [frame async for frame in opened.frames()]
