"""``backfill_jobs - --follow``: records from a pipe are in the store within a second."""

from __future__ import annotations

import json
import signal
import time

import pytest
from ulid import ULID

pytestmark = pytest.mark.full_on_postgresql


def line(number):
    record = {"public_id": str(ULID.from_int(number)), "tenant": "acme", "job_type": "restart"}
    return json.dumps(record | {"created_at": "2026-04-15T12:00:00Z"}).encode() + b"\n"


@pytest.fixture
def followed(new_store):
    """The store, and the command that reads a pipe into it."""
    store = new_store("acme")
    process = store.start("backfill_jobs", "-", "--follow")
    yield store, process
    process.kill()
    process.communicate()


def say(process, text):
    process.stdin.write(text)
    process.stdin.flush()


def wait_for(store, number):
    """Seconds until so many jobs are in the store."""
    begun = time.monotonic()
    while store.jobs() < number:
        assert time.monotonic() - begun < 30
        time.sleep(0.02)
    return time.monotonic() - begun


def test_a_single_line_is_loaded_though_no_batch_is_full(followed):
    store, process = followed
    waits = []
    for number in range(1, 4):
        say(process, line(number))
        waits.append(wait_for(store, number))
    assert min(waits) < 1, "the quickest of them: other work on the machine is not the command's"
    process.stdin.close()
    process.stdin = None
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"loaded 3, unchanged 0, rejected 0\n")


def test_lines_that_keep_coming_do_not_hold_each_other_up(followed):
    store, process = followed
    say(process, line(1))
    wait_for(store, 1)  # it has started
    begun, number = time.monotonic(), 1
    while time.monotonic() - begun < 2.5:  # never silent for as long as it would wait
        number += 1
        say(process, line(number))
        time.sleep(0.02)
    early = store.jobs()
    assert early > number // 2
    wait_for(store, number)


def test_half_a_line_waits_for_its_other_half(followed):
    store, process = followed
    say(process, line(1) + line(2)[:30])
    wait_for(store, 1)
    say(process, line(2)[30:])
    wait_for(store, 2)


def test_a_run_that_goes_on_with_a_pipe_keeps_the_lines_that_were_rejected(new_store, tmp_path):
    store, rejects = new_store("acme"), tmp_path / "rejects"
    for text in (b"no\n", b"nor this\n"):
        store.run("backfill_jobs", "-", "--follow", "--rejects", rejects, stdin=text, expected=1)
    assert rejects.read_bytes() == b"no\nnor this\n"


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.full), signal.SIGTERM])
def test_a_signal_ends_it_with_all_that_was_read_and_the_pipe_still_open(followed, number):
    store, process = followed
    say(process, line(1) + line(2))
    wait_for(store, 2)
    process.send_signal(number)
    assert process.wait(timeout=30) == 1
    assert process.stdout.read() == b"loaded 2, unchanged 0, rejected 0\n"
    last = json.loads(process.stderr.read().splitlines()[-1])
    assert (last["level"], last["message"]) == ("ERROR", "Stopped, after line 2")
    assert last["resume"] == "python manage.py backfill_jobs - --follow --batch 1000"
