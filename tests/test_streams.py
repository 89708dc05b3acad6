"""Following over a real server: streams of a job and of the feed, and requests that wait."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator

import orjson
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone
from redis.asyncio import Redis

from jobs.ingest import ledger, removal
from jobs.models import Job
from tenants import tokens
from tenants.models import ApiToken
from tests.gateway import Gateway, database_of_this_test, serving
from tests.streams import LONGEST_SECONDS, Frame, Stream, end_of, first, get, stream

pytestmark = pytest.mark.django_db(transaction=True)

# News of a transaction that is committed reaches a reader within this time, in seconds. It is promised.
PROMPTLY = 1.0


@pytest.fixture(scope="module")
def gateway(django_db_setup: None) -> Iterator[Gateway]:
    """One for all tests: it reads what each of them has committed."""
    # Links that last, so that no validator changes because they are renewed.
    with serving(database_of_this_test(), STREAMS_PER_TENANT="5", PRESIGN_TTL_SECONDS="86400") as served:
        yield served


@pytest.fixture
def job(acme):
    return ledger.open_job(acme, "MODEL_GENERATOR")


# What tests write between two events of a stream, from the event loop.
append = sync_to_async(ledger.append)
finish = sync_to_async(ledger.finish)
note = sync_to_async(ledger.note)
open_job = sync_to_async(ledger.open_job)


def events_of(job, more=""):
    return f"/v1/jobs/{job.pk}/events{more}"


def page_of(gateway, token, path):
    return orjson.loads(gateway.get(path, token).body)


def timed(frames: list[Frame]) -> list[str]:
    return [frame.json["message"] for frame in frames]


def test_a_job_is_followed_to_its_end(gateway, acme_token, job):
    async def follow() -> tuple[Stream, list[Frame]]:
        async with stream(gateway.port, events_of(job), acme_token) as opened:
            assert opened.status == 200
            frames = opened.frames()
            received = []
            for n, write in enumerate(("queued", "stage", "stage", "end")):
                began = time.monotonic()
                if write == "end":
                    await finish(job, "Done")
                else:
                    await append(job, write, f"event {n}")
                received.append(await asyncio.wait_for(anext(frames), LONGEST_SECONDS))
                assert time.monotonic() - began < PROMPTLY
            received += [frame async for frame in frames]
            assert opened.is_complete
            return opened, received

    opened, received = asyncio.run(follow())
    assert opened.headers["content-type"] == "text/event-stream"
    assert opened.headers["cache-control"] == "no-store"
    assert opened.headers["x-accel-buffering"] == "no"
    assert opened.headers["vary"] == "Authorization, Accept"
    assert "x-request-id" in opened.headers
    assert opened.retry == 2000
    *events, end = received
    assert end == Frame(None, "end", b'{"status": "SUCCESS"}')
    assert [frame.id for frame in events] == ["1", "2", "3", "4"]
    assert [frame.event for frame in events] == [None] * 4
    page = gateway.get(events_of(job), acme_token).body
    assert b"[" + b",".join(frame.data for frame in events) + b"]" in page, "byte for byte"


def test_a_stream_starts_after_its_last_event_id_or_since(gateway, acme_token, job):
    for n in range(4):
        ledger.append(job, "stage", f"event {n + 1}")

    async def ids(more: str = "", **headers: str) -> list[str | None]:
        async with stream(gateway.port, events_of(job, more), acme_token, **headers) as opened:
            expected = 4 - int(headers.get("Last-Event-ID") or (more.partition("=")[2] or 0))
            return [frame.id for frame in await first(opened, expected)]

    async def all_starts() -> None:
        assert await ids() == ["1", "2", "3", "4"]
        assert await ids("?since=2") == ["3", "4"]
        assert await ids("?since=2", **{"Last-Event-ID": "3"}) == ["4"]
        assert await ids("?since=2", **{"Last-Event-ID": ""}) == ["3", "4"]

    asyncio.run(all_starts())


def test_bad_starts_are_422_before_anything_begins(gateway, acme_token, job):
    async def problems(path: str, **headers: str) -> tuple[int, object]:
        async with stream(gateway.port, path, acme_token, **headers) as opened:
            return opened.status, [each["loc"] for each in orjson.loads(await opened.body())["detail"]]

    async def ask() -> None:
        header = ["header", "Last-Event-ID"]
        assert await problems(events_of(job), Last_Event_ID="x") == (422, [header])
        assert await problems(events_of(job, "?since=x"), Last_Event_ID="1") == (422, [["query", "since"]])
        assert await problems("/v1/events", Last_Event_ID="x") == (422, [header])
        assert await problems("/v1/events?after=x", Last_Event_ID="y") == (422, [["query", "after"]])

    asyncio.run(ask())


def test_a_job_that_is_over_ends_its_stream_and_then_has_no_content(gateway, acme_token, job):
    ledger.append(job, "queued", "one")
    ledger.fail(job, "broken")

    async def ask() -> None:
        async with stream(gateway.port, events_of(job), acme_token) as opened:
            frames = [frame async for frame in opened.frames()]
            assert [frame.id for frame in frames] == ["1", "2", None]
            assert frames[-1].json == {"status": "FAILURE"}
        async with stream(gateway.port, events_of(job), acme_token, Last_Event_ID="2") as opened:
            assert opened.status == 204
            assert "content-type" not in opened.headers

    asyncio.run(ask())


def test_a_foreign_or_unknown_job_is_answered_as_without_the_header(gateway, acme_token, globex):
    foreign = ledger.open_job(globex, "MODEL_GENERATOR")
    for job_id in (str(foreign.pk), "01JADE5XAMPK9M0Q7RS3T4V5W6", "nothing"):
        answers = [
            gateway.get(f"/v1/jobs/{job_id}/events", acme_token, Accept=accept, X_Request_ID="x")
            for accept in ("text/event-stream", "application/json")
        ]
        assert answers[0].status == 404
        assert answers[0].body == answers[1].body
        kept = [{k: v for k, v in answer.headers.items() if k.lower() != "date"} for answer in answers]
        assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("text/event-stream;charset=utf-8", True),
        ("text/event-stream, application/json;q=0.9", True),
        ("text/event-stream, */*;q=0.1", True),
        ("text/event-stream, */*", False),
        ("text/event-stream;q=0.5, application/json;q=0.5", False),
        ("application/json, text/event-stream", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_what_asks_for_a_stream(gateway, acme_token, job, accept, streams):
    ledger.append(job, "queued", "one")
    ledger.finish(job, "Done")
    answer = gateway.get(events_of(job), acme_token, Accept=accept)
    assert answer.headers["Content-Type"] == ("text/event-stream" if streams else "application/json")


def test_elsewhere_a_stream_is_not_acceptable(gateway, acme_token, job):
    for path in ("/v1/jobs", f"/v1/jobs/{job.pk}", "/job"):
        assert gateway.get(path, acme_token, Accept="text/event-stream").status == 406
    assert gateway.get(events_of(job), acme_token, Accept="text/event-stream;q=0").status == 406


def test_the_feed_is_streamed_from_now_and_continues_after_a_drop(gateway, acme_token, acme, job):
    ledger.append(job, "queued", "before")

    async def follow() -> None:
        async with stream(gateway.port, "/v1/events", acme_token) as opened:
            other = await open_job(acme, "restart")
            await append(other, "submitted", "one", hostname="gpu-1")
            await append(job, "stage", "two")
            one, two = await first(opened, 2)
            assert [frame.json["event"]["message"] for frame in (one, two)] == ["one", "two"]
            assert one.json["type"] == "job.submitted"
            assert one.json["id"] == f"{other.pk}-1"
        await append(job, "stage", "three")
        assert one.id
        assert two.id
        for last_id, expected in ((one.id, ["two", "three"]), (two.id, ["three"])):
            async with stream(gateway.port, "/v1/events", acme_token, Last_Event_ID=last_id) as opened:
                frames = await first(opened, len(expected))
                assert [frame.json["event"]["message"] for frame in frames] == expected
        page = page_of(gateway, acme_token, f"/v1/events?after={one.id}")
        assert [each["event"]["message"] for each in page["events"]] == ["two", "three"]
        data = gateway.get(f"/v1/events?after={one.id}", acme_token).body
        assert b"".join((frames[-1].data,)) in data, "byte for byte"

    asyncio.run(follow())


def test_a_stream_of_the_feed_keeps_to_its_filters(gateway, acme_token, acme, job):
    async def follow() -> None:
        async with stream(gateway.port, "/v1/events?event_type=stage", acme_token) as opened:
            await append(job, "queued", "one")
            await append(job, "stage", "two")
            await note(job, "internal")
            await append(job, "stage", "three")
            frames = await first(opened, 2)
            assert [frame.json["event"]["message"] for frame in frames] == ["two", "three"]

    asyncio.run(follow())


def test_a_revoked_token_ends_its_streams_within_five_seconds(gateway, acme, job):
    token = tokens.issue(acme, label="to be revoked")
    other = tokens.issue(acme, label="stays")

    async def follow() -> None:
        async with (
            stream(gateway.port, events_of(job), token) as revoked,
            stream(gateway.port, "/v1/events", token) as of_feed,
            stream(gateway.port, events_of(job), other) as stays,
        ):
            await append(job, "queued", "one")
            await first(revoked, 1), await first(stays, 1)
            await sync_to_async(ApiToken.objects.filter(label="to be revoked").update)(revoked_at=timezone.now())
            began = time.monotonic()
            for opened in (revoked, of_feed):
                await end_of(opened)
                assert opened.is_complete
            assert time.monotonic() - began < 5
            await append(job, "stage", "two")
            assert timed(await first(stays, 1)) == ["two"]

    asyncio.run(follow())


def test_a_tenant_at_its_bound_is_refused_and_others_are_not(gateway, acme_token, globex, job):
    globex_token = tokens.issue(globex, label="theirs")
    theirs = ledger.open_job(globex, "MODEL_GENERATOR")

    async def follow() -> None:
        held = [stream(gateway.port, events_of(job), acme_token) for _ in range(5)]
        for each in held:
            assert (await each.__aenter__()).status == 200
        async with stream(gateway.port, events_of(job), acme_token) as refused:
            assert refused.status == 429
            assert orjson.loads(await refused.body())["code"] == "TOO_MANY_STREAMS"
            assert int(refused.headers["retry-after"]) > 0
        # A request that would wait is answered at once.
        began = time.monotonic()
        async with get(gateway.port, f"/v1/jobs/{job.pk}", acme_token, Prefer="wait=20") as answered:
            assert (answered.status, "preference-applied" in answered.headers) == (200, False)
        assert time.monotonic() - began < 5
        async with stream(gateway.port, events_of(theirs), globex_token) as opened:
            assert opened.status == 200
        await held[0].__aexit__(None, None, None)
        await until(lambda: opens(gateway, events_of(job), acme_token))
        for each in held[1:]:
            await each.__aexit__(None, None, None)

    asyncio.run(follow())


@pytest.mark.full_on_postgresql  # places are counted in the cache
def test_with_a_shared_cache_the_bound_is_that_of_all_workers(acme_token, job, valkey_server):
    environment = {"STREAMS_PER_TENANT": "3", "CACHE_URL": valkey_server.url}

    async def follow(one: Gateway, other: Gateway) -> None:
        async with (
            stream(one.port, events_of(job), acme_token),
            stream(one.port, events_of(job), acme_token),
            stream(other.port, events_of(job), acme_token) as third,  # with which the other begins to count
        ):
            assert third.status == 200
            for gateway in (one, other):

                async def is_full(gateway: Gateway = gateway) -> bool:
                    return not await opens(gateway, events_of(job), acme_token)

                await until(is_full, seconds=15)
        await until(lambda: opens(other, events_of(job), acme_token), seconds=15)

    with (
        serving(database_of_this_test(), **environment) as one,
        serving(database_of_this_test(), **environment) as other,
    ):
        asyncio.run(follow(one, other))


async def opens(gateway: Gateway, path: str, token: str) -> bool:
    async with stream(gateway.port, path, token) as opened:
        return opened.status == 200


async def until(is_so, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not await is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def test_a_job_that_is_pruned_ends_its_stream(gateway, acme_token, job):
    async def follow() -> None:
        async with stream(gateway.port, events_of(job), acme_token) as opened:
            await append(job, "queued", "one")
            await first(opened, 1)
            await sync_to_async(removal.remove)(Job.all_tenants.filter(pk=job.pk))
            assert await end_of(opened) == []
            assert opened.is_complete

    asyncio.run(follow())


def test_who_waits_for_a_job_that_is_pruned_learns_it_at_once(gateway, acme_token, job):
    async def wait(path: str) -> None:
        async with get(gateway.port, path, acme_token, Prefer="wait=20") as response:
            assert response.status == 404

    async def prune() -> float:
        waiting = asyncio.gather(*(wait(path) for path in (f"/v1/jobs/{job.pk}", f"{events_of(job)}?since=0")))
        await asyncio.sleep(1)
        assert not waiting.done()
        began = time.monotonic()
        await sync_to_async(removal.remove)(Job.all_tenants.filter(pk=job.pk))
        await waiting
        return time.monotonic() - began

    assert asyncio.run(prune()) < LONGEST_SECONDS / 2


@pytest.mark.full_on_postgresql  # how a stream ends has no part in the database
def test_a_reload_ends_streams_whose_clients_go_on_at_once_and_a_stop_ends_them_too(
    transactional_db, valkey_server, acme_token, job
):
    paths = [events_of(job), "/v1/events"] * 30
    # As many as there are, so that none of the old worker may count for the new one.
    environment = {"STREAMS_PER_TENANT": str(len(paths)), "CACHE_URL": valkey_server.url}

    async def are_counted(number: int) -> bool:
        async with Redis.from_url(valkey_server.url.replace("valkey:", "redis:")) as cache:
            found = [orjson.loads(await cache.get(key) or b"{}") async for key in cache.scan_iter("*following:*")]
            return number in [sum(each.values()) for each in found]

    async def client(gateway: Gateway, path: str, everyone: asyncio.Barrier) -> None:
        async with stream(gateway.port, path, acme_token) as opened:
            assert opened.status == 200
            await everyone.wait()
            await end_of(opened)
            assert opened.is_complete
        # At this moment the old worker still sends the ends of other streams. Some clients come when the new one knows
        # the numbers of all workers.
        await asyncio.sleep(1 if path == "/v1/events" else 0)
        async with stream(gateway.port, path, acme_token) as again:
            assert again.status == 200
            await everyone.wait()
            assert len(await first(again, 1)) == 1
            await everyone.wait()
            await end_of(again)
            assert again.is_complete

    async def follow(gateway: Gateway) -> None:
        everyone = asyncio.Barrier(len(paths) + 1)
        async with asyncio.TaskGroup() as clients:
            for path in paths:
                clients.create_task(client(gateway, path, everyone))
            await everyone.wait()
            await until(lambda: are_counted(len(paths)), seconds=15)
            await asyncio.to_thread(gateway.reload)  # which returns when the old worker has ended
            await everyone.wait()
            await append(job, "stage", "news")
            await everyone.wait()
            os.kill(gateway.pid, signal.SIGTERM)

    with serving(database_of_this_test(), **environment) as gateway:
        asyncio.run(follow(gateway))


@pytest.mark.full_on_postgresql
def test_a_quiet_stream_is_kept_open_by_comments(gateway, acme_token, job):
    async def follow() -> None:
        async with stream(gateway.port, events_of(job), acme_token) as opened:

            async def read() -> None:
                async for _ in opened.frames():
                    pass

            task = asyncio.create_task(read())
            deadline = time.monotonic() + 15
            while not opened.comments and time.monotonic() < deadline:
                await asyncio.sleep(0.2)
            task.cancel()
            assert opened.comments

    asyncio.run(follow())


@pytest.mark.full_on_postgresql  # where test_feed_under_writers kills and resumes readers of streams
@pytest.mark.parametrize("readers", [10, pytest.param(100, marks=pytest.mark.full)])
def test_readers_that_are_killed_and_resumed_see_the_whole_timeline(transactional_db, acme_token, job, readers):
    last = 60

    async def write() -> None:
        chance = random.Random(1)
        for n in range(last):
            await append(job, "stage", f"event {n}", visibility=chance.choice(["public", "public", "internal"]))
        await finish(job, "Done")

    async def read(port: int, number: int) -> list[str]:
        chance, last_id = random.Random(number), ""
        received: list[str] = []
        while True:
            async with stream(port, events_of(job), acme_token, Last_Event_ID=last_id) as opened:
                assert opened.status == 200
                async for frame in opened.frames():
                    if frame.event == "end":
                        return received
                    if chance.random() < 0.1:
                        break  # killed before it saved what arrived
                    received.append(frame.data.decode())
                    last_id = frame.id or last_id

    async def follow(port: int) -> list[list[str]]:
        reading = [asyncio.create_task(read(port, number)) for number in range(readers)]
        await write()
        async with asyncio.timeout(3 * LONGEST_SECONDS):
            return await asyncio.gather(*reading)

    with serving(database_of_this_test(), STREAMS_PER_TENANT="200") as served:
        timelines = asyncio.run(follow(served.port))
        page = served.get(events_of(job), acme_token).body.decode()
    for received in timelines:
        assert "[" + ",".join(received) + "]" in page


@pytest.mark.full_on_postgresql
def test_a_stream_ends_properly_after_its_time(transactional_db, acme_token, job):
    async def follow(port: int) -> None:
        asked = time.monotonic()
        async with stream(port, events_of(job), acme_token) as opened:
            began = time.monotonic()
            assert await end_of(opened) == []
            assert opened.is_complete
            assert time.monotonic() - asked > 0.9
            assert time.monotonic() - began < 5

    with serving(database_of_this_test(), STREAM_SECONDS="1") as served:
        asyncio.run(follow(served.port))


@pytest.mark.full
def test_a_reader_that_takes_nothing_is_cut_off(gateway, acme_token, job):
    """Its stream ends half a minute after the buffers between are full, and gives its place back."""
    ledger.append(job, "queued", "one")

    async def follow() -> None:
        slow = [stream(gateway.port, events_of(job), acme_token) for _ in range(5)]
        for each in slow:
            await each.__aenter__()  # and nothing is read
        for n in range(300):
            await append(job, "stage", "x" * 9_000, extra={"text": "x" * 60_000, "n": n})
        assert not await opens(gateway, events_of(job), acme_token)
        deadline = time.monotonic() + 60
        while not await opens(gateway, events_of(job), acme_token):
            assert time.monotonic() < deadline
            await asyncio.sleep(1)
        for each in slow:
            await each.__aexit__(None, None, None)

    asyncio.run(follow())


# --- Prefer: wait ---


def wait_for(gateway, token, path, seconds=20, **headers):
    async def ask() -> tuple[Stream, bytes, float]:
        began = time.monotonic()
        async with get(gateway.port, path, token, Prefer=f"wait={seconds}", **headers) as answered:
            return answered, await answered.body(), time.monotonic() - began

    return ask()


def test_detail_waits_until_the_job_is_over(gateway, acme_token, job):
    async def follow() -> None:
        waiting = asyncio.create_task(wait_for(gateway, acme_token, f"/v1/jobs/{job.pk}"))
        await asyncio.sleep(0.5)
        await append(job, "queued", "one")
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await finish(job, "Done")
        answered, body, _ = await asyncio.wait_for(waiting, PROMPTLY)
        assert orjson.loads(body)["status"] == "SUCCESS"
        assert answered.headers["preference-applied"] == "wait=20"
        assert answered.headers["vary"] == "Authorization, Prefer"
        assert "retry-after" not in answered.headers
        # Over already: at once, and honoured all the same.
        answered, _, took = await wait_for(gateway, acme_token, f"/v1/jobs/{job.pk}")
        assert (answered.headers["preference-applied"], took < PROMPTLY) == ("wait=20", True)

    asyncio.run(follow())


def test_a_validator_that_holds_waits_until_it_does_not(gateway, acme_token, job):
    ledger.append(job, "queued", "one")

    async def follow() -> None:
        for path in (f"/v1/jobs/{job.pk}", events_of(job)):
            etag = gateway.get(path, acme_token).headers["ETag"]
            waiting = asyncio.create_task(wait_for(gateway, acme_token, path, If_None_Match=etag))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            await append(job, "stage", "two")
            answered, _, _ = await asyncio.wait_for(waiting, PROMPTLY)
            assert answered.status == 200
            etag = answered.headers["etag"]
            answered, body, took = await wait_for(gateway, acme_token, path, seconds=1, If_None_Match=etag)
            assert (answered.status, body) == (304, b"")
            assert 0.9 < took < 5
            assert answered.headers["preference-applied"] == "wait=1"

    asyncio.run(follow())


@pytest.mark.parametrize("of_feed", [False, True])
def test_events_and_feed_wait_for_the_first_event(gateway, acme_token, job, of_feed):
    ledger.append(job, "queued", "before")
    path = "/v1/events?after=latest" if of_feed else events_of(job, "?since=1")

    async def follow() -> None:
        waiting = asyncio.create_task(wait_for(gateway, acme_token, path))
        await asyncio.sleep(0.5)
        await note(job, "internal")
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await append(job, "stage", "news")
        answered, body, _ = await asyncio.wait_for(waiting, PROMPTLY)
        assert len(orjson.loads(body)["events"]) == 1
        assert answered.headers["vary"] == "Authorization, Accept, Prefer"
        nothing_follows = f"/v1/events?after={orjson.loads(body)['cursor']}" if of_feed else events_of(job, "?since=9")
        answered, body, took = await wait_for(gateway, acme_token, nothing_follows, seconds=1)
        assert orjson.loads(body)["events"] == []
        assert (0.9 < took < 5, answered.headers["preference-applied"]) == (True, "wait=1")

    asyncio.run(follow())


def test_a_head_request_never_waits(gateway, acme_token, job):
    began = time.monotonic()
    answer = gateway.get(f"/v1/jobs/{job.pk}", acme_token, method="HEAD", Prefer="wait=20")
    assert (answer.status, "Preference-Applied" in answer.headers) == (200, False)
    assert time.monotonic() - began < 5


@pytest.mark.full_on_postgresql
def test_a_waiting_caller_that_hangs_up_gives_its_place_back(gateway, acme_token, job):
    async def follow() -> None:
        waiting = [asyncio.create_task(wait_for(gateway, acme_token, f"/v1/jobs/{job.pk}")) for _ in range(6)]
        # Once the one is answered for which there is no place, the five others have theirs.
        answered, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert ["preference-applied" in each.result()[0].headers for each in answered] == [False]
        assert not await opens(gateway, events_of(job), acme_token)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: opens(gateway, events_of(job), acme_token))

    asyncio.run(follow())
