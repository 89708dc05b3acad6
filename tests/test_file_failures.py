"""Files that cannot be read or written: what was stored, which file it was and why, and how to resume."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from ulid import ULID

from jobs.ingest import ledger
from jobs.management import id_list
from jobs.management.batches import IncompleteRun
from jobs.models import Job
from tests.shared_servers import BUCKET

pytestmark = [pytest.mark.django_db, pytest.mark.full_on_postgresql]


def lines(number: int) -> list[bytes]:
    record = {"tenant": "acme", "job_type": "restart", "created_at": "2026-04-15T12:00:00Z"}
    # It does not compress well. The same each time: of other bytes the damaged ones may be valid deflate by chance.
    padding = {"request": {"padding": random.Random(1).randbytes(300).hex()}}
    return [
        json.dumps({"public_id": str(ULID.from_int(index))} | record | padding).encode() + b"\n"
        for index in range(number)
    ]


def damaged(content: bytes) -> bytes:
    """With 100 bytes in the middle that deflate does not understand."""
    middle = len(content) // 2
    return content[:middle] + b"\xff" * 100 + content[middle + 100 :]


DAMAGE: dict[str, Any] = {
    "cut off": lambda content: content[: len(content) // 2],
    "cut off in its last bytes": lambda content: content[:-3],
    "damaged in the middle": damaged,
    "with a wrong checksum": lambda content: content[:-8] + b"\0\0\0\0" + content[-4:],
    "with bytes behind its end": lambda content: content + b"trailing",
}


def backfill(*arguments: object, **options: object) -> tuple[str, IncompleteRun | CommandError | None]:
    out = io.StringIO()
    try:
        call_command("backfill_jobs", *map(str, arguments), stdout=out, stderr=io.StringIO(), **options)
    except CommandError as error:
        return out.getvalue(), error
    return out.getvalue(), None


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_gzip_file_that_cannot_be_read_to_its_end_is_loaded_as_far_as_it_can_be(acme, tmp_path, damage):
    file = tmp_path / "jobs.ndjson.gz"
    whole = gzip.compress(b"".join(lines(60)), mtime=0)
    file.write_bytes(damage(whole))
    out, error = backfill(file, batch=7)
    stored = Job.all_tenants.count()
    assert out == f"loaded {stored}, unchanged 0, rejected 0\n"
    assert isinstance(error, IncompleteRun)
    assert error.returncode == 1
    assert error.why.startswith(f"Cannot read {file} to its end: it")
    assert error.why.endswith(f", after line {stored}")
    assert error.resume_command == f"python manage.py backfill_jobs {file} --batch 7 --after-line {stored}"
    assert "\n" not in error.why

    file.write_bytes(whole)
    out, error = backfill(*error.resume_command.split()[3:])
    assert (out, error) == (f"loaded {60 - stored}, unchanged 0, rejected 0\n", None)
    assert Job.all_tenants.count() == 60


def test_every_line_before_the_damage_is_loaded(acme, tmp_path):
    file = tmp_path / "jobs.ndjson.gz"
    file.write_bytes(gzip.compress(b"".join(lines(5))) + b"trailing")
    assert backfill(file)[0] == "loaded 5, unchanged 0, rejected 0\n"


@pytest.mark.parametrize(
    "damage",
    # The others differ in what is said, which a file shows.
    [
        pytest.param(damage, id=name, marks=() if name in ("cut off", "damaged in the middle") else pytest.mark.full)
        for name, damage in DAMAGE.items()
    ],
)
def test_a_gzip_object_of_a_bucket_is_loaded_as_far_as_it_can_be(acme, s3_store, s3_server, damage):
    content = lines(60)
    whole = gzip.compress(b"".join(content), mtime=0)
    client = s3_server.client()
    client.put_object(Bucket=BUCKET, Key="dump/a.ndjson", Body=b"".join(content[:10]))
    client.put_object(Bucket=BUCKET, Key="dump/b.ndjson.gz", Body=damage(whole))
    out, error = backfill(f"s3://{BUCKET}/dump/", batch=7)
    stored = Job.all_tenants.count()
    assert out.startswith(f"loaded {stored}, ")
    assert isinstance(error, IncompleteRun)
    assert error.why.startswith(f"Cannot read s3://{BUCKET}/dump/b.ndjson.gz to its end: it")
    place = error.why.rpartition("after line ")[2]
    assert place.endswith(" of dump/b.ndjson.gz")
    line = place.split()[0]
    assert error.resume_command.endswith(f"--batch 7 --from-object dump/b.ndjson.gz --after-line {line}")

    client.put_object(Bucket=BUCKET, Key="dump/b.ndjson.gz", Body=whole)
    assert backfill(*error.resume_command.split()[3:])[1] is None
    assert Job.all_tenants.count() == 60


def test_a_prefix_without_an_object_is_an_error(acme, s3_store):
    _, error = backfill(f"s3://{BUCKET}/nothing/")
    assert f"s3://{BUCKET}/nothing/ names no object: no key in the bucket begins with this prefix" in str(error)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_list_of_jobs_removes_nothing(acme, job_of, tmp_path, damage):
    for _ in range(5):
        job_of(acme)
    ids = tmp_path / "ids.gz"
    id_list.write_list(str(ids), Job.all_tenants.none(), None)
    ids.write_bytes(damage(gzip.compress(gzip.decompress(ids.read_bytes()) + b"\n" * 5000, mtime=0)))
    with pytest.raises(CommandError) as error:
        call_command("prune_jobs", absent_from=str(ids), record=f"{ids}.record", stderr=io.StringIO())
    assert str(error.value).startswith((f"Cannot read the list of jobs {ids}: it", f"{ids} is"))
    assert "\n" not in str(error.value)
    assert Job.all_tenants.count() == 5


def test_a_list_of_jobs_may_begin_with_a_byte_order_mark(acme, job_of, tmp_path):
    job_of(acme)
    ids = tmp_path / "ids"
    id_list.write_list(str(ids), Job.all_tenants.all(), None)
    ids.write_bytes(b"\xef\xbb\xbf" + ids.read_bytes())
    call_command("prune_jobs", absent_from=str(ids), record=f"{ids}.record", stderr=io.StringIO())
    assert Job.all_tenants.count() == 1


# --- Which file it was --------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named_without_a_number(acme, tmp_path):
    _, error = backfill(tmp_path / "jobs.ndjson")
    assert str(error).startswith(f"Cannot read {tmp_path}/jobs.ndjson: No such file or directory, after line 0.")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("backfill_jobs", ["{folder}/jobs.ndjson", "--rejects", "{missing}"]),
        ("export_jobs", ["{missing}"]),
        ("export_jobs", ["{folder}/copy.ndjson", "--ids", "{missing}"]),
        ("prune_jobs", ["--older-than", "90d", "--record", "{missing}"]),
    ],
)
def test_a_file_that_cannot_be_written_is_named(acme, job_of, tmp_path, command, options):
    job_of(acme)
    (tmp_path / "jobs.ndjson").write_bytes(b"no\n")
    missing = tmp_path / "nowhere" / "file"
    arguments = [each.format(folder=tmp_path, missing=missing) for each in options]
    with pytest.raises(IncompleteRun) as error:
        call_command(command, *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    assert error.value.why.startswith(f"Cannot write {missing}: No such file or directory")
    assert error.value.resume_command.startswith(f"python manage.py {command} ")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("backfill_jobs", ["{folder}/jobs.ndjson"]),
        ("backfill_status", []),
        ("export_jobs", ["{folder}/copy.ndjson"]),
        ("prune_jobs", ["--older-than", "1m", "--record", "{folder}/record"]),
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_named_before_anything_is_done(acme, job_of, tmp_path, command, options):
    job_of(acme)
    (tmp_path / "jobs.ndjson").write_bytes(b"".join(lines(3)))
    checkpoint = tmp_path / "nowhere" / "checkpoint"
    arguments = [each.format(folder=tmp_path) for each in options]
    with pytest.raises(IncompleteRun) as error:
        call_command(command, *arguments, checkpoint=str(checkpoint), stdout=io.StringIO(), stderr=io.StringIO())
    assert error.value.why.startswith(f"Cannot write the checkpoint {checkpoint}: No such file or directory")
    assert error.value.resume_command.endswith(f"--checkpoint {checkpoint}")
    assert Job.all_tenants.count() == 1


def test_a_checkpoint_that_can_no_longer_be_written_ends_the_run_with_what_was_stored(acme, tmp_path):
    file, folder = tmp_path / "jobs.ndjson", tmp_path / "checkpoints"
    file.write_bytes(b"".join(lines(9)))
    folder.mkdir()
    checkpoint = folder / "checkpoint"
    write = Path.replace

    def once(path: Path, target: Path) -> Path:
        written = write(path, target)
        target.unlink()
        folder.rmdir()  # as a disk that goes away
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", once)
        out, error = backfill(file, batch=4, checkpoint=str(checkpoint))
    assert out == "loaded 8, unchanged 0, rejected 0\n"
    assert isinstance(error, IncompleteRun)
    assert error.why.startswith(f"Cannot write the checkpoint {checkpoint}: No such file or directory")
    folder.mkdir()
    assert backfill(*error.resume_command.split()[3:])[0] == "loaded 1, unchanged 8, rejected 0\n"


# --- Words of agents ----------------------------------------------------------------------------------------------


def test_events_of_agents_of_an_unknown_type_are_kept_and_counted(acme, tmp_path):
    job = ledger.open_job(acme, "restart")
    words = ["started", "heartbeat", "heartbeat", "skipped"]
    events = [
        {"seq": seq, "event_type": word, "hostname": "web-01", "created_at": "2026-04-15T12:00:00Z"}
        for seq, word in enumerate(words, 1)
    ]
    record = {"public_id": str(job.pk), "tenant": "acme", "job_type": "restart"}
    file = tmp_path / "jobs.ndjson"
    file.write_text(json.dumps(record | {"created_at": job.created_at.isoformat(), "events": events}))
    assert backfill(file)[0] == "loaded 1, unchanged 0, rejected 0, 2 agent events of an unknown type kept\n"
    job.refresh_from_db()
    assert (job.status, job.agents_completed) == ("SUCCESS", 1)
    assert [event.event_type for event in job.events.order_by("seq")] == words
    assert backfill(file)[0] == "loaded 0, unchanged 1, rejected 0\n"


# --- At a terminal ------------------------------------------------------------------------------------------------


def at_a_terminal(store: Any, *command: object, prompt: bytes, typed: bytes) -> tuple[int | None, str]:
    """The exit status and what is on the screen, after ``typed`` is typed at ``prompt``."""

    def become_foreground() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job would ignore it

    screen, terminal = os.openpty()
    process = store.start(
        *command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=become_foreground,
    )
    shown = b""
    while prompt not in shown and process.poll() is None:
        shown += os.read(screen, 10_000)
    # A signal that comes between the prompt and the read does not end the read.
    asleep = 0
    while asleep < 3 and process.poll() is None:
        time.sleep(0.05)
        asleep = asleep + 1 if is_sleeping(process.pid) else 0
    os.write(screen, typed)
    try:
        status = process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        status = None
        process.kill()
    shown += os.read(screen, 10_000)
    os.close(terminal)
    os.close(screen)
    return status, re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode())  # without colours


def is_sleeping(pid: int) -> bool:
    """Whether the main thread of a process waits in the kernel, as for input."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


CTRL_C, CTRL_D = b"\x03", b"\x04"
STOPPED, NO_ANSWER = "Stopped.", "Stopped: there was no answer to a question."


@pytest.mark.parametrize(
    ("command", "prompt", "typed", "status", "last_line"),
    [
        ("erase_tenant acme", b"to continue: ", CTRL_C, 1, "Nothing was removed."),
        pytest.param("erase_tenant acme", b"to continue: ", CTRL_D, 1, "Nothing was removed.", marks=pytest.mark.full),
        # Django's own, of which docs/deploy.md names the first.
        pytest.param(
            "createsuperuser --email ada@example.com",
            b"Username",
            CTRL_C,
            1,
            "Operation cancelled.",
            marks=pytest.mark.full,
        ),
        pytest.param(
            "createsuperuser --email ada@example.com", b"Username", CTRL_D, 1, NO_ANSWER, marks=pytest.mark.full
        ),
        pytest.param(
            "createsuperuser --username ada --email ada@example.com",
            b"Password: ",
            CTRL_C,
            1,
            "Operation cancelled.",
            marks=pytest.mark.full,
        ),
        # The next test shows both endings, of another command.
        pytest.param(
            "createsuperuser --username ada --email ada@example.com",
            b"Password: ",
            CTRL_D,
            1,
            NO_ANSWER,
            marks=pytest.mark.full,
        ),
        pytest.param("flush", b"to cancel: ", CTRL_C, 130, STOPPED, marks=pytest.mark.full),
        pytest.param("flush", b"to cancel: ", CTRL_D, 1, NO_ANSWER, marks=pytest.mark.full),
    ],
)
def test_a_command_that_is_stopped_at_a_prompt_changes_nothing(new_store, command, prompt, typed, status, last_line):
    store = new_store("acme")
    ended, shown = at_a_terminal(store, *command.split(), prompt=prompt, typed=typed)
    assert ended == status, shown
    assert shown.rstrip().splitlines()[-1] == last_line
    assert "Traceback" not in shown
    assert "CommandError" not in shown
    assert store.rows("SELECT slug FROM tenants_tenant") == [("acme",)]


def test_the_password_of_a_user_stays_when_its_command_is_stopped(new_store):
    store = new_store()
    store.execute(
        "INSERT INTO auth_user (username, password, email, first_name, last_name, is_staff, is_superuser, is_active, "
        "date_joined) VALUES ('ada', 'as it was', 'ada@example.com', '', '', true, true, true, '2026-04-15 12:00:00')"
    )
    for typed, ended in ((CTRL_C, (130, STOPPED)), (CTRL_D, (1, NO_ANSWER))):
        status, shown = at_a_terminal(store, "changepassword", "ada", prompt=b"Password: ", typed=typed)
        assert (status, shown.rstrip().splitlines()[-1]) == ended
        assert "Traceback" not in shown
        assert store.rows("SELECT password FROM auth_user WHERE username = 'ada'") == [("as it was",)]
