"""Security test 9: a load that is killed repeatedly has the same result as one that is not."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.records import records
from tests.stores import PostgreSQLStores, SQLiteStores, Store

TENANTS = ("acme", "globex")
GOES_ON, BEGINS_AGAIN = True, False
# Lines, lines in a batch, and for each load how it is taken up after each of its crashes: from its checkpoint, or at
# the first line. Every other crash is of the database server where there is one: the last one of the short form, as
# only going on finds a checkpoint of what was not committed.
SIZES = [
    pytest.param((1_000, 50, [[BEGINS_AGAIN, GOES_ON]]), id="short"),
    pytest.param((100_000, 500, [[GOES_ON] * 40, [BEGINS_AGAIN] * 20]), id="60", marks=pytest.mark.full),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "jobs.ndjson"


def crash_until_done(
    store: Store, source: Path, batch: int, ways_on: list[bool], server: servers.PostgreSQL | None
) -> None:
    """Loads ``source`` with a crash for each of ``ways_on``, which says whether the load then goes on.

    A crash finds the load running, or it does not count. It is SIGKILL of the command or, every other time, an
    immediate stop of PostgreSQL, at a random line: as soon as the checkpoint says so, or a moment later. A load goes on
    from its checkpoint, or begins at the first line.
    """
    crashes = len(ways_on)
    chance = random.Random(crashes)
    # A command that waits for the database does not end with it.
    store = Store(store.url, store.folder, {**store.environment, "DATABASE_WAIT_SECONDS": "0"})
    checkpoint = source.with_name("checkpoint")
    lines = len(source.read_bytes().splitlines())
    number = started = 0
    while number < crashes:
        started += 1
        assert started <= 2 * crashes, "crashes come too late to hit anything"
        process = store.start("backfill_jobs", source, "--batch", batch, "--checkpoint", checkpoint)
        reached = lines * (number + chance.random()) / crashes
        while process.poll() is None and line_of(checkpoint) < reached:
            time.sleep(0.001)
        if number % 4 >= 2:
            time.sleep(chance.random() * 0.05)
        if server and number % 2:
            server.stop(signal.SIGQUIT)
            output = process.communicate(timeout=60)
            assert process.returncode in (0, 1), output  # it says so, and ends
            server.start()
        else:
            process.kill()
            output = process.communicate(timeout=60)
            assert process.returncode in (0, -signal.SIGKILL), output  # it went on until then
        if ways_on[number] == BEGINS_AGAIN:
            checkpoint.unlink(missing_ok=True)
        number += process.returncode != 0


def line_of(checkpoint: Path) -> int:
    """How far a run is; 0 before its first batch and after its last."""
    with suppress(FileNotFoundError):
        return int(json.loads(checkpoint.read_text())["line"])
    return 0


def check_crashes(
    stores: PostgreSQLStores | SQLiteStores, source: Path, size: tuple[int, int, list[list[bool]]], server: Any = None
) -> int:
    """The number of crashes."""
    number, batch, loads = size
    source.write_bytes(b"".join(records(number, TENANTS)))
    whole, copy, checkpoint = (source.with_name(name) for name in ("whole", "copy", "checkpoint"))
    stores.new(*TENANTS).run_all(["backfill_jobs", source], ["export_jobs", whole])
    for ways_on in loads:
        crashed = stores.new(*TENANTS)
        crash_until_done(crashed, source, batch, ways_on, server)
        done = crashed.run_all(
            ["backfill_jobs", source, "--batch", batch, "--checkpoint", checkpoint],
            ["export_jobs", copy],
            ["backfill_status", "--dry-run"],
        )
        assert not checkpoint.exists()
        assert copy.read_bytes() == whole.read_bytes()
        assert done.stdout.decode().endswith(" 0 differ\n")
    return sum(map(len, loads))


@pytest.fixture(scope="module")
def durable_server() -> Iterator[servers.PostgreSQL]:
    """A server that keeps what it has confirmed."""
    with servers.postgresql(durable=True) as server:
        yield server


@pytest.mark.postgresql
@pytest.mark.parametrize("size", SIZES)
def test_crashes_of_command_and_server_on_postgresql(durable_server, source, tmp_path, size, record_property):
    crashes = check_crashes(
        PostgreSQLStores(tmp_path, durable_server, f"crash_{size[0]}"), source, size, durable_server
    )
    record_property("cases", crashes)


@pytest.mark.sqlite
@pytest.mark.parametrize("size", SIZES)
def test_crashes_of_the_command_on_sqlite(source, tmp_path, size, record_property):
    crashes = check_crashes(SQLiteStores(tmp_path), source, size)
    record_property("cases", crashes)
