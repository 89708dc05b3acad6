"""``backfill_jobs s3://bucket/prefix``: many files, in the order of their keys, and resuming."""

from __future__ import annotations

import gzip
import io
import json
import signal

import pytest
from django.core.management import CommandError, call_command
from ulid import ULID

from jobs.artifacts.s3 import SignedS3Storage
from jobs.ingest import bulk
from jobs.models import Job
from tests.shared_servers import BUCKET

pytestmark = [pytest.mark.django_db, pytest.mark.full_on_postgresql]


def lines(first, number, **more):
    records = (
        {"public_id": str(ULID.from_int(first + index)), "tenant": "acme", "job_type": "restart"}
        | {"created_at": "2026-04-15T12:00:00Z"}
        | more
        for index in range(number)
    )
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture
def bucket(acme, s3_store, s3_server):
    """Files in a bucket that is also that of the artifacts: 3 + 4 + 2 records, and others beside them."""
    client = s3_server.client()
    for key, content in {
        "dump/2026/a.ndjson": lines(0, 3),
        "dump/2026-b.ndjson.gz": gzip.compress(lines(10, 4)),
        "dump/2026/z é.ndjson": lines(20, 2),
        "dump/empty.ndjson": b"",
        "elsewhere/x.ndjson": lines(90, 1),
    }.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=content)
    return client


def backfill(*arguments, **options):
    """What the command says at its end, and on the way."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("backfill_jobs", *arguments, stdout=out, stderr=err, **options)
    except CommandError as error:
        out.write(f"{error}\n")
    return out.getvalue(), err.getvalue()


def test_every_file_under_the_prefix_is_loaded_and_again_without_change(bucket):
    assert backfill(f"s3://{BUCKET}/dump/")[0] == "loaded 9, unchanged 0, rejected 0\n"
    assert backfill(f"s3://{BUCKET}/dump/")[0] == "loaded 0, unchanged 9, rejected 0\n"
    assert backfill(f"s3://{BUCKET}/dump/2026-")[0] == "loaded 0, unchanged 4, rejected 0\n"
    assert backfill(f"s3://{BUCKET}")[0] == "loaded 1, unchanged 9, rejected 0\n"


def test_files_come_in_the_order_of_their_keys_whatever_the_servers(bucket, monkeypatch):
    opened, of = [], SignedS3Storage.open_object
    monkeypatch.setattr(
        SignedS3Storage, "open_object", lambda store, found: opened.append(found[0]) or of(store, found)
    )
    backfill(f"s3://{BUCKET}/dump/")
    assert opened == ["dump/2026-b.ndjson.gz", "dump/2026/a.ndjson", "dump/2026/z é.ndjson", "dump/empty.ndjson"]


def test_a_rejected_line_is_named_with_its_file(bucket, tmp_path):
    bucket.put_object(Bucket=BUCKET, Key="dump/2026/a.ndjson", Body=lines(0, 1) + b"no\n")
    rejects = tmp_path / "rejects"
    backfill(f"s3://{BUCKET}/dump/", rejects=str(rejects))
    assert rejects.read_bytes() == b"no\n"
    reasons = rejects.with_name("rejects.reasons").read_text()
    assert reasons.startswith("2 of dump/2026/a.ndjson\tnot a JSON object in UTF-8")
    assert "line 2 of dump/2026/a.ndjson: not a JSON object" in backfill(f"s3://{BUCKET}/dump/")[1]


def test_a_run_that_goes_on_with_the_next_object_keeps_the_lines_that_were_rejected(bucket, tmp_path):
    bucket.put_object(Bucket=BUCKET, Key="dump/2026/a.ndjson", Body=b"no\n")
    rejects = tmp_path / "rejects"
    backfill(f"s3://{BUCKET}/dump/", rejects=str(rejects))
    backfill(f"s3://{BUCKET}/dump/", rejects=str(rejects), from_object="dump/2026/z é.ndjson", after_line=0)
    assert rejects.read_bytes() == b"no\n"


@pytest.fixture
def interrupted(monkeypatch):
    """The command is sent SIGTERM with its fifth record, the first of its second file."""
    load_batch, seen = bulk.load_batch, []

    def signalled(batch, *arguments):
        seen.extend(batch)
        if len(seen) == 5:
            signal.raise_signal(signal.SIGTERM)
        return load_batch(batch, *arguments)

    # In the command's own thread, which is the one that signals reach.
    monkeypatch.setattr(bulk, "load_batch", signalled)


@pytest.mark.parametrize(
    "with_checkpoint",
    # Damaged objects, in tests/test_file_failures.py, are resumed without one.
    [True, pytest.param(False, marks=pytest.mark.full)],
)
def test_it_resumes_in_the_file_and_at_the_line_where_it_stopped(bucket, interrupted, tmp_path, with_checkpoint):
    options = {"checkpoint": str(tmp_path / "checkpoint")} if with_checkpoint else {}
    said, _ = backfill(f"s3://{BUCKET}/dump/", batch=1, **options)
    summary, why, again = said.splitlines()
    loaded = Job.all_tenants.count()
    assert 5 <= loaded < 9
    assert summary == f"loaded {loaded}, unchanged 0, rejected 0"
    line = loaded - 4
    assert why == f"Stopped, after line {line} of dump/2026/a.ndjson. Resume with:"
    place = f"--checkpoint {tmp_path}/checkpoint"
    if not with_checkpoint:
        place = f"--from-object dump/2026/a.ndjson --after-line {line}"
    assert again == f"python manage.py backfill_jobs s3://{BUCKET}/dump/ --batch 1 {place}"
    total = 9 if with_checkpoint else 9 - loaded
    assert backfill(*again.split()[3:])[0] == f"loaded {total}, unchanged 0, rejected 0\n"
    assert Job.all_tenants.count() == 9


def test_a_file_that_is_replaced_while_it_is_read_stops_it(bucket, monkeypatch):
    big = lines(100, 900, request={"padding": "x" * 4_000})  # more than one range of a MiB
    bucket.put_object(Bucket=BUCKET, Key="dump/0.ndjson", Body=big)
    count = bulk.BatchResult.count

    def replaced(loaded):
        bucket.put_object(Bucket=BUCKET, Key="dump/0.ndjson", Body=lines(100, 900))
        count(loaded)

    monkeypatch.setattr(bulk.BatchResult, "count", replaced)
    said, _ = backfill(f"s3://{BUCKET}/dump/", batch=50)
    assert "PreconditionFailed" in said
    assert f"Resume with:\npython manage.py backfill_jobs s3://{BUCKET}/dump/ --batch 50 --from-object" in said


def test_a_missing_bucket_is_an_error(bucket):
    assert "NoSuchBucket" in backfill("s3://nowhere/dump/")[0]
