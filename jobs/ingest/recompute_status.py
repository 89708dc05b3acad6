"""Recomputes the columns of each job's row that its events decide, and repairs rows that differ.

It also checks that the positions of a job's events ascend with ``seq``, which cannot be repaired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import F, QuerySet
from ulid import ULID

from jobs.ingest import counts
from jobs.ingest.merge import expected_status, header
from jobs.models import Job, JobEvent


class Difference(NamedTuple):
    """A job whose row does not agree with its events: by column, the stored value and the right one."""

    public_id: ULID
    columns: dict[str, tuple[Any, Any]]


class RecomputedBatch(NamedTuple):
    """A batch: the number of jobs, the id of the last one, the jobs that differ, and those with wrong positions."""

    jobs: int
    last: ULID
    differences: list[Difference]
    unordered: list[ULID]


def recompute_status(jobs: QuerySet[Job], size: int, repair: bool) -> Iterator[RecomputedBatch]:
    """Recomputes ``jobs``, ascending by id, in batches of ``size``. A batch is committed before it is yielded."""
    page = jobs = jobs.order_by("public_id")
    while True:
        with transaction.atomic():
            batch = list(page.select_for_update(no_key=True)[:size])
            if not batch:
                return
            events = _events_by_job(batch)
            differences = _differences(batch, events)
            if repair:
                _repair({job.pk: job for job in batch}, differences)
        unordered = [public_id for public_id, its_events in events.items() if not _is_ascending(its_events)]
        yield RecomputedBatch(len(batch), batch[-1].pk, differences, unordered)
        page = jobs.filter(public_id__gt=batch[-1].pk)


def _events_by_job(batch: list[Job]) -> dict[ULID, list[Any]]:
    """The events of each job that has some, by seq: the columns of ``EventHead``, and ``position``."""
    columns = "job_id", "seq", "event_type", "visibility", "hostname", "created_at", "position"
    rows = JobEvent.all_tenants.filter(job__in=[job.pk for job in batch]).order_by("job", "seq")
    return {
        job_id: list(group) for job_id, group in groupby(rows.values_list(*columns, named=True), lambda row: row.job_id)
    }


def _is_ascending(events: list[Any]) -> bool:
    positions = [event.position for event in events if event.position is not None]
    return all(before < after for before, after in pairwise(positions))


def _differences(batch: list[Job], events_by_job: dict[ULID, list[Any]]) -> list[Difference]:
    differences = []
    for job in batch:
        events = events_by_job.get(job.pk, [])
        right = {"status": expected_status(events, job.status)} | header(job.created_at, events)
        if job.agents_seq != job.last_seq:  # the ledger will count the agents itself
            right = {name: value for name, value in right.items() if not name.startswith("agents_")}
        if wrong := {name: (getattr(job, name), value) for name, value in right.items() if getattr(job, name) != value}:
            differences.append(Difference(job.pk, wrong))
    return differences


def _repair(jobs: dict[ULID, Job], differences: list[Difference]) -> None:
    moves: counts.Changes = Counter()
    # /v1 shows a repaired job differently, without a new event.
    positions = Counter(jobs[public_id].tenant_id for public_id, _ in differences)
    for public_id, columns in differences:
        right = {name: after for name, (_, after) in columns.items()}
        Job.all_tenants.filter(pk=public_id).update(version=F("version") + 1, **right)
        if "status" in columns:
            moves.update(counts.status_change(jobs[public_id].tenant_id, *columns["status"]))
    counts.apply(moves, positions)
