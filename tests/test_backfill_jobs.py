"""``backfill_jobs``: loads files of interchange records, each whole or not at all. Loading again changes nothing."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from ulid import ULID

from jobs.ingest import bulk, ledger
from jobs.management import progress
from jobs.models import Artifact, Job, JobCounts, JobEvent
from tests.records import records
from tests.stores import counts_of, everything, exported, true_counts

JOB = {
    "public_id": "01JADE5XAMPK9M0Q7RS3T4V5W6",
    "tenant": "acme",
    "job_type": "MODEL_GENERATOR",
    "created_at": "2026-04-15T12:00:00Z",
}


def event(seq: int, event_type: str = "stage", **more: Any) -> dict[str, Any]:
    return {"seq": seq, "event_type": event_type, "created_at": f"2026-04-15T12:00:{seq:02}Z"} | more


def artifact(name: str = "front.png", **more: Any) -> dict[str, Any]:
    return {"storage_key": f"tenants/acme/{name}", "kind": "on_model_render", "role": "final"} | more


QUEUED, STAGE, SUCCEEDED = event(1, "queued"), event(2, "stage"), event(3, "succeeded", artifacts=[artifact()])


def job(*events: dict[str, Any], **more: Any) -> dict[str, Any]:
    return JOB | {"events": list(events)} | more


def agent(seq: int, event_type: str, hostname: str = "web-1") -> dict[str, Any]:
    return event(seq, event_type, hostname=hostname)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "jobs.ndjson"


@pytest.fixture
def backfill(file):
    """``backfill(record, …, batch=…)`` writes the records (or lines) to a file and loads it: what the command says."""

    def run(*records: dict[str, Any] | bytes, **options: Any) -> str:
        file.write_bytes(
            b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in records)
        )
        out = io.StringIO()
        try:
            call_command("backfill_jobs", str(file), stdout=out, stderr=io.StringIO(), **options)
        except CommandError as error:
            out.write(f"{error}\n")
        return out.getvalue()

    return run


# --- Again, and more of it ----------------------------------------------------------------------------------------


def test_loading_again_changes_nothing(acme, backfill):
    records = [job(QUEUED, STAGE, SUCCEEDED), JOB | {"public_id": str(ULID()), "artifacts": [artifact()]}]
    assert backfill(*records) == "loaded 2, unchanged 0, rejected 0\n"
    before = everything()
    assert backfill(*records) == "loaded 0, unchanged 2, rejected 0\n"
    assert everything() == before
    assert counts_of(acme) == {"success": 1, "not_started": 1} == true_counts(acme)


def test_a_record_with_more_events_adds_just_those(acme, backfill):
    backfill(job(QUEUED))
    [first] = JobEvent.all_tenants.values()
    assert backfill(job(QUEUED, STAGE, SUCCEEDED)) == "loaded 1, unchanged 0, rejected 0\n"
    assert JobEvent.all_tenants.order_by("seq").values()[0] == first
    stored = Job.all_tenants.get()
    assert (stored.status, stored.last_seq, stored.last_public_seq, stored.version) == ("SUCCESS", 3, 3, 4)
    assert stored.updated_at.isoformat() == "2026-04-15T12:00:03+00:00"
    assert Artifact.all_tenants.get().event.seq == 3
    assert counts_of(acme) == {"success": 1}


def test_new_events_may_come_without_the_old_ones(acme, backfill):
    backfill(job(QUEUED, STAGE))
    assert backfill(job(SUCCEEDED)) == "loaded 1, unchanged 0, rejected 0\n"
    assert backfill(job(STAGE)) == "loaded 0, unchanged 1, rejected 0\n"
    assert list(JobEvent.all_tenants.order_by("seq").values_list("seq", flat=True)) == [1, 2, 3]


def test_an_older_export_of_a_job_that_went_on_changes_nothing(acme, backfill):
    backfill(job(QUEUED, STAGE, status="IN_PROGRESS"))
    ledger.finish(JOB["public_id"])
    before = everything()
    assert backfill(job(QUEUED, STAGE, status="IN_PROGRESS")) == "loaded 0, unchanged 1, rejected 0\n"
    assert backfill(job(QUEUED, status="NOT_STARTED")) == "loaded 0, unchanged 1, rejected 0\n"
    assert everything() == before


def test_artifacts_with_no_event_are_added_behind_those_there_are(acme, backfill):
    backfill(JOB | {"artifacts": [artifact("a.png")]})
    assert (
        backfill(JOB | {"artifacts": [artifact("a.png"), artifact("b.png")]}) == "loaded 1, unchanged 0, rejected 0\n"
    )
    assert list(Artifact.all_tenants.order_by("position").values_list("position", "storage_key")) == [
        (0, "tenants/acme/a.png"),
        (1, "tenants/acme/b.png"),
    ]
    assert backfill(JOB | {"artifacts": []}) == "loaded 0, unchanged 1, rejected 0\n"


def test_two_records_of_one_job_in_one_file(acme, backfill):
    assert (
        backfill(job(QUEUED), job(QUEUED, STAGE), job(QUEUED, STAGE), job(STAGE, SUCCEEDED), batch=2)
        == "loaded 3, unchanged 1, rejected 0\n"
    )
    assert Job.all_tenants.get().status == "SUCCESS"
    assert counts_of(acme) == {"success": 1} == true_counts(acme)


def test_values_compare_as_json_does(acme, backfill):
    backfill(job(event(1, extra={"a": 1, "b": [1.0, 2e2, -0.0, 0.1], "c": True})))
    assert "unchanged 1" in backfill(job(event(1, extra={"c": True, "b": [1, 200, 0, 1e-1], "a": 1.0})))
    assert "rejected 1" in backfill(job(event(1, extra={"a": True, "b": [1, 200, 0, 0.1], "c": True})))


def test_times_compare_as_instants(acme, backfill):
    backfill(job(event(1, created_at="2026-04-15T12:00:00.5Z")))
    assert "unchanged 1" in backfill(job(event(1, created_at="2026-04-15T14:00:00.500000+02:00")))


# --- Status -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "given", "status"),
    [
        ([], None, "NOT_STARTED"),
        ([], "SUCCESS", "SUCCESS"),
        ([], "PARTIAL_FAILURE", "PARTIAL_FAILURE"),
        ([QUEUED], None, "NOT_STARTED"),
        ([QUEUED], "FAILURE", "FAILURE"),
        ([STAGE], None, "IN_PROGRESS"),
        ([STAGE], "SUCCESS", "SUCCESS"),
        ([SUCCEEDED], "SUCCESS", "SUCCESS"),
        ([event(1, "failed")], None, "FAILURE"),
        ([event(1, "failed", visibility="internal"), event(2, "stage")], None, "FAILURE"),
        ([agent(1, "submitted")], None, "NOT_STARTED"),
        ([agent(1, "submitted")], "SUCCESS", "SUCCESS"),
        ([agent(1, "retried", "_api")], None, "NOT_STARTED"),
        ([agent(1, "failed"), agent(2, "completed")], None, "SUCCESS"),
        ([agent(1, "failed"), agent(2, "completed", "web-2")], "PARTIAL_FAILURE", "PARTIAL_FAILURE"),
        ([agent(1, "failed"), agent(2, "acknowledged", "web-2")], None, "IN_PROGRESS"),
    ],
)
def test_the_status_is_the_given_one_or_what_the_events_fold_to(acme, backfill, events, given, status):
    assert backfill(job(*events, status=given) if given else job(*events)) == "loaded 1, unchanged 0, rejected 0\n"
    assert Job.all_tenants.get().status == status
    assert Job.all_tenants.get().is_operation == any(each.get("hostname") for each in events)


def test_an_operation_that_had_ended_goes_back_to_work_for_a_late_agent(acme, backfill):
    backfill(job(agent(1, "completed")))
    backfill(job(agent(1, "completed"), agent(2, "started", "web-2")))
    assert Job.all_tenants.get().status == "IN_PROGRESS"
    assert counts_of(acme) == {"in_progress": 1}


def test_a_workflow_job_that_ended_before_its_events_came_stays_ended(acme, backfill):
    backfill(job(status="SUCCESS"))
    assert "loaded 1" in backfill(job(QUEUED, STAGE))
    assert Job.all_tenants.get().status == "SUCCESS"
    assert "a status that the events contradict" in backfill(job(event(3, "failed")))
    assert "loaded 1" in backfill(job(SUCCEEDED))


# --- What is rejected ---------------------------------------------------------------------------------------------

STORED = job(QUEUED, event(3, "stage", extra={"a": 1}, artifacts=[artifact()]), request={"a": [1]})


def changed(path: str, value: Any) -> dict[str, Any]:
    record = copy.deepcopy(STORED)
    *outer, last = path.split(".")
    inner: Any = record
    for name in outer:
        inner = inner[int(name)] if name.isdecimal() else inner[name]
    inner[int(last) if last.isdecimal() else last] = value
    return record


def nested(levels: int) -> Any:
    return {"deeper": nested(levels - 1)} if levels else 1


NEW = JOB | {"public_id": "01JADE5XAMPK9M0Q7RS3T4V5W7"}


def spelled(number: str) -> bytes:
    """A record with a number as Python would not write it."""
    return json.dumps(NEW | {"request": {"a": "number"}}).replace('"number"', number).encode() + b"\n"


NOT_OF_ITS_KIND: list[dict[str, Any]] = [
    {"job_type": ""},
    {"job_type": None},
    {"status": "DONE"},
    {"status": ""},
    {"created_at": "2026-04-15"},
    {"created_at": "2026-04-15T12:00:00"},
    {"created_at": "2026-02-30T12:00:00Z"},
    {"created_at": "0001-01-01T00:00:00+01:00"},
    {"created_at": 1776254400},
    {"request": []},
    {"request": "prompt"},
    {"events": {}},
    {"events": [7]},
    {"priority": 1},
    {"events": [event(0)]},
    {"events": [event(-1)]},
    {"events": [event(2**31)]},
    {"events": [event(1) | {"seq": True}]},
    {"events": [event(1) | {"seq": "1"}]},
    {"events": [event(1) | {"seq": 1.5}]},
    {"events": [event(1) | {"seq": 2.0**31}]},
    {"events": [event(1) | {"seq": None}]},
    {"events": [event(1, visibility=None)]},
    {"events": [event(1, visibility="secret")]},
    {"events": [event(1, "")]},
    {"events": [event(1, message=None)]},
    {"events": [event(1, extra=[])]},
    {"events": [event(1, stage=1)]},
    {"events": [event(1, level="INFO")]},
    {"artifacts": [artifact(role="last")]},
    {"artifacts": [artifact(created_at="2026-04-15T12:00:00Z")]},
]
TOO_LARGE: list[dict[str, Any]] = [
    {"job_type": "x" * 101},
    {"request": {"a": "x" * (2**20 - 7)}},
    {"request": {"a": "é" * 2**19}},
    {"events": [event(1, "x" * 51)]},
    {"events": [event(1, extra={"a": "x" * (2**16 - 7)})]},
    {"events": [event(1, message="é" * 10_001)]},
    {"events": [event(1, artifacts=[artifact()] * 501)]},
    {"events": [event(seq) for seq in range(1, 10_002)]},
    {"events": [event(seq, artifacts=[artifact()] * 500) for seq in (1, 2, 3, 4)], "artifacts": [artifact()]},
    {"artifacts": [artifact(kind="x" * 101)]},
    {"artifacts": [artifact(meta={"a": "x" * (2**16 - 7)})]},
    {"artifacts": [artifact()] * 2_001},
]
AGAINST_THE_STORE = [
    (JOB | {"tenant": "globex"}, "a public_id that is taken"),
    (changed("request", {"a": [2]}), "a job that differs from the stored one"),
    (changed("job_type", "restart"), "a job that differs from the stored one"),
    (changed("created_at", "2026-04-15T12:00:01Z"), "a job that differs from the stored one"),
    (changed("status", "SUCCESS"), "a job that differs from the stored one"),
    (changed("artifacts", [artifact()]) | {"events": [event(2)]}, "a seq below a stored one that the store lacks"),
    (changed("events.1.extra", {"a": 2}), "an event that differs from the stored one"),
    (changed("events.1.extra", {"a": 1, "b": None}), "an event that differs from the stored one"),
    (changed("events.0.message", "x"), "an event that differs from the stored one"),
    (changed("events.0.visibility", "internal"), "an event that differs from the stored one"),
    (changed("events.1.artifacts", []), "an event that differs from the stored one"),
    (changed("events.1.artifacts.0.label", "x"), "an event that differs from the stored one"),
    (job(QUEUED, event(2), request={"a": [1]}), "a seq below a stored one that the store lacks"),
    (NEW | {"tenant": "nobody"}, "an unknown tenant"),
    (NEW | {"artifacts": [artifact() | {"storage_key": "tenants/globex/a.png"}]}, "a storage key that is refused"),
]
REFUSED_ANYWHERE = [
    # against themselves
    (NEW | {"events": [QUEUED, SUCCEEDED], "status": "FAILURE"}, "a status that the events contradict"),
    (NEW | {"events": [agent(1, "completed")], "status": "FAILURE"}, "a status that the events contradict"),
    (NEW | {"events": [event(1, "failed"), SUCCEEDED]}, "a second terminal event of a workflow job"),
    (NEW | {"events": [event(1), event(1)]}, "a member that is missing, unknown or not of its kind"),
    # against the rest of the house
    (NEW | {"public_id": "01JADE5XAMPK9M0Q7RS3T4V5WU"}, "a public_id that is no ULID"),
    (NEW | {"public_id": "81JADE5XAMPK9M0Q7RS3T4V5W6"}, "a public_id that is no ULID"),
    (NEW | {"public_id": 7}, "a public_id that is no ULID"),
    (NEW | {"events": [event(1, artifacts=[artifact("../../a.png")])]}, "a storage key that is refused"),
    (NEW | {"artifacts": [artifact() | {"storage_key": ""}]}, "a storage key that is refused"),
    (NEW | {"artifacts": [artifact() | {"storage_key": "/tenants/acme/a.png"}]}, "a storage key that is refused"),
    # what no store keeps
    (NEW | {"request": {"a": "b\0"}}, "JSON that no store keeps faithfully"),
    (NEW | {"request": {"\0": 1}}, "JSON that no store keeps faithfully"),
    (NEW | {"request": {"a": "\ud800"}}, "JSON that no store keeps faithfully"),
    (NEW | {"request": {"\udc00": 1}}, "JSON that no store keeps faithfully"),
    (NEW | {"request": {"a": 2**64}}, "JSON that no store keeps faithfully"),
    (NEW | {"request": {"a": -(2**63) - 1}}, "JSON that no store keeps faithfully"),
    (spelled("9" * 5000), "JSON that no store keeps faithfully"),
    (spelled("1e400"), "JSON that no store keeps faithfully"),
    (spelled("1e-400"), "JSON that no store keeps faithfully"),
    (spelled("-123.4E-0326"), "JSON that no store keeps faithfully"),
    (spelled(f"0.{'0' * 350}1"), "JSON that no store keeps faithfully"),
    (spelled(f"0.{'0' * 300}1e-99"), "JSON that no store keeps faithfully"),
    (spelled("18446744073709551616"), "JSON that no store keeps faithfully"),
    (spelled("-9223372036854775809"), "JSON that no store keeps faithfully"),
    (NEW | {"request": {"a": float("nan")}}, "JSON that no store keeps faithfully"),
    (NEW | {"request": {"a": float("-inf")}}, "JSON that no store keeps faithfully"),
    (NEW | {"request": nested(65)}, "JSON that no store keeps faithfully"),
    (NEW | {"request": nested(300)}, "JSON that no store keeps faithfully"),
    (NEW | {"events": [event(1, message="\0")]}, "JSON that no store keeps faithfully"),
    (NEW | {"events": [event(1, hostname="\udbff")]}, "JSON that no store keeps faithfully"),
    (NEW | {"job_type": "a\0"}, "JSON that no store keeps faithfully"),
    # beyond a bound
    *((NEW | wrong, "larger than the store takes") for wrong in TOO_LARGE),
    # not of its kind
    *((NEW | wrong, "a member that is missing, unknown or not of its kind") for wrong in NOT_OF_ITS_KIND),
    *(
        (
            {name: value for name, value in NEW.items() if name != missing},
            "a member that is missing, unknown or not of its kind",
        )
        for missing in NEW
    ),
    # not even records
    (b"\n".join([b"{}\n"]), "a member that is missing, unknown or not of its kind"),
    (b"[]\n", "a member that is missing, unknown or not of its kind"),
    (b"null\n", "a member that is missing, unknown or not of its kind"),
    (b"{\n", "not a JSON object in UTF-8"),
    (b'{"a": 1} {"a": 1}\n', "not a JSON object in UTF-8"),
    (b'{"a": "\xff"}\n', "not a JSON object in UTF-8"),
    (b"{'a': 1}\n", "not a JSON object in UTF-8"),
    (b"\xef\xbb\xbf{}\n", "not a JSON object in UTF-8"),  # a byte order mark inside a file
    (b'{"a": NaN}\n', "JSON that no store keeps faithfully"),
    (b'{"a": "\\u0000"}\n', "a member that is missing, unknown or not of its kind"),
    (b'{"a": 1, "a": 1}\n', "a member name given twice"),
    (b'{"b": {"a": 1, "\\u0061": 2}}\n', "a member name given twice"),
    (b'{"b": [{"a": 1, "a": "\\u003a"}]}\n', "a member name given twice"),
    (b"[" * 100_000 + b"\n", "JSON that no store keeps faithfully"),
]


REJECTED = [
    *AGAINST_THE_STORE,
    REFUSED_ANYWHERE[0],
    *(pytest.param(*each, marks=pytest.mark.full_on_postgresql) for each in REFUSED_ANYWHERE[1:]),
]


@pytest.mark.parametrize(("bad", "reason"), REJECTED)
def test_a_bad_record_is_rejected_whole_and_the_good_ones_beside_it_load(
    acme, globex, backfill, bad, reason, tmp_path, file
):
    bulk.load_record(STORED)
    before = everything()
    good = [JOB | {"public_id": str(ULID()), "tenant": "globex"} for _ in range(2)]
    rejects = tmp_path / "bad.ndjson"
    out = backfill(good[0], bad, good[1], rejects=str(rejects))
    assert out == (f"loaded 2, unchanged 0, rejected 1\n  1 × {reason}\n1 record was rejected.\n")
    assert rejects.read_bytes() == file.read_bytes().splitlines(keepends=True)[1]
    number, _, why = rejects.with_name("bad.ndjson.reasons").read_text().partition("\t")
    assert number == "2"
    assert why.startswith(f"{reason}: ")
    Job.objects.for_tenant(globex).delete()
    JobCounts.objects.for_tenant(globex).delete()
    assert everything() == before


def test_what_only_looks_bad_is_taken(acme, backfill):
    record = job(
        event(
            1,
            message="a\\u0000b: \"{'a': 1, 'a': 2}\"",
            extra={"a": 2**64 - 1, "b": -(2**63), "c": 1e300, "d": "\\u0000"},
        ),
        request={"π😀": "\x7f\x01", "prompt": '{"a":1,"a":1}', "number": "12345678901234567890", "": nested(63)},
    )
    assert backfill(record, batch=1) == "loaded 1, unchanged 0, rejected 0\n"
    assert backfill(json.dumps(record, ensure_ascii=False).encode()) == "loaded 0, unchanged 1, rejected 0\n"
    [line] = exported().splitlines()
    assert json.loads(line)["request"] == record["request"]
    assert json.loads(line)["events"][0]["extra"] == record["events"][0]["extra"]


def test_blank_lines_hold_nothing_but_count(acme, backfill, tmp_path):
    rejects = tmp_path / "bad"
    backfill(b"\n \r\n", JOB, b"\n", b"no\n", rejects=str(rejects))
    assert rejects.with_name("bad.reasons").read_text().startswith("5\t")


# --- The command --------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_happen_and_writes_nothing(acme, backfill, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    out = backfill(JOB, JOB | {"tenant": "nobody"}, dry_run=True, checkpoint=str(checkpoint))
    assert out.splitlines()[0] == "Dry run, nothing written: loaded 1, unchanged 0, rejected 1"
    assert everything() == [[], [], [], []]
    assert not checkpoint.exists()


def test_records_of_other_tenants_are_skipped_on_request(acme, globex, backfill):
    theirs = JOB | {"tenant": "globex", "public_id": str(ULID())}
    assert backfill(JOB, theirs, tenant="acme") == "loaded 1, unchanged 0, skipped 1 of other tenants, rejected 0\n"
    assert Job.all_tenants.get().tenant == acme
    assert "No tenant “initech”" in backfill(JOB, tenant="initech")


def test_gzip_is_known_by_its_name(acme, backfill, tmp_path):
    packed = tmp_path / "jobs.ndjson.gz"
    packed.write_bytes(gzip.compress(json.dumps(JOB).encode()))
    call_command("backfill_jobs", str(packed), stdout=io.StringIO(), stderr=io.StringIO())
    assert Job.all_tenants.count() == 1
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(CommandError, match=r"jobs\.ndjson\.gz to its end: it was cut off"):
        call_command("backfill_jobs", str(packed), stdout=io.StringIO(), stderr=io.StringIO())


def test_a_file_that_is_not_there_is_named(db, tmp_path):
    with pytest.raises(CommandError, match=r"nowhere\.ndjson: .*No such file"):
        call_command("backfill_jobs", str(tmp_path / "nowhere.ndjson"))


def test_it_starts_after_the_line_that_is_given(acme, backfill):
    records = [JOB | {"public_id": str(ULID())} for _ in range(5)]
    assert backfill(*records, after_line=3) == "loaded 2, unchanged 0, rejected 0\n"


def test_an_interrupted_run_resumes_at_its_checkpoint(acme, backfill, tmp_path, monkeypatch):
    records = [JOB | {"public_id": str(ULID())} for _ in range(10)]
    checkpoint, rejects = tmp_path / "checkpoint", tmp_path / "bad"
    options = {"batch": 3, "checkpoint": str(checkpoint), "rejects": str(rejects)}
    whole = bulk.load_batch

    def fails_at_the_third(batch, dry_run=False):
        if batch[0].number > 6:
            rejects.write_bytes(rejects.read_bytes() + b"written before the power failed\n")
            raise OSError("power failed")
        return whole(batch, dry_run)

    monkeypatch.setattr(bulk, "load_batch", fails_at_the_third)
    assert "power failed" in backfill(*records[:2], b"bad\n", *records[2:9], **options)
    monkeypatch.setattr(bulk, "load_batch", whole)
    assert json.loads(checkpoint.read_text())["line"] == 6
    out = backfill(*records[:2], b"bad\n", *records[2:9], **options)
    assert out.splitlines()[0] == "loaded 9, unchanged 0, rejected 1"
    assert rejects.read_bytes() == b"bad\n"
    assert not checkpoint.exists()


def test_a_checkpoint_of_another_file_or_tenant_is_refused(acme, backfill, file, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_text('{"of": "other.ndjson", "line": 3}')
    assert "is the checkpoint of other.ndjson" in backfill(JOB, checkpoint=str(checkpoint))
    checkpoint.write_text(json.dumps({"of": str(file), "line": 3}))
    assert f"is the checkpoint of {file}." in backfill(JOB, checkpoint=str(checkpoint), tenant="acme")


def test_rejected_lines_may_go_to_a_device_beside_a_checkpoint(acme, backfill, tmp_path):
    rejects = tmp_path / "rejects"
    for name in (rejects, tmp_path / "rejects.reasons"):
        name.symlink_to("/dev/null")
    checkpoint = tmp_path / "checkpoint"
    said = backfill(JOB, b"no\n", rejects=str(rejects), checkpoint=str(checkpoint))
    assert said.startswith("loaded 1, unchanged 0, rejected 1\n")
    assert said.endswith("\n1 record was rejected.\n")
    assert not checkpoint.exists()


@pytest.mark.parametrize("options", [{"checkpoint": "checkpoint"}, {"after_line": 1}])
def test_a_pipe_that_is_followed_has_no_line_to_begin_after(acme, options):
    with pytest.raises(CommandError, match="--follow reads on where the pipe is"):
        call_command("backfill_jobs", "-", follow=True, **options)


@pytest.mark.postgresql
def test_a_value_that_is_too_long_for_an_index_rejects_its_record_alone(acme, backfill):
    long = job(agent(1, "submitted", os.urandom(5_000).hex()), public_id="01JADE5XAMPK9M0Q7RS3T4V5W7")
    said = backfill(JOB, long).splitlines()
    assert said[:2] == ["loaded 1, unchanged 0, rejected 1", "  1 × refused by the database"]


def test_a_value_that_only_the_database_refuses_rejects_its_record_alone(acme, backfill, monkeypatch):
    from django.db import DataError

    insert = bulk.write

    def picky(batch):
        if any(change.after.job_type == "too_much" for change in batch):
            raise DataError("too much\nDETAIL: …")
        insert(batch)

    monkeypatch.setattr(bulk, "write", picky)
    records = [JOB | {"public_id": str(ULID()), "job_type": name} for name in ["a", "b", "too_much", "c", "d"]]
    assert backfill(*records).splitlines()[:2] == ["loaded 4, unchanged 0, rejected 1", "  1 × refused by the database"]
    assert counts_of(acme) == {"not_started": 4}


@pytest.mark.parametrize("command", ["backfill_jobs", "export_jobs", "backfill_status"])
@pytest.mark.parametrize("size", ["0", "10001", "-1", "ten", "１"])
def test_a_batch_that_no_statement_could_take_is_refused(command, size):
    file = [] if command == "backfill_status" else ["-"]
    with pytest.raises(CommandError, match=f"“{size}” is not a whole number from 1 to 10000"):
        call_command(command, *file, f"--batch={size}")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("err", "shown"),
    [
        (
            Terminal(),
            "\r\x1b[K[##############################] 100%  line 3: loaded 3, unchanged 0, rejected 0  0:00:00 left",
        ),
        (
            io.StringIO(),
            '"message":"line 3: loaded 3, unchanged 0, rejected 0","share":1.0,"seconds_left":0}\n',
        ),
    ],
    ids=["terminal", "file"],
)
def test_progress_is_a_bar_on_a_terminal_and_lines_of_json_elsewhere(acme, file, monkeypatch, err, shown):
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    file.write_bytes(lines_of(3))
    call_command("backfill_jobs", str(file), batch=1, stdout=io.StringIO(), stderr=err)
    assert shown in err.getvalue()


def test_the_estimate_of_a_resumed_run_counts_only_its_own_work(monkeypatch):
    now = iter([100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    err = io.StringIO()
    shown = progress.Progress(OutputWrapper(err), 1_000, "backfill_jobs")
    for done in (910, 920, 1_000):  # what went before: 900
        shown.show(done, "")
    lines = [(line["share"], line["seconds_left"]) for line in map(json.loads, err.getvalue().splitlines())]
    assert lines == [(0.91, None), (0.92, 80), (1.0, 0)]


# --- As a process -------------------------------------------------------------------------------------------------


@pytest.fixture
def store(new_store):
    return new_store("acme")


def lines_of(number: int) -> bytes:
    return b"".join(
        json.dumps(JOB | {"public_id": str(ULID.from_int(index))}).encode() + b"\n" for index in range(number)
    )


def test_it_reads_standard_input_and_says_how_it_went(store):
    done = store.run("backfill_jobs", "-", "--batch", 2, stdin=lines_of(5) + b"no\n", expected=1)
    assert done.stdout.decode().replace("\r\n", "\n") == (
        "loaded 5, unchanged 0, rejected 1\n  1 × not a JSON object in UTF-8\n"
    )
    log = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["logger"], line["message"]) for line in log] == [
        (
            "INFO",
            "backfill_jobs",
            "line 6: not a JSON object in UTF-8: not JSON: Expecting value, at character 1",
        ),
        ("ERROR", "backfill_jobs", "1 record was rejected."),
    ]
    assert store.jobs() == 5


PEAKS = """
import django, resource, sys
from django.core.management import call_command
django.setup()
for file in sys.argv[1:]:
    call_command("backfill_jobs", file, batch=25, verbosity=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.full_on_postgresql  # it is the lines of the file that have to be forgotten
def test_memory_does_not_grow_with_the_file(store, tmp_path):
    """The peak of the process in KiB, after a file of 20 batches and after one of 80."""
    files = []
    for number in (500, 2_000):
        files.append(tmp_path / f"{number}.ndjson")
        files[-1].write_bytes(b"".join(records(number, ("acme",))))
    said = store.python("-c", PEAKS, *files).stdout.splitlines()
    small, large = (int(line) for line in said if line.isdigit())
    assert large < small * 1.1
