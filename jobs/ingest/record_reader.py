"""Reads stored jobs as interchange records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast
from ulid import ULID

from jobs.ingest.interchange import (
    ARTIFACT_MEMBERS,
    EMPTY_OBJECT,
    EVENT_MEMBERS,
    JSON_MEMBERS,
    ArtifactLine,
    EventLine,
    Record,
    canonical,
)
from jobs.models import Artifact, Job, JobEvent
from tenants.models import Tenant


def records(jobs: QuerySet[Job]) -> Iterator[Record]:
    """The records of ``jobs``, in the order of the queryset. Four statements; all records are in memory at once.

    The result is consistent without a snapshot: a job's row is read first, then its events up to the row's
    ``last_seq``, which exist by then and never change. A job that is removed meanwhile is left out. The jobs are locked
    if the queryset locks them.
    """
    columns = "public_id", "tenant_id", "job_type", "status", "created_at", "last_seq"
    rows = list(
        jobs.annotate(request_text=Cast("request", TextField())).values_list(*columns, "request_text", named=True)
    )
    if not rows:
        return
    last_seqs = {row.public_id: row.last_seq for row in rows}
    slugs = dict(Tenant.objects.filter(pk__in={row.tenant_id for row in rows}).values_list("pk", "slug"))
    of_event, of_job = _artifacts(last_seqs)
    events = _events(last_seqs, of_event)
    gone = _removed(row for row in rows if row.tenant_id not in slugs or _lacks_events(row, events))
    for row in rows:
        if row.public_id in gone:
            continue
        yield Record(
            public_id=row.public_id,
            tenant=slugs[row.tenant_id],
            job_type=row.job_type,
            status=row.status,
            created_at=row.created_at,
            request=None if row.request_text is None else _canonical(row.request_text),
            events=tuple(events.get(row.public_id, ())),
            artifacts=tuple(of_job.get(row.public_id, ())),
        )


def _lacks_events(row: Any, events: dict[ULID, list[EventLine]]) -> bool:
    found = events.get(row.public_id)
    return row.last_seq > (found[-1].seq if found else 0)


def _removed(rows: Iterable[Any]) -> set[ULID]:
    """Those of ``rows`` that were removed after they were read. What was read of them is not whole."""
    read = {row.public_id for row in rows}
    return read - set(Job.all_tenants.filter(pk__in=read).values_list("pk", flat=True)) if read else read


def ids(jobs: QuerySet[Job], size: int) -> Iterator[list[ULID]]:
    """The ids of all ``jobs``, ascending, in pages of ``size``."""
    page = jobs = jobs.order_by("public_id")
    while found := list(page.values_list("public_id", flat=True)[:size]):
        yield found
        page = jobs.filter(public_id__gt=found[-1])


def batches(jobs: QuerySet[Job], size: int, rows: int = 20_000) -> Iterator[list[Record]]:
    """The records of all ``jobs``, ascending by id, in batches of ``size`` jobs at most.

    A batch ends early when its jobs have ``rows`` events, to bound the memory.
    """
    page = jobs = jobs.order_by("public_id")
    while True:
        ids, events = [], 0
        for public_id, last_seq in page.values_list("public_id", "last_seq")[:size]:
            ids.append(public_id)
            events += last_seq
            if events >= rows:
                break
        if not ids:
            return
        if found := list(records(jobs.filter(public_id__in=ids))):
            yield found
        page = jobs.filter(public_id__gt=ids[-1])


def _events(last_seqs: dict[ULID, int], artifacts: dict[int, list[ArtifactLine]]) -> dict[ULID, list[EventLine]]:
    rows = JobEvent.all_tenants.filter(job__in=last_seqs).order_by("job", "seq")
    events: dict[ULID, list[EventLine]] = defaultdict(list)
    for job_id, event_id, *values in rows.values_list("job_id", "id", *_columns(EVENT_MEMBERS)):
        line = EventLine._make((*_in_canonical_form(EVENT_MEMBERS, values), tuple(artifacts.get(event_id, ()))))
        if line.seq <= last_seqs[job_id]:
            events[job_id].append(line)
    return events


def _artifacts(
    jobs: dict[ULID, int],
) -> tuple[dict[int, list[ArtifactLine]], dict[ULID, list[ArtifactLine]]]:
    """The artifacts of events, by event id, and those without an event, by job."""
    of_event: dict[int, list[ArtifactLine]] = defaultdict(list)
    of_job: dict[ULID, list[ArtifactLine]] = defaultdict(list)
    rows = Artifact.all_tenants.filter(job__in=jobs).order_by("position")
    for job_id, event_id, *values in rows.values_list("job_id", "event_id", *_columns(ARTIFACT_MEMBERS)):
        line = ArtifactLine._make(_in_canonical_form(ARTIFACT_MEMBERS, values))
        if event_id is None:
            of_job[job_id].append(line)
        else:
            of_event[event_id].append(line)
    return of_event, of_job


def _columns(names: Iterable[str]) -> list[Any]:
    # JSON as text: PostgreSQL writes 1e300 with 300 zeros, which orjson reads as a float and Python's json does not.
    return [Cast(name, TextField()) if name in JSON_MEMBERS else name for name in names]


def _in_canonical_form(names: Iterable[str], values: Iterable[Any]) -> list[Any]:
    """The values of :func:`_columns` of the same names, as a record has them."""
    return [_canonical(value) if name in JSON_MEMBERS else value for name, value in zip(names, values, strict=True)]


def _canonical(text: str) -> str:
    return EMPTY_OBJECT if text == EMPTY_OBJECT else canonical(orjson.loads(text))
