"""``export_jobs --since``: exports of changed jobs. No change is lost between two exports, also if one is resumed."""

from __future__ import annotations

import gzip
import io
import json
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from jobs.ingest import ledger, record_reader
from jobs.ingest.change_cursor import ChangeCursor
from jobs.models import Job
from tests.stores import exported


def export(path, **options):
    """The records by id, and the cursor to go on with."""
    err = io.StringIO()
    call_command("export_jobs", str(path), stderr=err, **options)
    said = err.getvalue().splitlines()[-1]
    records = {json.loads(line)["public_id"]: line for line in path.read_bytes().splitlines(keepends=True)}
    return records, said.partition(" --since ")[2]


def wait_for_running_transactions():
    """Returns when every transaction that runs now has ended, also those of other tests on the same server.

    An export includes again what is not older than all of them.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text::bigint")
        (now,) = cursor.fetchone()
        for _ in range(60_000):  # a test of make test-full loads two million jobs in one
            cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            if cursor.fetchone()[0] > now:
                return
            time.sleep(0.01)
    raise AssertionError("A transaction has run for ten minutes.")


# --- What changed -------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
class TestSince:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "jobs.ndjson"

    def test_only_what_changed_comes_again_and_comes_whole(self, acme, job_of, path):
        jobs = [job_of(acme) for _ in range(3)]
        wait_for_running_transactions()
        whole, cursor = export(path)
        assert whole.keys() == {str(job.pk) for job in jobs}
        assert export(path, since=cursor)[0] == {}
        ledger.append(jobs[1], "queued")
        new = ledger.open_job(acme, "MODEL_GENERATOR")
        wait_for_running_transactions()
        changed, cursor = export(path, since=cursor)
        assert changed.keys() == {str(jobs[1].pk), str(new.pk)}
        assert b"".join((whole | changed)[each] for each in sorted(whole | changed)) == exported()
        ledger.attach(jobs[2], [{"storage_key": "tenants/acme/x.png", "kind": "render", "role": "final"}])
        assert export(path, since=cursor)[0].keys() == {str(jobs[2].pk)}

    def test_a_change_that_commits_after_the_copy_comes_with_the_next(self, acme, job_of, path):
        """Its transaction is older than others that the copy has seen: a time or a sequence would have passed it by."""
        early, late = job_of(acme), job_of(acme)
        has_written, may_commit = threading.Event(), threading.Event()

        def write():
            with transaction.atomic():
                Job.all_tenants.filter(pk=early.pk).update(version=9)
                with transaction.atomic():  # a savepoint, which has a number of its own
                    Job.all_tenants.filter(pk=late.pk).update(version=9)
                has_written.set()
                may_commit.wait(30)
            connection.close()

        writer = threading.Thread(target=write)
        writer.start()
        has_written.wait(30)
        new = ledger.open_job(acme, "MODEL_GENERATOR")
        copied, cursor = export(path)
        assert copied.keys() == {str(early.pk), str(late.pk), str(new.pk)}
        may_commit.set()
        writer.join()
        assert export(path, since=cursor)[0].keys() == {str(early.pk), str(late.pk), str(new.pk)}

    @pytest.mark.parametrize("jobs", [20, pytest.param(60, marks=pytest.mark.full)])
    def test_copies_beside_writers_add_up_to_the_store(self, acme, path, jobs):
        done = threading.Event()

        def write():
            for number in range(jobs):
                with transaction.atomic():
                    job = ledger.open_job(acme, "MODEL_GENERATOR", {"number": number})
                    ledger.append(job, "queued")
                for stage in ("a", "b"):
                    ledger.append(job, "stage", stage)
                if number % 3:
                    ledger.finish(job, "Done")
            connection.close()

        writers = [threading.Thread(target=write) for _ in range(4)]
        copies, cursor = export(path)
        for writer in writers:
            writer.start()
        threading.Thread(target=lambda: [*(writer.join() for writer in writers), done.set()]).start()
        rounds = 0
        while True:
            was_done = done.is_set()
            changed, cursor = export(path, since=cursor, batch=20)
            copies |= changed
            rounds += 1
            if was_done:
                break
        assert b"".join(copies[each] for each in sorted(copies)) == exported()
        assert len(copies) == 4 * jobs
        assert rounds > 2

    def test_a_copy_that_was_stopped_ends_with_the_cursor_that_it_began_with(
        self, acme, job_of, path, tmp_path, stopped_after_a_batch
    ):
        first, _ = job_of(acme), job_of(acme)
        with stopped_after_a_batch(), pytest.raises(CommandError) as stopped:
            export(path, batch=1)
        ledger.append(first, "queued")  # after it was copied
        resume_command = str(stopped.value).splitlines()[1].split()
        err = io.StringIO()
        call_command(*resume_command[2:], stderr=err)
        cursor = err.getvalue().splitlines()[-1].partition(" --since ")[2]
        assert len(path.read_bytes().splitlines()) == 2
        assert str(first.pk) in export(tmp_path / "changed.ndjson", since=cursor)[0]

    def test_one_tenants_changes(self, acme, globex, job_of, path):
        _, cursor = export(path, tenant="acme")
        mine = job_of(acme)
        job_of(globex)
        assert export(path, tenant="acme", since=cursor)[0].keys() == {str(mine.pk)}
        with pytest.raises(CommandError, match="The cursor is for an export of acme, not of all tenants"):
            export(path, since=cursor)

    def test_a_cursor_of_another_history_is_refused(self, acme, path):
        now = ChangeCursor.now("")
        for other in (now._replace(history="7-1-00000001"), now._replace(transaction=now.transaction + 5_000)):
            with pytest.raises(CommandError, match="another history of this database, or is too old"):
                export(path, since=str(other))
        with pytest.raises(ValueError, match="too old"):
            now._replace(transaction=now.transaction + 2**30).since(str(now))
        for bad in ("", "2026-04-15", "1...", f"{now}x", f"2{str(now)[1:]}"):
            with pytest.raises(CommandError, match="The cursor is not a cursor of export_jobs"):
                export(path, since=bad)

    def test_numbers_that_have_come_round_are_compared_as_such(self, acme, job_of):
        job_of(acme)
        wait_for_running_transactions()
        now = ChangeCursor.now("")
        job = job_of(acme)
        for rounds in range(3):
            cursor = now._replace(transaction=now.transaction + rounds * 2**32)
            assert list(cursor.changed(Job.all_tenants.all())) == [job]


@pytest.mark.sqlite
def test_sqlite_does_not_tell_what_changed(acme, tmp_path):
    err = io.StringIO()
    call_command("export_jobs", str(tmp_path / "jobs.ndjson"), stderr=err)
    assert err.getvalue() == "0 jobs exported\n"
    with pytest.raises(CommandError, match="SQLite does not record which jobs changed"):
        call_command("export_jobs", str(tmp_path / "jobs.ndjson"), since="1.a..1", stderr=io.StringIO())


# --- Stopping and going on ----------------------------------------------------------------------------------------


@pytest.fixture
def stopped_after_a_batch(monkeypatch):
    """While the block runs, a command is sent SIGTERM with its first batch."""
    batches = record_reader.batches

    def signalled(*arguments):
        for batch in batches(*arguments):
            signal.raise_signal(signal.SIGTERM)
            yield batch

    @contextmanager
    def patched():
        with monkeypatch.context() as patch:
            patch.setattr(record_reader, "batches", signalled)
            yield

    return patched


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["jobs.ndjson", "jobs.ndjson.gz"])
def test_a_checkpoint_resumes_after_the_last_complete_batch(acme, job_of, tmp_path, stopped_after_a_batch, name):
    for _ in range(5):
        job_of(acme)
    path, checkpoint = tmp_path / name, tmp_path / "checkpoint"
    options = {"batch": 2, "checkpoint": str(checkpoint)}
    with stopped_after_a_batch(), pytest.raises(CommandError) as stopped:
        call_command("export_jobs", str(path), stderr=io.StringIO(), **options)
    assert str(stopped.value).startswith("Stopped. Resume with:\npython manage.py export_jobs ")
    assert json.loads(checkpoint.read_text())["size"] == path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"torn": ')  # by a run that was killed after its last checkpoint
    call_command("export_jobs", str(path), stderr=io.StringIO(), **options)
    content = path.read_bytes()
    assert (gzip.decompress(content) if name.endswith(".gz") else content) == exported()
    assert not checkpoint.exists()
