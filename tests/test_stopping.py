"""Each batch command as a process: a signal stops it after its batch, and the command that it prints does the rest."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shlex
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.stores import Store

pytestmark = pytest.mark.full_on_postgresql

JOBS, BATCH = 25, 10


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Interchange records of finished jobs, each with a picture."""
    record = {"tenant": "acme", "job_type": "MODEL_GENERATOR", "created_at": "2026-01-15T12:00:00Z"}
    event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-01-15T12:00:09Z"}
    path = tmp_path_factory.mktemp("source") / "jobs.ndjson"
    with path.open("w") as lines:
        for number in range(JOBS):
            picture = {"storage_key": f"tenants/acme/{number:02}.txt", "kind": "render", "role": "final"}
            own = {"public_id": f"01JADE5XAMPK9M0Q7RS3T4V5{number:02}", "events": [event | {"artifacts": [picture]}]}
            lines.write(f"{json.dumps(record | own)}\n")
    return path


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "artifacts" / "tenants" / "acme"
    folder.mkdir(parents=True)
    for number in range(JOBS):
        (folder / f"{number:02}.txt").write_text("a picture")
    return tmp_path / "artifacts"


@pytest.fixture(scope="module")
def whole(source):
    """The file that a store with all jobs is exported as."""
    return source.with_name("whole.ndjson")


@pytest.fixture(scope="module")
def filled(new_store, source, whole):
    store = new_store("acme")
    store.run_all(["backfill_jobs", source], ["export_jobs", whole])
    assert len(whole.read_bytes().splitlines()) == JOBS
    return store


@pytest.fixture
def store(new_store, filled, pictures):
    return dataclasses.replace(new_store(like=filled), environment={"ARTIFACTS_DIR": str(pictures)})


# --- What each does, and how it is seen that all of it was done ---------------------------------------------------


def loading(store, new_store, source, whole, tmp_path):
    empty = new_store("acme")
    yield empty, ["backfill_jobs", source]
    assert (tmp_path / "after.ndjson").read_bytes() == whole.read_bytes()


def folding(store, new_store, source, whole, tmp_path):
    store.execute("UPDATE jobs_job SET status = 'NOT_STARTED'")
    yield store, ["backfill_status"]
    assert (tmp_path / "after.ndjson").read_bytes() == whole.read_bytes()


def describing(store, new_store, source, whole, tmp_path):
    yield store, ["backfill_artifacts"]
    again = json.loads(store.run("backfill_artifacts").stderr)
    assert again["message"] == f"filled 0, unchanged {JOBS}, missing 0, orphaned 0, wrong tenant 0, unreadable 0"


def exporting(store, new_store, source, whole, tmp_path):
    yield store, ["export_jobs", tmp_path / "copy.ndjson"]
    assert (tmp_path / "copy.ndjson").read_bytes() == whole.read_bytes()


def pruning(store, new_store, source, whole, tmp_path):
    yield store, ["prune_jobs", "--older-than", "30d", "--record", tmp_path / "pruned.ndjson"]
    assert (tmp_path / "after.ndjson").read_bytes() == b""
    pruned = [json.loads(line)["public_id"] for line in (tmp_path / "pruned.ndjson").read_text().splitlines()]
    assert len(set(pruned)) == len(pruned) == JOBS


# --- How it is stopped --------------------------------------------------------------------------------------------


def by_sigterm(store: Store, command: list[object], checkpoint: Path) -> str:
    """As systemd stops a service; returns the command it says to go on with, in the last line of its log."""
    process = store.start(*command)
    wait_for(checkpoint, process)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1, err
    lines = [json.loads(line) for line in err.splitlines()]
    assert (lines[-1]["level"], lines[-1]["logger"]) == ("ERROR", command[0])
    assert lines[-1]["message"].startswith("Stopped")
    return lines[-1]["resume"]


def by_ctrl_c(store: Store, command: list[object], checkpoint: Path) -> str:
    """Typed on a terminal; returns the last line on it."""
    screen, terminal = os.openpty()
    process = store.start(
        *command,
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    wait_for(checkpoint, process)
    os.write(screen, b"\x03")
    assert process.wait(timeout=30) == 1
    shown = os.read(screen, 100_000).decode()
    os.close(terminal)
    os.close(screen)
    assert "Resume with:" in shown
    return shown.splitlines()[-1]


def wait_for(checkpoint: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a batch is done: the command rests then."""
    deadline = time.monotonic() + 30
    while not checkpoint.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


KINDS = [loading, folding, describing, exporting, pruning]
# Each stop, and each kind of place to go on after: a line and a job. That prune_jobs, export_jobs and
# backfill_artifacts resume with what they print is shown, within a process, by their own tests.
SHORT = [(loading, by_sigterm), (folding, by_ctrl_c)]


@pytest.mark.parametrize(
    ("work", "stop"),
    [
        pytest.param(work, stop, marks=() if (work, stop) in SHORT else pytest.mark.full)
        for work in KINDS
        for stop in (by_sigterm, by_ctrl_c)
    ],
)
def test_it_stops_after_its_batch_and_the_printed_command_resumes_it(
    store, new_store, source, whole, tmp_path, work, stop
):
    checkpoint = tmp_path / "the checkpoint"
    proof = work(store, new_store, source, whole, tmp_path)
    on, command = next(proof)
    begun = time.monotonic()
    again = stop(on, [*command, "--batch", BATCH, "--throttle", 60, "--checkpoint", checkpoint], checkpoint)
    assert time.monotonic() - begun < 30, "it was not rested out"
    python, manage, *rest = shlex.split(again)
    assert (python, manage, rest[0]) == ("python", "manage.py", command[0])
    assert checkpoint.exists()
    on.run_all([*rest, "--throttle", 0], ["export_jobs", tmp_path / "after.ndjson"])
    assert not checkpoint.exists()
    with pytest.raises(StopIteration):
        next(proof)
