"""The ledger: writing jobs from Python, and the errors for invalid changes."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import transaction
from ulid import ULID

from jobs.ingest import bulk, ledger
from jobs.models import Artifact, Job, JobEvent
from tests.stores import counts_of, everything, true_counts

RENDER = {"storage_key": "tenants/acme/front.png", "kind": "on_model_render", "role": "final"}


@pytest.fixture
def job(acme):
    return ledger.open_job(acme, "MODEL_GENERATOR", {"prompt": "studio"})


def timeline(job):
    return list(JobEvent.all_tenants.filter(job=job).order_by("seq").values_list("seq", "event_type", "message"))


def test_a_job_is_opened_rendered_and_finished(acme):
    job = ledger.open_job(acme, "MODEL_GENERATOR", {"prompt": "studio"})
    assert (job.status, job.last_seq, job.version) == ("NOT_STARTED", 0, 1)
    ledger.append(job, "queued", "Queued")
    ledger.append(job, "stage", "Rendering", stage="render", extra={"step": 1})
    assert Job.all_tenants.get().status == "IN_PROGRESS"
    done = ledger.finish(job, "Done", artifacts=[RENDER | {"label": "front", "meta": {"width": 1024}}])

    job.refresh_from_db()
    assert (job.status, job.last_seq, job.last_public_seq, job.version) == ("SUCCESS", 3, 3, 4)
    assert job.updated_at == done.created_at > job.created_at
    assert timeline(job) == [(1, "queued", "Queued"), (2, "stage", "Rendering"), (3, "succeeded", "Done")]
    artifact = Artifact.all_tenants.get()
    assert (artifact.job, artifact.event, artifact.tenant, artifact.position) == (job, done, acme, 0)
    assert artifact.meta == {"width": 1024}
    assert counts_of(acme) == {"success": 1}


def test_a_job_is_known_by_itself_or_by_its_public_id(job):
    ledger.append(job.public_id, "queued")
    ledger.append(str(job.public_id).lower(), "stage")
    assert [seq for seq, *_ in timeline(job)] == [1, 2]


def test_a_job_that_failed_says_why(acme, job):
    ledger.fail(job, "The model refused.")
    assert Job.all_tenants.get().status == "FAILURE"
    assert counts_of(acme) == {"failure": 1}


def test_the_public_id_may_be_chosen_so_that_a_retry_opens_the_job_once(acme, globex):
    job = ledger.open_job(acme, "MODEL_GENERATOR", public_id="01JADE5XAMPK9M0Q7RS3T4V5W6")
    assert job.public_id == ULID.from_str("01JADE5XAMPK9M0Q7RS3T4V5W6")
    before = everything()
    for tenant in (acme, globex):
        with pytest.raises(ledger.JobExists):
            ledger.open_job(tenant, "MODEL_GENERATOR", public_id="01JADE5XAMPK9M0Q7RS3T4V5W6")
    assert everything() == before


def test_an_internal_event_takes_a_seq_but_is_not_the_public_cursor(job):
    ledger.append(job, "queued")
    ledger.note(job, "retried on another worker")
    job.refresh_from_db()
    assert (job.last_seq, job.last_public_seq, job.version) == (2, 1, 3)


def test_artifacts_with_no_event_are_numbered_after_those_before(job):
    ledger.attach(job, [RENDER, RENDER | {"role": "intermediate"}])
    ledger.attach(job, [RENDER | {"label": "third"}])
    rows = Artifact.all_tenants.order_by("position").values_list("position", "event", "role", "label")
    assert list(rows) == [(0, None, "final", None), (1, None, "intermediate", None), (2, None, "final", "third")]
    job.refresh_from_db()
    assert job.version == 4


def test_a_job_that_has_ended_takes_internal_notes_and_nothing_else(acme, job):
    ledger.finish(job)
    before = everything()
    for late in (
        lambda: ledger.finish(job),
        lambda: ledger.fail(job),
        lambda: ledger.append(job, "succeeded", visibility="internal"),
        lambda: ledger.append(job, "stage"),
        lambda: ledger.append(job, "started", hostname="web-1"),
    ):
        with pytest.raises(ledger.JobEnded):
            late()
    assert everything() == before
    ledger.note(job, "billed")
    assert Job.all_tenants.get().status == "SUCCESS"
    assert counts_of(acme) == {"success": 1}


def test_an_operations_status_follows_its_agents_wherever_they_go(acme):
    job = ledger.open_job(acme, "restart", {"service": "nginx"})

    def after(event_type, hostname, **extra):
        ledger.append(job, event_type, hostname=hostname, extra=extra)
        job.refresh_from_db()
        return job.status

    assert after("submitted", "web-1") == "NOT_STARTED"
    assert after("submitted", "web-2") == "NOT_STARTED"
    assert after("acknowledged", "web-1") == "IN_PROGRESS"
    assert after("completed", "web-1", data={"pid": 7}, changed=True) == "IN_PROGRESS"
    assert after("failed", "web-2", error="no such service") == "PARTIAL_FAILURE"
    assert after("retried", "_api") == "PARTIAL_FAILURE"
    assert after("completed", "web-2", changed=False) == "SUCCESS"
    assert after("started", "web-3") == "IN_PROGRESS"
    assert after("failed", "web-3") == "PARTIAL_FAILURE"
    assert job.is_operation
    assert counts_of(acme) == {"partial_failure": 1}


@pytest.mark.parametrize(
    ("event_type", "hostname"),
    [("started", None), ("progress", None), ("retried", "web-1"), ("succeeded", "web-1"), ("stage", "_api")],
)
def test_an_event_type_that_its_source_does_not_have_is_refused(job, event_type, hostname):
    before = everything()
    with pytest.raises(ledger.WrongEventType):
        ledger.append(job, event_type, hostname=hostname)
    assert everything() == before


def test_an_operations_events_name_their_agent(acme):
    job = ledger.open_job(acme, "restart")
    ledger.append(job, "started", hostname="web-1")
    with pytest.raises(ledger.WrongEventType):
        ledger.finish(job)
    ledger.note(job, "seen by the operator")
    assert Job.all_tenants.get().status == "IN_PROGRESS"


DEEP: dict[str, Any] = {"a": 1}
for _ in range(64):
    DEEP = {"deeper": DEEP}


@pytest.mark.parametrize(
    ("details", "rule"),
    [
        ({"message": "a\0b"}, "message: a NUL character"),
        ({"stage": "\ud800"}, "stage: a lone surrogate"),
        ({"extra": {"a": ["b\0"]}}, "extra: a NUL character"),
        ({"extra": {"\udfff": 1}}, "extra: a lone surrogate"),
        ({"extra": {"a": 2**64}}, "extra: an integer beyond 64 bits"),
        ({"extra": {"a": -(2**63) - 1}}, "extra: an integer beyond 64 bits"),
        ({"extra": {"a": math.inf}}, "extra: a number that is not finite"),
        ({"extra": {"a": math.nan}}, "extra: a number that is not finite"),
        ({"extra": {1: "a"}}, "extra: a member name that is not a string"),
        ({"extra": {"a": object()}}, "extra: a object, which is no JSON value"),
        ({"extra": DEEP}, "extra: nested deeper than 64"),
        ({"extra": []}, "extra: [] is not a JSON object"),
        ({"visibility": "secret"}, 'visibility: "secret" is none of public, internal'),
        ({"created_at": datetime(2026, 1, 1)}, "created_at: datetime.datetime(2026, 1, 1, 0, 0) is not an RFC 3339"),  # noqa: DTZ001
        ({"artifacts": [RENDER | {"kind": ""}]}, "artifacts[0].kind: 0 characters; 1 to 100 are allowed"),
        ({"artifacts": [RENDER | {"role": "last"}]}, 'artifacts[0].role: "last" is none of intermediate, final'),
        ({"artifacts": [RENDER | {"size": 1}]}, 'artifacts[0]."size": unknown member'),
        ({"artifacts": [RENDER | {"storage_key": "tenants/globex/a.png"}]}, "lies outside the tenant's storage prefix"),
        ({"artifacts": [RENDER | {"storage_key": "tenants/acme/../a.png"}]}, "as a segment"),
        ({"artifacts": [RENDER | {"storage_key": ""}]}, "is empty"),
    ],
)
def test_what_no_store_keeps_is_refused_and_nothing_is_written(job, details, rule):
    before = everything()
    with pytest.raises(ledger.ValueRefused) as refused:
        ledger.append(job, "stage", **details)
    assert rule in str(refused.value)
    assert everything() == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"job_type": ""},
        {"job_type": "x" * 101},
        {"request": ["a"]},
        {"request": {"a": math.nan}},
        {"public_id": "nope"},
    ],
)
def test_a_job_with_values_that_no_store_keeps_is_not_opened(acme, arguments):
    with pytest.raises(ledger.ValueRefused):
        ledger.open_job(**{"tenant": acme, "job_type": "MODEL_GENERATOR"} | arguments)
    assert everything() == [[], [], [], []]


@pytest.mark.parametrize("nobody", [ULID(), "01JADE5XAMPK9M0Q7RS3T4V5W6", "nope", ""])
def test_a_job_that_does_not_exist_is_named(db, nobody):
    with pytest.raises(ledger.JobNotFound):
        ledger.append(nobody, "queued")


def test_it_is_part_of_the_callers_transaction(acme, job):
    before = everything()
    with pytest.raises(RuntimeError, match="payment"), transaction.atomic():  # noqa: PT012 - all of it fails
        ledger.finish(job)
        ledger.open_job(acme, "MODEL_GENERATOR")
        raise RuntimeError("payment declined")
    assert everything() == before


def test_several_jobs_change_together_or_not_at_all(acme, job):
    other = ledger.open_job(acme, "MODEL_GENERATOR")
    with ledger.together(job, other):
        ledger.finish(job)
        ledger.fail(other)
        ledger.append(ledger.open_job(acme, "BACKGROUND_GENERATOR"), "stage")
    assert counts_of(acme) == {"success": 1, "failure": 1, "in_progress": 1} == true_counts(acme)

    before = everything()
    with pytest.raises(ledger.NotNamed), ledger.together(other):  # noqa: PT012 - all of it fails
        ledger.note(other, "billed")
        ledger.note(job, "billed")
    with pytest.raises(ledger.JobNotFound), ledger.together(other, ULID()):
        pass
    assert everything() == before


def test_what_a_part_of_a_group_took_back_is_not_counted(acme, job):
    other = ledger.open_job(acme, "MODEL_GENERATOR")
    with ledger.together(job, other):
        ledger.append(other, "stage")
        with pytest.raises(RuntimeError, match="changed my mind"), transaction.atomic():  # noqa: PT012 - all of it
            ledger.finish(job)
            ledger.open_job(acme, "MODEL_GENERATOR")
            raise RuntimeError("changed my mind")
    assert counts_of(acme) == {"not_started": 1, "in_progress": 1} == true_counts(acme)


def test_times_are_kept_to_the_microsecond_in_utc(job):
    ledger.append(job, "queued", created_at=datetime.fromisoformat("2026-04-15T12:00:00.123456+02:00"))
    assert JobEvent.all_tenants.get().created_at == datetime(2026, 4, 15, 10, 0, 0, 123456, tzinfo=UTC)


# --- Bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"message": "é" * 10_001}, "message: 10,001 characters; 0 to 10,000 are allowed"),
        ({"extra": {"a": "x" * 2**16}}, "extra: 65,544 bytes of JSON; at most 65,536 are allowed"),
        ({"artifacts": [RENDER] * 501}, "artifacts: 501 of them; at most 500 are allowed"),
        ({"artifacts": [RENDER | {"meta": {"a": "x" * 2**16}}]}, "artifacts[0].meta: 65,544 bytes of JSON"),
    ],
)
def test_an_event_beyond_a_bound_is_refused_by_its_name(job, details, reason):
    before = everything()
    with pytest.raises(ledger.ValueRefused) as refused:
        ledger.append(job, "stage", **{"message": "", **details})
    assert str(refused.value).startswith(reason)
    assert everything() == before


def test_a_request_beyond_its_bound_is_refused(acme):
    with pytest.raises(ledger.ValueRefused, match="request: 1,048,584 bytes of JSON; at most 1,048,576 are allowed"):
        ledger.open_job(acme, "MODEL_GENERATOR", {"a": "x" * 2**20})
    assert not Job.all_tenants.exists()


def test_a_job_has_at_most_2000_final_artifacts(job):
    for _ in range(3):
        ledger.append(job, "stage", artifacts=[RENDER] * 500)
    ledger.attach(job, [RENDER] * 499 + [RENDER | {"role": "intermediate"}] * 10)
    ledger.append(job, "stage", artifacts=[RENDER])
    before = everything()
    for add in (lambda: ledger.attach(job, [RENDER]), lambda: ledger.finish(job, artifacts=[RENDER])):
        with pytest.raises(ledger.ValueRefused, match="more than 2,000 artifacts with role final"):
            add()
    assert everything() == before
    ledger.finish(job, artifacts=[RENDER | {"role": "intermediate"}])
    assert Artifact.all_tenants.filter(role="final").count() == 2_000


def test_a_job_has_at_most_10000_events(acme, job):
    times = {"created_at": job.created_at, "event_type": "stage"}
    record = {"public_id": str(job.pk), "tenant": "acme", "job_type": job.job_type, "created_at": job.created_at}
    record["request"] = {"prompt": "studio"}
    # With a hole, so that the highest seq is not the number of events.
    bulk.load_record(record | {"events": [times | {"seq": seq} for seq in range(1, 10_002) if seq not in (5, 6)]})
    ledger.finish(job)
    with pytest.raises(ledger.ValueRefused, match=r"has 10,000 events, the most that a job may have"):
        ledger.note(job, "one more")


def test_null_for_the_lists_and_objects_of_an_event_is_empty(job):
    event = ledger.append(job, "stage", extra=None, artifacts=None)
    assert event.extra == {}


def test_an_agent_may_skip(acme):
    job = ledger.open_job(acme, "restart")
    ledger.append(job, "started", hostname="web-01")
    ledger.append(job, "skipped", "Up to date", hostname="web-01")
    assert Job.all_tenants.get().status == "SUCCESS"
    with pytest.raises(ledger.WrongEventType, match="completed, failed, skipped, started, submitted; not"):
        ledger.append(job, "ignored", hostname="web-01")
