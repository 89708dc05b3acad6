"""Batteries 9 and 10: a backfill that is killed again and again ends as if it never was, on whichever database."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import servers
from tests.records import records
from tests.stores import PostgreSQLStores, SQLiteStores, Store

TENANTS = ("acme", "globex")
SIZES = [
    pytest.param((1_500, 50, 4), id="short"),
    pytest.param((100_000, 500, 60), id="60", marks=pytest.mark.full),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "jobs.ndjson"


def new(stores: PostgreSQLStores | SQLiteStores) -> Store:
    store = stores.new()
    store.add_tenants(*TENANTS)
    return store


def crash_until_done(
    store: Store, source: Path, batch: int, crashes: int, servers_too: servers.PostgreSQL | None
) -> int:
    """Loads ``source`` with that many crashes on the way; the number that found the load running.

    Every other run goes on from the checkpoint, and the rest begin again at the first line. A crash is SIGKILL of the
    command or, in turn, an immediate stop of PostgreSQL, at a random moment after a random line.
    """
    chance = random.Random(crashes)
    checkpoint = source.with_name("checkpoint")
    lines = len(source.read_bytes().splitlines())
    hit = 0
    for number in range(crashes):
        if number % 2:
            checkpoint.unlink(missing_ok=True)
        process = store.start("backfill_jobs", source, "--batch", batch, "--checkpoint", checkpoint)
        reached = lines * (number + chance.random()) / crashes
        while process.poll() is None and line_of(checkpoint) < reached:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.05)
        if servers_too and number % 4 >= 2:
            servers_too.stop(signal.SIGQUIT)
            output = process.communicate(timeout=60)
            assert process.returncode in (0, 1), output  # it says so, and ends
            servers_too.start()
        else:
            process.kill()
            process.communicate(timeout=60)
        hit += process.returncode != 0
    store.run("backfill_jobs", source, "--batch", batch, "--checkpoint", checkpoint)
    assert not checkpoint.exists()
    return hit


def line_of(checkpoint: Path) -> int:
    """How far a run is; 0 before its first batch and after its last."""
    with suppress(FileNotFoundError):
        return int(json.loads(checkpoint.read_text())["line"])
    return 0


def check_crashes(
    stores: PostgreSQLStores | SQLiteStores, source: Path, size: tuple[int, int, int], server=None
) -> None:
    number, batch, crashes = size
    source.write_bytes(b"".join(records(number, TENANTS)))
    unbroken, crashed = new(stores), new(stores)
    unbroken.run("backfill_jobs", source)
    hit = crash_until_done(crashed, source, batch, crashes, server)
    assert hit > crashes / 2
    assert crashed.export() == unbroken.export()
    assert crashed.run("backfill_status", "--dry-run").stdout.decode().endswith(" 0 differ\n")
    print(f"battery 9: {crashes} crashes of a load of {number:,} lines, {hit} of them in its midst")  # noqa: T201


@pytest.fixture(scope="module")
def durable_server() -> Iterator[servers.PostgreSQL]:
    """A server that keeps what it has confirmed."""
    with servers.postgresql(durable=True) as server:
        yield server


@pytest.mark.postgresql
@pytest.mark.parametrize("size", SIZES)
def test_crashes_of_command_and_server_on_postgresql(durable_server, source, tmp_path, size):
    check_crashes(PostgreSQLStores(tmp_path, durable_server, prefix=f"s{size[2]}_"), source, size, durable_server)


@pytest.mark.sqlite
@pytest.mark.parametrize("size", SIZES)
def test_crashes_of_the_command_on_sqlite(source, tmp_path, size):
    check_crashes(SQLiteStores(tmp_path), source, size)


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "size",
    [pytest.param((80, 300), id="short"), pytest.param((1_000, 10_000), id="1000-and-10000", marks=pytest.mark.full)],
)
def test_round_trip_between_postgresql_and_sqlite(new_store, tmp_path, source, size):
    jobs, events = size
    postgresql, sqlite, postgresql_again = new_store(), SQLiteStores(tmp_path).new(), new_store()
    for store in (postgresql, sqlite, postgresql_again):
        store.add_tenants(*TENANTS)
    source.write_bytes(b"".join(records(jobs, TENANTS, longest=events)))
    postgresql.run("backfill_jobs", source)
    first = postgresql.export()
    sqlite.run("backfill_jobs", "-", stdin=first)
    second = sqlite.export()
    postgresql_again.run("backfill_jobs", "-", stdin=second)
    assert postgresql_again.export() == second == first
    assert len(first.splitlines()) == jobs
    print(f"battery 10: {jobs:,} jobs, one of {events:,} events")  # noqa: T201 - a battery says its count
