"""The counts of an operation's agents. With them the ledger appends an event without reading the job's other events."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.fold import AGENT_RANKS, GATEWAY, count_agents, fold_status
from jobs.ingest import bulk, ledger, recompute_status
from jobs.models import Job, JobEvent
from tests.stores import counts_of, true_counts

COLUMNS = ("agents_submitted", "agents_active", "agents_failed", "agents_completed")
STEPS = st.lists(
    st.tuples(st.sampled_from([*AGENT_RANKS, "note"]), st.sampled_from([GATEWAY, "web-01", "web-02", "web-03"])),
    min_size=1,
    max_size=12,
)


@pytest.fixture
def job(acme):
    return ledger.open_job(acme, "restart")


def write(job: Job, event_type: str, hostname: str) -> None:
    if event_type == "note":
        ledger.note(job, "an internal note")
    else:
        ledger.append(job, event_type, hostname=hostname)


def check(job: Job) -> None:
    """The row says what all events of the job together say."""
    job.refresh_from_db()
    events = list(JobEvent.all_tenants.filter(job=job))
    assert job.status == fold_status(events)
    assert tuple(getattr(job, name) for name in COLUMNS) == tuple(count_agents(events))


# An example takes as long as several tests: less than a third of what others get.
@settings(
    max_examples=settings().max_examples * 3 // 10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_after_every_event_the_row_agrees_with_a_fold_of_all_events(acme, steps):
    job = ledger.open_job(acme, "restart")
    ledger.append(job, "submitted", hostname=GATEWAY)
    for event_type, hostname in steps:
        write(job, event_type, hostname)
        check(job)
    assert counts_of(acme) == true_counts(acme)


def statements(work: Any) -> list[str]:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        work()
    return [query["sql"] for query in captured]


def test_an_append_makes_the_same_statements_for_many_agents_with_many_events(acme, job):
    ledger.append(job, "started", hostname="web-000")
    few = statements(lambda: ledger.append(job, "started", hostname="web-000"))
    for number in range(10):
        for event_type in ("submitted", "started", "started", "started", "failed"):
            ledger.append(job, event_type, hostname=f"web-{number:03}")
    many = statements(lambda: ledger.append(job, "started", hostname="web-007"))
    assert len(many) == len(few)
    # No statement returns the job's events: the one that reads them asks whether some exist.
    reads = [sql for sql in many if sql.startswith("SELECT") and "jobs_jobevent" in sql]
    assert len(reads) == 1
    assert reads[0].count("EXISTS") == len(AGENT_RANKS)
    check(job)


@pytest.mark.postgresql
def test_postgresql_finds_the_state_of_an_agent_by_an_index_entry(acme, job):
    record = {
        "public_id": "01JADE5XAMPK9M0Q7RS3T4V5W6",
        "tenant": "acme",
        "job_type": "restart",
        "created_at": "2026-04-15T12:00:00Z",
        "events": [
            {
                "seq": seq,
                "event_type": ["started", "failed"][seq % 2],
                "hostname": f"web-{seq % 101}",
                "created_at": "2026-04-15T12:00:00Z",
            }
            for seq in range(1, 5001)
        ],
    }
    bulk.load_record(record)
    [read] = [
        sql
        for sql in statements(lambda: ledger.append(record["public_id"], "completed", hostname="web-7"))
        if sql.startswith("SELECT") and "jobs_jobevent" in sql
    ]
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_jobevent")
        cursor.execute(f"EXPLAIN {read}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert plan.count("event_of_agent") == len(AGENT_RANKS), plan


def test_a_job_whose_agents_were_never_counted_is_counted_at_its_next_event(acme, job):
    for hostname in ("web-01", "web-02"):
        ledger.append(job, "completed", hostname=hostname)
    # A row that was written before the columns of the counts existed: its events are there, its counts are 0.
    Job.all_tenants.filter(pk=job.pk).update(agents_seq=0, agents_completed=0)
    ledger.append(job, "started", hostname="web-03")
    check(job)
    assert job.status == "IN_PROGRESS"


def test_an_older_version_that_appends_beside_this_one_makes_the_counts_be_taken_again(acme, job):
    ledger.append(job, "started", hostname="web-01")
    ledger.append(job, "completed", hostname="web-01")
    Job.all_tenants.filter(pk=job.pk).update(agents_seq=1, agents_active=1, agents_completed=0)
    ledger.append(job, "retried", hostname=GATEWAY)
    check(job)
    assert job.status == "SUCCESS"


def test_the_loader_counts_agents_as_the_ledger_does(acme, job):
    line = {
        "public_id": str(job.pk),
        "tenant": "acme",
        "job_type": "restart",
        "created_at": job.created_at,
        "events": [
            {"seq": seq, "event_type": event_type, "hostname": hostname, "created_at": "2026-04-15T12:00:00Z"}
            for seq, (event_type, hostname) in enumerate(
                [("submitted", "a"), ("started", "b"), ("failed", "c"), ("skipped", "d"), ("retried", GATEWAY)], 1
            )
        ],
    }
    bulk.load_record(line)
    check(job)
    assert [getattr(job, name) for name in COLUMNS] == [1, 1, 1, 1]
    ledger.append(job, "completed", hostname="a")
    check(job)


def test_wrong_counts_of_agents_are_found_and_repaired(acme, job):
    ledger.append(job, "completed", hostname="web-01")
    Job.all_tenants.filter(pk=job.pk).update(agents_completed=7)
    [batch] = recompute_status.recompute_status(Job.all_tenants.all(), 10, repair=True)
    assert [difference.columns for difference in batch.differences] == [{"agents_completed": (7, 1)}]
    check(job)
