"""While writers append and roll back, receivers misbehave and workers are killed, every event arrives in order.

At least once: what arrives twice was under way, or was not written yet, when a worker was killed. Nothing arrives that
is internal, another tenant's, or was rolled back.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from django.db import InterfaceError, OperationalError, connection, connections, transaction

from jobs.ingest import ledger
from jobs.models import JobEvent
from jobs.webhooks import delivery, endpoints, worker
from jobs.webhooks.models import Attempt, DeliveryWorker, Endpoint
from tests.gateway import database_of_this_test
from tests.leak_checks import watch
from tests.receivers import (
    LONGEST_SECONDS,
    Behaviour,
    Received,
    Receiver,
    accepting,
    answering,
    closing_early,
    dripping,
    failing_first,
    hanging,
    receiving,
)

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Size:
    events: int
    jobs: int
    endpoints: int  # of two tenants
    kills: int
    workers: int
    seconds: float  # to wait for the last events
    database_goes: bool = False  # away for a moment after every third kill


SHORT = Size(events=240, jobs=24, endpoints=8, kills=1, workers=2, seconds=120, database_goes=True)
FULL = Size(events=20_000, jobs=200, endpoints=20, kills=20, workers=2, seconds=900, database_goes=True)
SHORT_SQLITE = Size(events=80, jobs=10, endpoints=6, kills=1, workers=1, seconds=120)
FULL_SQLITE = Size(events=2_000, jobs=40, endpoints=10, kills=5, workers=1, seconds=600)


async def randomly(receiver: Receiver, request: web.Request, received: Received) -> web.StreamResponse:
    """Mostly accepts, and does everything else now and then. Every event is accepted sooner or later."""
    chance = random.random()
    behaviours: list[tuple[float, Behaviour]] = [
        (0.02, answering(500)),
        (0.03, closing_early),
        (0.04, answering(302, Location="http://127.0.0.1:1/")),
        (0.045, answering(429, Retry_After="1")),
        (0.05, hanging),
        (0.07, dripping),
    ]
    for limit, behaviour in behaviours:
        if chance < limit:
            return await behaviour(receiver, request, received)
    return await accepting(receiver, request, received)


# --- Writers ---


class RolledBack(Exception):
    pass


@dataclass
class Written:
    ids: set[str] = field(default_factory=set)
    internal: set[str] = field(default_factory=set)


def write(jobs: list[Any], events: int, seed: int) -> None:
    """Appends ``events`` public events to the jobs, with internal ones and what is rolled back in between."""
    chance = random.Random(seed)
    committed = 0
    while committed < events:
        job = chance.choice(jobs)
        try:
            with transaction.atomic():
                ledger.append(job, "stage", f"{chance.random()}")
                if chance.random() < 0.1:
                    ledger.append(job, "stage", "rolled back")
                    raise RolledBack
            committed += 1
            if chance.random() < 0.2:
                ledger.note(job, "internal")
        except RolledBack:
            continue
        except (OperationalError, InterfaceError, ledger.LedgerBusy):  # the database is away, or another writer is slow
            time.sleep(0.1)
            connection.close()
    connections.close_all()


# --- Workers ---


class Workers:
    """Processes of ``deliver_webhooks``, which are killed now and then."""

    def __init__(self, number: int, folder: Path, **environment: str) -> None:
        self.log = folder / "workers.log"
        self.environment = (
            os.environ
            | {
                "DATABASE_URL": database_of_this_test(),
                "DATABASE_API_URL": "",
                "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
                "DATA_DIR": str(folder),
                "PYTHONFAULTHANDLER": "1",
            }
            | environment
        )
        self.processes = [self.start() for _ in range(number)]

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.webhook_worker"],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self, number: int) -> None:
        """SIGKILL, and another one takes its place."""
        process = self.processes[number % len(self.processes)]
        assert process.poll() is None, self.log.read_text(errors="replace")[-4000:]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.processes[number % len(self.processes)] = self.start()

    def stop(self) -> None:
        """SIGTERM, when all have begun to work: one that is still starting has nothing to finish, and dies of it."""
        deadline = time.monotonic() + 60
        while not {each.pid for each in self.processes} <= begun() and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        try:
            for process in self.processes:
                assert process.wait(60) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # it writes what its threads are doing
            process.wait()
            raise AssertionError(self.log.read_text(errors="replace")[-4000:]) from None
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
        watch.record("the log of a process", self.log.read_text(errors="replace"))


def begun() -> set[int]:
    """The process ids of the workers that are at work."""
    names = DeliveryWorker.objects.values_list("name", flat=True)
    return {int(name.split("-")[-2]) for name in closing(list, names)}


def public_ids(tenant: Any) -> set[str]:
    rows = JobEvent.objects.for_tenant(tenant).filter(position__isnull=False)
    return {f"{job}-{seq}" for job, seq in rows.values_list("job_id", "seq")}


def first_arrivals(receiver: Receiver) -> dict[str, list[int]]:
    """The accepted numbers of each job, without what had arrived before."""
    seen: set[str] = set()
    order: dict[str, list[int]] = {}
    for each in receiver.accepted:
        if each.id not in seen:
            seen.add(each.id)
            order.setdefault(each.job, []).append(each.seq)
    return order


async def run(size: Size, tenants: list[Any], folder: Path, server: Any) -> int:
    """Returns the number of events that arrived twice."""
    loop = asyncio.get_running_loop()
    behaviours: list[Behaviour] = [accepting, randomly, failing_first(1, only="3"), answering(500), hanging]
    async with AsyncExitStack() as stack:
        receivers = []
        for number in range(size.endpoints):
            # Of each five endpoints three accept everything in the end; the others never accept anything.
            receiver = await stack.enter_async_context(receiving(behaviours[number % 5]))
            receivers.append((receiver, tenants[number // 5 % 2], number % 5 < 3))
        with ThreadPoolExecutor(8) as pool:
            jobs = {}
            for tenant in tenants:
                own = [each.url for each, owner, _ in receivers if owner == tenant]
                await loop.run_in_executor(pool, make_endpoints, tenant, own)
                jobs[tenant] = await loop.run_in_executor(pool, open_jobs, tenant, size.jobs // len(tenants))
            workers = Workers(size.workers, folder)
            try:
                writing = [
                    loop.run_in_executor(pool, write, jobs[tenant], size.events // 4, seed)
                    for seed, tenant in enumerate(tenants * 2)
                ]
                healthy = [(each, owner) for each, owner, is_healthy in receivers if is_healthy]
                expected = len(healthy) * size.events // len(tenants)
                for number in range(size.kills):
                    wanted = expected * (number + 1) // (size.kills + 1)
                    await until_or(lambda wanted=wanted: sum(len(each.accepted) for each, _ in healthy) >= wanted, 60)
                    await loop.run_in_executor(pool, workers.kill, number)
                    if size.database_goes and number % 3 == 0:
                        await loop.run_in_executor(pool, take_database_away, server)
                await asyncio.gather(*writing)
                public = {tenant: await loop.run_in_executor(pool, closing, public_ids, tenant) for tenant in tenants}
                done = [(each, public[owner]) for each, owner in healthy]
                await until_or(
                    lambda: all(len({one.id for one in each.accepted}) >= len(ids) for each, ids in done), size.seconds
                )
            finally:
                await loop.run_in_executor(pool, workers.stop)
        for receiver, ids in done:
            assert {each.id for each in receiver.accepted} == ids, "none lost, none foreign, none internal"
            assert len(receiver.accepted) > size.events // 4
            for job, seqs in first_arrivals(receiver).items():
                assert seqs == sorted(seqs), f"{job} is out of order"
        for receiver, owner, is_healthy in receivers:
            assert {each.id for each in receiver.received} <= public[owner]
            if not is_healthy:
                assert receiver.received
                assert not receiver.accepted
        return sum(each.doubles() for each, _ in healthy)


async def until_or(condition: Any, seconds: float) -> None:
    """Until ``condition`` or until the time is over; what is checked afterwards says what is missing."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def closing(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    finally:
        connections.close_all()


def make_endpoints(tenant: Any, urls: list[str]) -> None:
    for url in urls:
        endpoints.create(tenant, url)
    connections.close_all()


def open_jobs(tenant: Any, number: int) -> list[Any]:
    jobs = [ledger.open_job(tenant, "MODEL_GENERATOR") for _ in range(number)]
    connections.close_all()
    return jobs


def take_database_away(server: Any) -> None:
    """As a restart does to its clients: all connections end, and there are no new ones for a second.

    The server itself goes on, because other tests use it.
    """
    name = connection.settings_dict["NAME"]
    server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        time.sleep(1)
    finally:
        server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        forget_connections()


def forget_connections() -> None:
    """Those of this process's pool, which may be dead."""
    connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()  # type: ignore[attr-defined]


def check(size: Size, tenants: list[Any], folder: Path, settings: Any, monkeypatch: Any, server: Any = None) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    monkeypatch.setattr(endpoints, "ENDPOINTS_PER_TENANT", size.endpoints)
    monkeypatch.setattr(endpoints, "check_url", lambda url: None)
    try:
        doubles = asyncio.run(run(size, tenants, folder, server))
    finally:
        forget_connections()
    # What is under way, or not written yet, when a worker is killed: at most a window of each endpoint.
    assert doubles <= (size.kills + 4) * size.endpoints * (delivery.WINDOW + 1)
    for endpoint in Endpoint.objects.all():
        assert Attempt.objects.filter(endpoint=endpoint).count() <= 1_000 + worker.TRIM_EVERY + delivery.WINDOW
        assert endpoint.is_enabled


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "size", [pytest.param(SHORT, id="short"), pytest.param(FULL, id="20000", marks=pytest.mark.full)]
)
def test_every_event_arrives_in_order(
    acme, globex, size, tmp_path, settings, monkeypatch, postgresql_server, record_property
):
    check(size, [acme, globex], tmp_path, settings, monkeypatch, postgresql_server)
    record_property("cases", size.events)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "size", [pytest.param(SHORT_SQLITE, id="short"), pytest.param(FULL_SQLITE, id="2000", marks=pytest.mark.full)]
)
def test_every_event_of_sqlite_arrives_in_order(acme, globex, size, tmp_path, settings, monkeypatch, record_property):
    check(size, [acme, globex], tmp_path, settings, monkeypatch)
    record_property("cases", size.events)


@pytest.mark.sqlite
def test_names_that_nobody_answers_for_hold_up_no_other(acme, globex, tmp_path, monkeypatch):
    """Two tenants have all the endpoints that they may have, and name servers that do not answer."""
    monkeypatch.setattr(endpoints, "check_url", lambda url: None)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with receiving() as receiver:
            with ThreadPoolExecutor(1) as pool:
                silent = [f"http://silent{number}.example/" for number in range(2 * endpoints.ENDPOINTS_PER_TENANT - 1)]
                await loop.run_in_executor(pool, make_endpoints, globex, silent[: endpoints.ENDPOINTS_PER_TENANT])
                own = [*silent[endpoints.ENDPOINTS_PER_TENANT :], f"http://receiver.example:{receiver.port}/"]
                await loop.run_in_executor(pool, make_endpoints, acme, own)
                jobs = [(await loop.run_in_executor(pool, open_jobs, tenant, 1))[0] for tenant in (acme, globex)]
                for job in jobs:
                    await loop.run_in_executor(pool, closing, ledger.append, job, "stage")
                workers = await loop.run_in_executor(pool, lambda: Workers(1, tmp_path, NAMES="1"))
                try:
                    # Once their attempts have ended, all the look-ups are under way.
                    deadline = time.monotonic() + LONGEST_SECONDS
                    while await loop.run_in_executor(pool, closing, failed_endpoints) < len(silent):
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.1)
                    received = len(receiver.accepted)
                    for job in jobs:
                        await loop.run_in_executor(pool, closing, ledger.append, job, "stage")
                    await until_or(lambda: len(receiver.accepted) > received, LONGEST_SECONDS)
                    assert len(receiver.accepted) > received
                finally:
                    await loop.run_in_executor(pool, workers.stop)

    def failed_endpoints() -> int:
        return Attempt.objects.filter(error__startswith="no answer").values("endpoint").distinct().count()

    asyncio.run(run())
    forget_connections()
