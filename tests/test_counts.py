"""The job counts of each tenant: every writer updates them, they are right after crashes, and cause no deadlock."""

from __future__ import annotations

import io
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from ulid import ULID

from jobs.ingest import bulk, counts, interchange, ledger
from jobs.models import Job, JobCounts
from tenants.models import Tenant
from tests.stores import counts_of, everything, exported, true_counts


def backfill_status(**options):
    out = io.StringIO()
    try:
        call_command("backfill_status", stdout=out, stderr=io.StringIO(), **options)
    except CommandError as error:
        out.write(f"{error}\n")
    return out.getvalue()


def record(tenant, public_id=None, *event_types):
    events = [
        {"seq": seq, "event_type": event_type, "created_at": "2026-04-15T12:00:00Z"}
        for seq, event_type in enumerate(event_types, start=1)
    ]
    return {
        "public_id": str(public_id or ULID()),
        "tenant": tenant.slug,
        "job_type": "MODEL_GENERATOR",
        "created_at": "2026-04-15T12:00:00Z",
        "events": events,
    }


@pytest.fixture
def jobs(acme, globex, job_of):
    """One of each status for acme, and one for globex."""
    for status in ("NOT_STARTED", "IN_PROGRESS", "SUCCESS", "FAILURE", "PARTIAL_FAILURE"):
        job_of(acme, status=status)
    job_of(globex)


def test_each_status_has_its_number_and_each_tenant_its_own(acme, globex, jobs):
    every = {"not_started": 1, "in_progress": 1, "success": 1, "failure": 1, "partial_failure": 1}
    assert counts_of(acme) == every == true_counts(acme)
    assert counts_of(globex) == {"not_started": 1} == true_counts(globex)


def test_a_change_that_moves_no_status_and_is_not_shown_does_not_touch_them(acme, job_of):
    job = job_of(acme)
    ledger.append(job, "stage")
    with CaptureQueriesContext(connection) as queries:
        ledger.note(job, "billed")
    assert not any("jobs_jobcounts" in query["sql"] for query in queries)


def test_truth_beside_what_is_kept(acme, globex, jobs):
    assert backfill_status(dry_run=True) == "6 jobs checked, 0 differ\n"
    JobCounts.objects.for_tenant(acme).update(success=F("success") + 2, failure=0)
    before = everything()
    said = "acme: SUCCESS counted as 3, should be 1\nacme: FAILURE counted as 0, should be 1\n"
    assert backfill_status(dry_run=True) == (
        f"6 jobs checked, 0 differ\n{said}0 jobs and the counts of 1 tenant differ from the events.\n"
    )
    assert backfill_status(dry_run=True, tenant="globex") == "1 job checked, 0 differ\n"
    assert everything() == before
    assert backfill_status() == f"6 jobs checked, 0 repaired\n{said}"
    assert counts_of(acme) == true_counts(acme)
    assert backfill_status(dry_run=True) == "6 jobs checked, 0 differ\n"


def test_a_signal_while_tenants_are_counted_stops_it_after_the_tenant(acme, globex, jobs, monkeypatch):
    JobCounts.objects.for_tenant(acme).update(success=7)
    JobCounts.objects.for_tenant(globex).update(success=7)
    drift = counts.drift

    def signalled(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return drift(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(counts, "drift", signalled)
        stopped = backfill_status().splitlines()
    assert stopped[:2] == ["6 jobs checked, 0 repaired", "acme: SUCCESS counted as 7, should be 1"]
    last = Job.all_tenants.order_by("pk").last()
    assert stopped[2:] == ["Stopped. Resume with:", f"python manage.py backfill_status --batch 500 --after {last}"]
    assert backfill_status(after=last.pk) == "0 jobs checked, 0 repaired\nglobex: SUCCESS counted as 7, should be 0\n"


def test_a_tenant_whose_counts_are_missing_gets_them(acme, jobs):
    JobCounts.all_tenants.all().delete()
    backfill_status()
    assert counts_of(acme) == true_counts(acme)


def test_counts_that_have_drifted_below_zero_stop_no_writer(acme, job_of):
    job = job_of(acme)
    JobCounts.all_tenants.update(not_started=0)
    ledger.finish(job)
    assert counts_of(acme) == {"not_started": -1, "success": 1}
    assert backfill_status() == "1 job checked, 0 repaired\nacme: NOT_STARTED counted as -1, should be 0\n"


def test_rows_that_do_not_say_what_their_events_do_are_repaired(acme, job_of):
    ended = job_of(acme, events=record(acme, None, "queued", "succeeded")["events"])
    going = job_of(acme, events=record(acme, None, "queued", "stage")["events"])
    right = exported()
    rows = everything()[0]
    Job.all_tenants.update(
        status="NOT_STARTED", last_seq=9, last_public_seq=0, updated_at=F("created_at"), is_operation=True
    )
    out = backfill_status(batch=1)
    assert f"{ended.pk}: status NOT_STARTED → SUCCESS, " in out
    assert f"{going.pk}: status NOT_STARTED → IN_PROGRESS, " in out
    assert "2 jobs checked, 2 repaired\n  2 × status\n  2 × last_seq\n" in out
    assert exported() == right
    assert everything()[0] == [row | {"version": row["version"] + 1} for row in rows]
    backfill_status()
    assert counts_of(acme) == true_counts(acme)


def test_a_status_that_came_without_its_events_is_left_as_given(acme, job_of):
    job_of(acme, status="SUCCESS")
    job_of(acme, status="PARTIAL_FAILURE", events=record(acme, None, "queued", "stage")["events"])
    assert backfill_status() == "2 jobs checked, 0 repaired\n"


def test_it_resumes_after_a_job(acme, job_of):
    first, _ = job_of(acme), job_of(acme)
    assert backfill_status(after=first.pk) == "1 job checked, 0 repaired\n"


class Crash(Exception):
    """Where a transaction is interrupted."""


@dataclass
class Writers:
    """Four kinds of writer on the same jobs of two tenants, each change in a transaction of the writer's own."""

    tenants: tuple[Tenant, Tenant]
    shared: list[ULID]
    chance: random.Random

    def append(self) -> None:
        event_type = self.chance.choice(["started", "completed", "failed"])
        ledger.append(self.chance.choice(self.shared), event_type, hostname=f"web-{self.chance.randrange(3)}")

    def change_several(self) -> None:
        jobs = self.chance.sample(self.shared, 3)
        with ledger.together(*jobs, tenants=self.tenants):
            for job in self.chance.sample(jobs, 3):
                ledger.append(job, self.chance.choice(["started", "completed"]), hostname="web-1")
            ledger.open_job(self.chance.choice(self.tenants), "restart")

    def load(self) -> None:
        load(record(self.chance.choice(self.tenants), None, "queued", "succeeded") for _ in range(30))

    def load_what_another_loads(self) -> None:
        # In any order: two loaders meet on the same new jobs.
        load(
            record(self.tenants[0], ULID.from_int(2**100 + self.chance.randrange(40)), *self.chance.choice(GROWING))
            for _ in range(20)
        )

    def write(self, kind: int, rounds: int) -> int:
        """The number of transactions that were committed; three in ten crash before that."""
        change = (self.append, self.change_several, self.load, self.load_what_another_loads)[kind]
        done = 0
        for _ in range(rounds):
            with suppress(Crash), transaction.atomic():
                change()
                if self.chance.random() < 0.3:
                    raise Crash
                done += 1
        connection.close()
        return done


GROWING = [("queued",), ("queued", "stage"), ("queued", "stage", "succeeded")]


def load(records_of_jobs):
    bulk.load_batch([bulk.line_of(interchange.record(each)) for each in records_of_jobs])


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("rounds", [pytest.param(12, id="short"), pytest.param(150, id="full", marks=pytest.mark.full)])
def test_writers_of_every_kind_at_once_with_crashes_among_them(acme, globex, rounds):
    shared = [ledger.open_job(tenant, "restart").public_id for tenant in (acme, globex) * 4]
    with ThreadPoolExecutor(8) as pool:
        writers = [Writers((acme, globex), shared, random.Random(number)) for number in range(8)]
        done = list(pool.map(lambda writer, kind: writer.write(kind, rounds), writers, [0, 1, 2, 3] * 2))
    assert all(done)
    for tenant in (acme, globex):
        assert counts_of(tenant) == true_counts(tenant)
        assert counts.drift(tenant.pk) == {}
    for job in Job.all_tenants.all():
        assert list(job.events.order_by("seq").values_list("seq", flat=True)) == list(range(1, job.last_seq + 1))
    assert backfill_status(dry_run=True).endswith(" 0 differ\n")
