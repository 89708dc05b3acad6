"""Clients that follow a tenant's feed by page, by stream and by waiting, through whatever happens to the gateway."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson

from tests.gateway import Gateway
from tests.streams import get, stream

Saved = list[str]  # the ids of the events that a reader has had
GAVE_UP = (OSError, asyncio.IncompleteReadError, IndexError, ValueError)  # of a connection that was cut off


class Reader:
    """Follows a tenant's feed, and forgets what it had not saved when it is killed."""

    def __init__(self, gateway: Gateway, token: str, number: int) -> None:
        self.gateway = gateway
        self.token = token
        self.chance = random.Random(number)
        self.saved: Saved = []
        self.cursor = ""
        self.kills = 0

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            with suppress(*GAVE_UP):
                async for ids, cursor in self.read():
                    if self.chance.random() < 0.03:
                        self.kills += 1
                        break  # killed before it saved them
                    self.saved += ids
                    self.cursor = cursor
            await asyncio.sleep(0.02)

    def read(self) -> AsyncIterator[tuple[list[str], str]]:
        """What arrived, and the cursor after it."""
        raise NotImplementedError


class PageReader(Reader):
    prefer: dict[str, str] = {}

    async def read(self) -> AsyncIterator[tuple[list[str], str]]:
        path = f"/v1/events?limit={self.chance.choice([1, 3, 20, 500])}"
        if self.cursor:
            path += f"&after={self.cursor}"
        async with get(self.gateway.port, path, self.token, **self.prefer) as answer:
            body = await answer.body()
            assert answer.status in (200, 503), body
            if answer.status == 200:
                page = orjson.loads(body)
                yield [each["id"] for each in page["events"]], page["cursor"]


class WaitingReader(PageReader):
    prefer = {"Prefer": "wait=2"}


class StreamReader(Reader):
    async def read(self) -> AsyncIterator[tuple[list[str], str]]:
        if not self.cursor:  # a stream without a cursor begins now
            async with get(self.gateway.port, "/v1/events?limit=1", self.token) as answer:
                page = orjson.loads(await answer.body())
                if answer.status != 200 or not page["events"]:
                    return
                yield [each["id"] for each in page["events"]], page["cursor"]
            return
        async with stream(self.gateway.port, "/v1/events", self.token, Last_Event_ID=self.cursor) as opened:
            assert opened.status in (200, 503), await opened.body()
            async for frame in opened.frames():
                assert frame.id is not None
                yield [frame.json["id"]], frame.id


class Crowd(threading.Thread):
    """Readers beside a test that is not asynchronous, until it stops them."""

    def __init__(self, readers: list[Reader]) -> None:
        super().__init__(daemon=True)
        self.readers = readers
        self._stopped = threading.Event()
        self.failures: list[BaseException] = []

    def run(self) -> None:
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        tasks = [asyncio.create_task(reader.follow()) for reader in self.readers]
        await asyncio.to_thread(self._stopped.wait)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        self.failures = [each for each in results if not isinstance(each, asyncio.CancelledError) and each is not None]

    def stop(self) -> None:
        self._stopped.set()
        self.join()
