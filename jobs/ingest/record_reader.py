"""Jobs as the store has them, read back as the records that they came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import orjson
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast
from ulid import ULID

from jobs.ingest.interchange import EMPTY_OBJECT, ArtifactLine, EventLine, Record, canonical
from jobs.models import Artifact, Job, JobEvent
from tenants.models import Tenant


def records(jobs: QuerySet[Job]) -> Iterator[Record]:
    """The records of ``jobs``, in their order; three statements, and all of them in memory at once.

    Consistent without a snapshot: a job's row is read first, and of its events only those up to the row's ``last_seq``,
    which are there and never change. Locks the jobs where the queryset says so.
    """
    rows = list(
        jobs.values_list("public_id", "tenant_id", "job_type", "status", "created_at", _json("request"), "last_seq")
    )
    if not rows:
        return
    last_seqs = {row[0]: row[-1] for row in rows}
    slugs = dict(Tenant.objects.filter(pk__in={row[1] for row in rows}).values_list("pk", "slug"))
    of_event, of_job = _artifacts(last_seqs)
    events = _events(last_seqs, of_event)
    for public_id, tenant_id, job_type, status, created_at, request, _ in rows:
        yield Record(
            public_id,
            slugs[tenant_id],
            job_type,
            status,
            created_at,
            None if request is None else _canonical(request),
            tuple(events.get(public_id, ())),
            tuple(of_job.get(public_id, ())),
        )


def ids(jobs: QuerySet[Job], size: int) -> Iterator[list[ULID]]:
    """The ids of all ``jobs``, ascending, in pages of ``size``."""
    page = jobs = jobs.order_by("public_id")
    while found := list(page.values_list("public_id", flat=True)[:size]):
        yield found
        page = jobs.filter(public_id__gt=found[-1])


def batches(jobs: QuerySet[Job], size: int, rows: int = 20_000) -> Iterator[list[Record]]:
    """The records of all ``jobs``, ascending by id, in batches of ``size`` jobs at most.

    A batch ends early once its jobs have ``rows`` events, so that long timelines do not add up in memory.
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
        yield list(records(jobs.filter(public_id__in=ids)))
        page = jobs.filter(public_id__gt=ids[-1])


def _events(last_seqs: dict[ULID, int], artifacts: dict[int, list[ArtifactLine]]) -> dict[ULID, list[EventLine]]:
    rows = (
        JobEvent.all_tenants.filter(job__in=last_seqs)
        .order_by("job", "seq")
        .values_list(
            "job_id",
            "id",
            "seq",
            "event_type",
            "visibility",
            "stage",
            "message",
            "hostname",
            _json("extra"),
            "created_at",
        )
    )
    return {
        job_id: [
            EventLine(
                seq,
                event_type,
                visibility,
                stage,
                message,
                hostname,
                _canonical(extra),
                at,
                tuple(artifacts.get(pk, ())),
            )
            for _, pk, seq, event_type, visibility, stage, message, hostname, extra, at in group
            if seq <= last_seqs[job_id]
        ]
        for job_id, group in groupby(rows, key=lambda row: row[0])
    }


def _artifacts(
    jobs: dict[ULID, int],
) -> tuple[dict[int, list[ArtifactLine]], dict[ULID, list[ArtifactLine]]]:
    """Those of events by the event's id, and those recorded with no event by the job's."""
    of_event: dict[int, list[ArtifactLine]] = defaultdict(list)
    of_job: dict[ULID, list[ArtifactLine]] = defaultdict(list)
    rows = (
        Artifact.all_tenants.filter(job__in=jobs)
        .order_by("position")
        .values_list("job_id", "event_id", "storage_key", "kind", "role", "label", _json("meta"))
    )
    for job_id, event_id, storage_key, kind, role, label, meta in rows:
        line = ArtifactLine(storage_key, kind, role, label, _canonical(meta))
        if event_id is None:
            of_job[job_id].append(line)
        else:
            of_event[event_id].append(line)
    return of_event, of_job


def _json(column: str) -> Any:
    # As text: PostgreSQL writes 1e300 with 300 zeros, which orjson reads as the float it is and Python's json does not.
    return Cast(column, TextField())


def _canonical(text: str) -> str:
    return EMPTY_OBJECT if text == EMPTY_OBJECT else canonical(orjson.loads(text))
