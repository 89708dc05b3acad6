"""``export_jobs``: the store as a file, the same bytes from every database, and back into an empty store."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from ulid import ULID

from jobs.ingest import bulk, erasure, ledger, record_reader, removal
from jobs.ingest.interchange import dump
from jobs.management import id_list
from jobs.management.batches import IncompleteRun
from jobs.management.errors import FileError
from jobs.models import Job
from tests.records import records
from tests.stores import SQLiteStores, everything, exported
from tests.test_interchange import EXAMPLE

TENANTS = ("acme", "globex")
NOW = "2026-04-15T12:00:00Z"


def export(tmp_path, *arguments, name="jobs.ndjson", **options):
    path = tmp_path / name
    call_command("export_jobs", str(path), *arguments, stderr=io.StringIO(), **options)
    return path.read_bytes()


def test_a_job_is_one_line_with_every_member_and_sorted_names(acme, tmp_path):
    bulk.load_record({name: EXAMPLE[name] for name in ("public_id", "tenant", "job_type", "created_at")})
    assert export(tmp_path) == (
        b'{"artifacts":[],"created_at":"2026-04-15T12:00:00Z","events":[],"job_type":"MODEL_GENERATOR",'
        b'"public_id":"01JADE5XAMPK9M0Q7RS3T4V5W6","request":null,"status":"NOT_STARTED","tenant":"acme"}\n'
    )


def test_jobs_come_in_the_order_of_their_ids_whatever_the_batch(acme, job_of, tmp_path):
    ids = [job_of(acme, public_id=str(ULID())).public_id for _ in range(7)]
    whole = export(tmp_path)
    assert [json.loads(line)["public_id"] for line in whole.splitlines()] == sorted(map(str, ids))
    assert export(tmp_path, batch=2) == whole


def test_one_tenants_jobs_alone(acme, globex, job_of, tmp_path):
    mine = job_of(acme)
    job_of(globex)
    [line] = export(tmp_path, tenant="acme").splitlines()
    assert json.loads(line)["public_id"] == str(mine.public_id)
    with pytest.raises(CommandError, match="No tenant “initech”"):
        export(tmp_path, tenant="initech")


def test_it_resumes_after_a_job_and_appends(acme, job_of, tmp_path):
    ids = [job_of(acme).public_id for _ in range(3)]
    whole = export(tmp_path)
    path = tmp_path / "jobs.ndjson"
    path.write_bytes(whole.splitlines(keepends=True)[0])
    assert export(tmp_path, after=ids[0]) == whole


@pytest.mark.parametrize("name", ["jobs.ndjson", "jobs.ndjson.gz"])
def test_after_a_full_disk_the_printed_command_completes_the_file(acme, job_of, tmp_path, name):
    for _ in range(9):
        job_of(acme, request={"padding": os.urandom(600).hex()})
    whole = export(tmp_path, batch=2)
    path, limits = tmp_path / f"limited-{name}", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, limits[1]))  # in the middle of a batch
    try:
        with pytest.raises(IncompleteRun) as failure:
            call_command("export_jobs", str(path), batch=2, stderr=io.StringIO())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failure.value.why == f"Cannot write {path}: File too large"
    call_command(*failure.value.resume_command.split()[2:], stderr=io.StringIO())
    assert (gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()) == whole


def test_what_standard_output_is_appended_to_is_left_alone_by_a_full_disk(tmp_path):
    file = tmp_path / "before"
    file.write_bytes(b"x" * 3_000)
    appended = os.open(file, os.O_WRONLY | os.O_APPEND)  # as a shell does it: its place is the beginning
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from jobs.management.files import Sink\nwith Sink.opened('-') as out: out.write([b'y' * 20_000])",
        ],
        stdout=appended,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096)),  # the disk is full
        check=False,
    )
    os.close(appended)
    assert b"Cannot write standard output: File too large" in done.stderr
    assert file.read_bytes().startswith(b"x" * 3_000)


def test_a_file_that_is_shorter_than_its_checkpoint_says_is_not_continued(acme, job_of, tmp_path, monkeypatch):
    for _ in range(3):
        job_of(acme)
    path, checkpoint, dumped = tmp_path / "jobs.ndjson", tmp_path / "checkpoint", []

    def stopped(record):
        dumped.append(record)
        if len(dumped) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return dump(record)

    with monkeypatch.context() as patch:
        patch.setattr("jobs.management.commands.export_jobs.dump", stopped)
        with pytest.raises(IncompleteRun):
            export(tmp_path, batch=1, checkpoint=str(checkpoint))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CommandError, match=r"has [\d,]+ bytes, and the checkpoint was written when it had [\d,]+\."):
        export(tmp_path, batch=1, checkpoint=str(checkpoint))


@pytest.mark.parametrize("after", ["jobs_job", "jobs_artifact"])
def test_a_job_that_is_removed_while_it_is_read_is_left_out(acme, globex, job_of, after):
    kept, gone = (job_of(acme, events=[{"seq": 1, "event_type": "queued", "created_at": NOW}]) for _ in range(2))
    alone = job_of(globex)  # its tenant goes with it
    removed = []

    def remove_after(execute, sql, *rest):
        rows = execute(sql, *rest)
        if f'FROM "{after}"' in sql and not removed:
            removed.append(True)
            removal.remove(Job.all_tenants.filter(pk=gone.pk))
            erasure.erase_tenant(globex)
        return rows

    with connection.execute_wrapper(remove_after):
        [batch] = record_reader.batches(Job.all_tenants.all(), 10)
    assert removed
    # Once its artifacts are read there is nothing of it that could be missing.
    whole = [kept.pk, alone.pk] if after == "jobs_artifact" else [kept.pk]
    assert [record.public_id for record in batch] == whole


def test_a_signal_while_the_list_is_written_stops_it_and_the_printed_command_writes_it_whole(acme, job_of, tmp_path):
    for _ in range(3):
        job_of(acme)
    ids, interrupted = tmp_path / "ids", []

    def interrupt_the_list(execute, *statement):
        rows = execute(*statement)
        if ids.exists() and not interrupted:
            interrupted.append(os.kill(os.getpid(), signal.SIGINT))
        return rows

    with connection.execute_wrapper(interrupt_the_list), pytest.raises(CommandError, match="Stopped") as stopped:
        export(tmp_path, ids=str(ids))
    with pytest.raises(FileError, match="incomplete"):
        id_list.check_list(str(ids), None)
    [command] = [line.split() for line in str(stopped.value).splitlines() if "manage.py" in line]
    call_command(*command[command.index("export_jobs") :], stderr=io.StringIO())
    assert [*id_list.read_list(str(ids), None)] == [*Job.all_tenants.order_by("pk").values_list("pk", flat=True)]


def test_gzip_is_known_by_its_name_and_the_same_each_time(acme, job_of, tmp_path):
    job_of(acme)
    packed = export(tmp_path, name="jobs.ndjson.gz")
    assert gzip.decompress(packed) == export(tmp_path)
    assert export(tmp_path, name="jobs.ndjson.gz") == packed


def test_standard_output_is_the_default(acme, job_of, capfdbinary, tmp_path):
    job_of(acme)
    call_command("export_jobs", stderr=io.StringIO())
    assert capfdbinary.readouterr().out == export(tmp_path)


def test_a_dry_run_counts_and_writes_nothing(acme, job_of, tmp_path):
    job_of(acme)
    err = io.StringIO()
    call_command("export_jobs", str(tmp_path / "jobs.ndjson"), dry_run=True, stderr=err)
    assert err.getvalue() == "Dry run, nothing written: 1 job\n"
    assert not (tmp_path / "jobs.ndjson").exists()


def test_what_the_ledger_wrote_is_exported_like_what_was_loaded(acme, tmp_path):
    job = ledger.open_job(acme, "restart", {"service": "nginx"})
    ledger.append(job, "submitted", hostname="_api")
    ledger.append(job, "completed", hostname="web-1", extra={"data": {"b": 1.0, "a": 1e300}, "changed": True})
    ledger.note(job, "seen")
    ledger.attach(job, [{"storage_key": "tenants/acme/log.txt", "kind": "log", "role": "final"}])
    first, rows = exported(), everything()[0]
    Job.all_tenants.all().delete()
    path = tmp_path / "jobs.ndjson"
    path.write_bytes(first)
    call_command("backfill_jobs", str(path), stdout=io.StringIO(), stderr=io.StringIO())
    assert exported() == first
    assert everything()[0] == rows  # the version too, so that validators hold
    assert json.loads(first)["events"][1]["extra"] == {"data": {"a": 1e300, "b": 1}, "changed": True}


def test_an_event_that_is_appended_while_a_job_is_read_waits_for_the_next_export(acme, job_of, monkeypatch):
    job = job_of(acme, events=[{"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z"}])
    before = exported()
    read = record_reader._artifacts

    def finished_meanwhile(jobs):
        ledger.finish(job)
        return read(jobs)

    monkeypatch.setattr(record_reader, "_artifacts", finished_meanwhile)
    assert exported() == before


def test_batches_of_long_timelines_are_small(acme, job_of):
    for _ in range(5):
        job_of(acme, events=[{"seq": 9, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z"}])
    assert [len(batch) for batch in record_reader.batches(Job.all_tenants.all(), size=4, rows=20)] == [3, 2]


@pytest.mark.full_on_postgresql  # the next test goes from PostgreSQL to PostgreSQL too
@pytest.mark.parametrize(
    "size",
    [pytest.param((60, 300), id="short"), pytest.param((1_000, 10_000), id="1000-and-10000", marks=pytest.mark.full)],
)
def test_round_trip_between_stores(new_store, tmp_path, size, record_property):
    jobs, events = size
    first, second = new_store(*TENANTS), new_store(*TENANTS)
    source, once, twice = (tmp_path / name for name in ("source.ndjson", "once.ndjson", "twice.ndjson.gz"))
    source.write_bytes(b"".join(records(jobs, TENANTS, longest=events)))
    first.run_all(["backfill_jobs", source], ["export_jobs", once])
    done = second.run_all(["backfill_jobs", once], ["export_jobs", twice], ["backfill_jobs", source])
    assert gzip.decompress(twice.read_bytes()) == once.read_bytes()
    assert len(once.read_bytes().splitlines()) == jobs
    assert done.stdout.decode().splitlines() == [
        f"loaded {jobs}, unchanged 0, rejected 0",
        f"loaded 0, unchanged {jobs}, rejected 0",
    ]
    record_property("cases", jobs)


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "size",
    [pytest.param((80, 300), id="short"), pytest.param((1_000, 10_000), id="1000-and-10000", marks=pytest.mark.full)],
)
def test_round_trip_between_postgresql_and_sqlite(new_store, tmp_path, size, record_property):
    jobs, events = size
    postgresql, postgresql_again = new_store(*TENANTS), new_store(*TENANTS)
    sqlite = SQLiteStores(tmp_path).new()
    source, first, second, third = (tmp_path / name for name in ("source", "first", "second", "third"))
    source.write_bytes(b"".join(records(jobs, TENANTS, longest=events)))
    postgresql.run_all(["backfill_jobs", source], ["export_jobs", first])
    new_tenants = [["create_tenant", slug] for slug in TENANTS]
    sqlite.run_all(*new_tenants, ["backfill_jobs", first], ["export_jobs", second])
    done = postgresql_again.run_all(["backfill_jobs", second], ["export_jobs", third], ["backfill_jobs", source])
    assert third.read_bytes() == second.read_bytes() == first.read_bytes()
    assert done.stdout.decode().endswith(f"\nloaded 0, unchanged {jobs}, rejected 0\n")
    assert len(first.read_bytes().splitlines()) == jobs
    record_property("cases", jobs)
