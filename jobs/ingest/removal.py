"""Removes jobs with their events and artifacts, and updates the counts, one transaction for each batch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.db.models import Q, QuerySet
from ulid import ULID

from jobs.ingest import counts
from jobs.models import Artifact, Job, JobEvent, JobStatus

FAILURES = (JobStatus.FAILURE, JobStatus.PARTIAL_FAILURE)


class RemovedJob(NamedTuple):
    """The columns of a removed job that are reported."""

    public_id: ULID
    tenant_id: int
    job_type: str
    status: str
    created_at: datetime
    updated_at: datetime


class RemovedBatch(NamedTuple):
    jobs: list[RemovedJob]
    events: int
    artifacts: int


@transaction.atomic
def remove(jobs: QuerySet[Job]) -> RemovedBatch:
    """Removes ``jobs`` in one transaction. Order them by id, ascending: every writer locks jobs in that order."""
    gone = [RemovedJob(*row) for row in jobs.select_for_update().values_list(*RemovedJob._fields)]
    if not gone:
        return RemovedBatch([], 0, 0)
    ids = [job.public_id for job in gone]
    # One DELETE for each table. Django's own deletion would read all rows first.
    tenants = {job.tenant_id for job in gone}  # so that PostgreSQL prunes partitions by tenant
    rows = (model.all_tenants.filter(tenant__in=tenants, job__in=ids) for model in (Artifact, JobEvent))
    artifacts, events = (each._raw_delete(each.db) for each in rows)
    these = Job.all_tenants.filter(tenant__in=tenants, pk__in=ids)
    these._raw_delete(these.db)
    moves: counts.Changes = Counter()
    moves.subtract((job.tenant_id, job.status) for job in gone)
    # A position that no event has wakes the tenant's readers: those of these jobs learn that they are gone.
    counts.apply(moves, dict.fromkeys(tenants, 1))
    return RemovedBatch(gone, events, artifacts)


def inactive_since(jobs: QuerySet[Job], before: datetime, keep_failures: bool) -> QuerySet[Job]:
    """Those of ``jobs`` whose last event (or creation, if there is none) is older than ``before``."""
    # A job is not newer than its last event. The first condition uses the index.
    jobs = jobs.filter(created_at__lt=before, updated_at__lt=before)
    return jobs.exclude(status__in=FAILURES) if keep_failures else jobs


AgeCursor = tuple[datetime, ULID]  # of a job: its creation time and its id


def batches_by_age(jobs: QuerySet[Job], after: AgeCursor | None, size: int) -> Iterator[tuple[list[ULID], AgeCursor]]:
    """The ids of ``jobs`` after ``after``, oldest first, ``size`` at a time, each batch with its cursor."""
    while True:
        page = jobs
        if after is not None:
            created_at, public_id = after
            page = jobs.filter(Q(created_at__gt=created_at) | Q(public_id__gt=public_id), created_at__gte=created_at)
        places = list(page.order_by("created_at", "public_id").values_list("created_at", "public_id")[:size])
        if not places:
            return
        after = places[-1]
        yield [public_id for _, public_id in places], after


def storage_keys_by_job(jobs: Iterable[ULID]) -> dict[ULID, list[str]]:
    """The storage keys of the jobs' artifacts."""
    keys: dict[ULID, list[str]] = defaultdict(list)
    rows = Artifact.all_tenants.filter(job__in=list(jobs)).order_by("pk").values_list("job_id", "storage_key")
    for job, key in rows:
        keys[job].append(key)
    return keys
