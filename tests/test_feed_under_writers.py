"""While writers append, load, roll back and hold transactions open, every reader of a feed gets the same order.

Readers ask by page, by stream and by waiting. They are killed and resumed from the cursor they saved, while the gateway
loses a worker, is reloaded, and loses its connections to the database.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import orjson
import pytest
from django.db import OperationalError, connection, transaction
from ulid import ULID

from jobs.ingest import bulk, ledger
from jobs.models import JobEvent
from tenants import tokens
from tests.feed_readers import PageReader, Reader, Saved, StreamReader, WaitingReader
from tests.gateway import Gateway, database_of_this_test, serving

pytestmark = pytest.mark.django_db(transaction=True)


class RolledBack(Exception):
    pass


# --- Writers ---


def write(tenants: list[Any], number: int, events: int, longest_pause: float) -> int:
    """Appends public events until so many are committed; returns how many are."""
    chance = random.Random(number)
    jobs = {tenant: ledger.open_job(tenant, "MODEL_GENERATOR") for tenant in tenants}
    committed = 0
    while committed < events:
        try:
            committed += write_once(jobs, chance, longest_pause)
        except RolledBack:
            continue
        except (OperationalError, ledger.LedgerBusy):  # another writer held SQLite's lock too long
            time.sleep(0.05)
    connection.close()
    return committed


def write_once(jobs: dict[Any, Any], chance: random.Random, longest_pause: float) -> int:
    appended = 0
    both = chance.random() < 0.2
    chosen = list(jobs.values()) if both else [chance.choice(list(jobs.values()))]
    surrounding = ledger.together(*chosen) if both else transaction.atomic()
    with surrounding:
        for job in chosen:
            for _ in range(chance.choice([1, 1, 3])):
                visibility = chance.choice(["public", "public", "internal"])
                ledger.append(job, "stage", f"{chance.random()}", visibility=visibility)
                appended += visibility == "public"
        if chance.random() < 0.02 / longest_pause:
            time.sleep(longest_pause * chance.random())  # nobody overtakes it
        if chance.random() < 0.1:
            raise RolledBack
    return appended


def load(tenants: list[Any], number: int, jobs: int) -> None:
    """A bulk load beside the writers."""
    chance = random.Random(number)
    lines = []
    for _ in range(jobs):
        created_at = "2026-04-15T12:00:00Z"
        events = [
            {"seq": seq, "event_type": "stage", "created_at": created_at, "message": "loaded"}
            for seq in range(1, chance.randint(2, 5))
        ]
        events[0]["visibility"] = "internal"
        record = {"public_id": str(ULID()), "tenant": chance.choice(tenants).slug, "job_type": "MODEL_GENERATOR"}
        lines.append(orjson.dumps(record | {"created_at": created_at, "events": events}))
    for start in range(0, len(lines), 10):
        for _ in bulk.load(lines[start : start + 10], attempt=patiently):
            pass
    connection.close()


def patiently(work: Callable[[], bulk.BatchResult]) -> bulk.BatchResult:
    while True:
        try:
            return work()
        except OperationalError:  # another writer held SQLite's lock too long
            time.sleep(0.05)


# --- Faults ---


async def disturb(gateway: Gateway, written: Event, kinds: list[str]) -> list[str]:
    done: list[str] = []
    for kind in kinds:
        # granian takes a worker that ends within 5.5 s of its start for one that cannot run, and stops.
        await asyncio.sleep(1 if kind != "kill" or not done else 7)
        if kind == "kill":
            os.kill(int(sorted(gateway.workers())[0]), signal.SIGKILL)
        elif kind == "reload":
            await asyncio.to_thread(gateway.reload)
        else:
            await asyncio.to_thread(terminate_connections)
        done.append(kind)
        if written.is_set() and len(done) >= 3:
            break
    return done


def terminate_connections() -> None:
    """Those of the gateway that are idle."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state = 'idle' AND pid <> pg_backend_pid() AND query LIKE '%jobs_jobcounts%'"
        )
    connection.close()


async def run(
    readers: list[Reader],
    writers: list[Callable[[], Any]],
    truth: Callable[[], dict[Any, Saved]],
    faults: Callable[[Event], Any],
) -> None:
    """Returns when every reader has as many events as its tenant's feed, or has had a minute more than the writers."""
    written = Event()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(writers) + 4) as pool:
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        disturbing = asyncio.create_task(faults(written))
        await asyncio.gather(*(loop.run_in_executor(pool, each) for each in writers))
        written.set()
        await disturbing
        final = await loop.run_in_executor(pool, truth)
        deadline = time.monotonic() + 60
        while any(len(each.saved) < len(final[each.token]) for each in readers) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        for task in following:
            assert not task.done() or task.result()
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)


def feed_of(tenant: Any) -> Saved:
    rows = JobEvent.objects.for_tenant(tenant).filter(position__isnull=False).order_by("position")
    return [f"{job}-{seq}" for job, seq in rows.values_list("job_id", "seq")]


SIZES = [pytest.param(300, 6, 0.5, id="short"), pytest.param(20_000, 20, 4, id="20000", marks=pytest.mark.full)]


@pytest.mark.postgresql
@pytest.mark.parametrize(("events", "readers", "longest_pause"), SIZES)
def test_every_reader_sees_the_same_order_each_event_once(
    acme, globex, events, readers, longest_pause, record_property
):
    kinds = ["kill", "terminate", "reload"] * (1 if events < 1000 else 4)
    check(acme, globex, events, readers, longest_pause, writers=8, workers=2, kinds=kinds)
    record_property("cases", readers)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "events", [pytest.param(100, id="short"), pytest.param(2_000, id="2000", marks=pytest.mark.full)]
)
def test_every_reader_of_sqlite_sees_the_same_order_each_event_once(acme, globex, events, record_property):
    check(acme, globex, events, readers=6, longest_pause=0.1, writers=2, workers=1, kinds=["reload"])
    record_property("cases", 6)


def check(acme, globex, events, readers, longest_pause, *, writers, workers, kinds):
    tenants = [acme, globex]
    owner = {tokens.issue(tenant, label="reader"): tenant for tenant in tenants}
    with serving(database_of_this_test(), workers=workers, STREAMS_PER_TENANT="1000") as gateway:
        crowd = [
            kind(gateway, token, number)
            for number, (kind, token) in enumerate(
                ((PageReader, StreamReader, WaitingReader)[n % 3], list(owner)[n // 3 % 2]) for n in range(readers)
            )
        ]
        per_writer = events // (writers + 1)
        work = [lambda n=n: write(tenants, n, per_writer, longest_pause) for n in range(writers)]
        work.append(lambda: load(tenants, 99, per_writer // 3))
        asyncio.run(
            run(
                crowd,
                work,
                lambda: {token: feed_of(tenant) for token, tenant in owner.items()},
                lambda written: disturb(gateway, written, kinds),
            )
        )
    public = {
        tenant: {
            f"{job}-{seq}"
            for job, seq in JobEvent.objects.for_tenant(tenant).filter(visibility="public").values_list("job_id", "seq")
        }
        for tenant in tenants
    }
    for tenant in tenants:
        assert set(feed_of(tenant)) == public[tenant], "each public event has a position, and no other"
        assert len(public[tenant]) > per_writer, "there was something to lose"
    for reader in crowd:
        assert reader.saved == feed_of(owner[reader.token])
