"""Waiting readers and news, in one process: what a poll at the wrong moment must not lose."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from jobs.api.following import places
from jobs.api.following.prefer import preferred_wait
from jobs.api.following.streams import EventStream, Piece
from jobs.api.following.wakeups import POLL_SECONDS, wake_ups
from jobs.api.v1.queries import EVENTS
from jobs.ingest import ledger
from jobs_gateway.application import with_middleware
from jobs_gateway.settings import cache as cache_settings
from tenants.shared_cache import shared_cache
from tests.client import run
from tests.streams import LONGEST_SECONDS


async def until_the_news(job, token) -> bytes:
    """What a stream of the job's events sends, up to the event "news"."""
    gone, received = asyncio.Event(), asyncio.Queue[Any]()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    headers = {"host": "testserver", "authorization": f"Bearer {token}", "accept": "text/event-stream"}
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": f"/v1/jobs/{job.pk}/events",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }
    task = asyncio.ensure_future(with_middleware(None)(scope, receive, received.put))
    body = b""
    async with asyncio.timeout(LONGEST_SECONDS):
        while b"news" not in body:
            body += (await received.get()).get("body", b"")
    gone.set()
    await task
    return body


# Two reads at a time: on PostgreSQL a connection, which is what these tests have, runs one.
@pytest.mark.sqlite
@pytest.mark.django_db
def test_news_between_the_first_read_and_the_waiting_is_not_lost(acme, acme_token, monkeypatch):
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    read = EVENTS.fetch_document

    async def read_before_the_news(*args):
        monkeypatch.setattr(EVENTS, "fetch_document", read)
        document = await read(*args)
        await sync_to_async(ledger.append)(job, "queued", "news")
        await asyncio.sleep(3 * POLL_SECONDS)  # a poll finds the news before the reader has its page
        return document

    monkeypatch.setattr(EVENTS, "fetch_document", read_before_the_news)

    async def follow() -> bytes:
        # Another one waits, so that positions are polled already.
        with wake_ups.waiter(acme.pk):
            await asyncio.sleep(2 * POLL_SECONDS)
            return await until_the_news(job, acme_token)

    assert b'"message":"news"' in run(follow)


@pytest.mark.sqlite
@pytest.mark.django_db
def test_a_stream_that_opens_after_the_news_shares_no_read_of_before(acme, acme_token, monkeypatch):
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    read = EVENTS.fetch_document
    late = []

    async def read_before_the_news(*args):
        monkeypatch.setattr(EVENTS, "fetch_document", read)
        document = await read(*args)
        await sync_to_async(ledger.append)(job, "queued", "news")
        await asyncio.sleep(3 * POLL_SECONDS)  # a poll finds the news, and wakes those who are registered
        late.append(asyncio.ensure_future(until_the_news(job, acme_token)))
        await asyncio.sleep(POLL_SECONDS)  # the other stream is at its first read
        return document

    monkeypatch.setattr(EVENTS, "fetch_document", read_before_the_news)

    async def follow() -> tuple[bytes, bytes]:
        with wake_ups.waiter(acme.pk):
            await asyncio.sleep(2 * POLL_SECONDS)
            return await until_the_news(job, acme_token), await late[0]

    assert all(b'"message":"news"' in body for body in run(follow))


@pytest.mark.full_on_postgresql  # nothing is asked of the database
def test_a_worker_whose_streams_were_all_closed_does_not_count_them_as_anothers(valkey_server, settings, monkeypatch):
    monkeypatch.setattr(places, "SHARE_SECONDS", 0.05)
    settings.CACHES = {"default": cache_settings(valkey_server.url)}
    settings.STREAMS_PER_TENANT = 3

    async def take(taken: places.Places, number: int) -> None:
        with ExitStack() as held:
            for _ in range(number):
                held.enter_context(taken.taken(1, places.STREAMS))
                await asyncio.sleep(0.1)  # it is written, and the others are read

    async def follow() -> None:
        one, other = places.Places(), places.Places()
        await take(one, 3)
        await take(one, 3)
        while one._task is None or not one._task.done():
            await asyncio.sleep(0.01)
        await take(one, 3)
        await one.leave()
        await take(other, 3)
        await other.leave()
        await shared_cache.close()

    asyncio.run(follow())


@pytest.mark.sqlite  # its reads, which never wait, are what this is about
def test_others_have_their_turn_between_pages_that_hold_nothing():
    async def follow() -> None:
        turns = [0]
        seen: list[int] = []

        async def others() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0)

        class NothingForLong:
            async def read(self, tick: int) -> Piece:
                seen.append(turns[0])
                return Piece(has_more=True, is_last=len(seen) == 10)

        async def receive() -> dict[str, str]:
            await asyncio.sleep(LONGEST_SECONDS)
            return {"type": "http.disconnect"}

        async def send(message: object) -> None: ...

        async def check() -> None: ...

        task = asyncio.create_task(others())
        with wake_ups.idle_waiter() as waiter:
            stream = EventStream(NothingForLong(), Piece(has_more=True), waiter, receive, check, ExitStack())
            await stream.send(send, "GET")
        task.cancel()
        assert len(set(seen)) == 10

    asyncio.run(follow())


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=10", 10),
        ("wait=60", 60),
        ("wait=61", 60),
        (f"wait={'9' * 5000}", 60),
        ("Wait = 5", 5),
        ('wait="7"', 7),
        ("wait=3; foo=bar", 3),
        ("respond-async, wait=4", 4),
        ('foo="a, wait=9", wait=2', 2),
        ("wait=1, wait=30", 1),
        ("wait=x, wait=30", None),
        ("wait=0", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait", None),
        ("wait=", None),
        ("await=3", None),
        ("", None),
        ('"', None),
    ],
)
def test_the_wait_that_a_caller_prefers(prefer, seconds):
    assert preferred_wait(prefer) == seconds
