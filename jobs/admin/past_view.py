"""The API's responses as a tenant could have seen them right after a chosen event of a job.

They are written by the API's own serializers, from rows that are made here of the events up to that one. The request
and artifacts without an event have no past state: they are those of now.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from django.db.models import Q
from django.http import HttpRequest

from jobs import fold
from jobs.admin.json_html import render_json
from jobs.admin.tenant_view import TenantResponse, caller_for
from jobs.api.fleet.queries import TIMELINE_EVENTS, JobRow, TimelineRow
from jobs.api.fleet.serializers import FleetJobResponseSerializer
from jobs.api.rendering import to_json
from jobs.api.tenant_renderer import TenantRenderer
from jobs.api.v1.queries import DetailRow, EventsRow
from jobs.api.v1.serializers import JobDetailResponseSerializer, JobEventsResponseSerializer
from jobs.database.artifacts import MAX_RESULT_ARTIFACTS, ArtifactRow
from jobs.database.events import PAGE_EVENTS, EventRow
from jobs.models import Artifact, Job, JobEvent, JobStatus, Role, Visibility

# Of a job with more events up to the chosen one, the last ones are read.
MAX_EVENTS = 5_000


def responses_after(job: Job, seq: int, request: HttpRequest) -> list[TenantResponse]:
    """The responses about ``job`` after its event ``seq``: the job, its events, and its item in a page of ``/job``.

    Two statements, which read the last ``MAX_EVENTS`` events up to that one and their artifacts.
    """
    found = JobEvent.all_tenants.filter(job=job, seq__lte=seq).order_by("-seq")[:MAX_EVENTS]
    events = list(found)[::-1]
    artifacts = _artifacts_by_event(job, events)
    # A job can have been loaded with a status that its events do not say.
    status = job.status if seq >= job.last_seq else fold.fold_status(events)
    renderer = TenantRenderer(request, caller_for(job.tenant))
    public = [event for event in events if event.visibility == Visibility.PUBLIC]
    v1_status = JobStatus.FAILURE.value if status == JobStatus.PARTIAL_FAILURE else status
    is_final = v1_status == JobStatus.SUCCESS
    result = [row for rows in artifacts.values() for row in rows if row[2] == Role.FINAL][:MAX_RESULT_ARTIFACTS]
    updated_at = _rfc3339(max((event.created_at for event in events), default=job.created_at))
    header = (job.version, v1_status, updated_at, str(job.public_id.to_uuid()))
    rows = [_event_row(event, artifacts[event.pk]) for event in public]
    detail = DetailRow(
        *header,
        job_type=job.job_type,
        created_at=_rfc3339(job.created_at),
        request=job.request,
        result=result if is_final else None,
        latest_event=[list(rows[-1])] if rows else [],
    )
    page = EventsRow(
        *header, last_public_seq=public[-1].seq if public else 0, events=[list(r) for r in rows[:PAGE_EVENTS]]
    )
    item = JobRow(
        str(job.public_id.to_uuid()),
        job.job_type,
        status,
        _rfc3339(job.created_at),
        updated_at,
        job.request,
        events=[_fold_event(event) for event in events],
        timeline=[_timeline_row(event) for event in reversed(public[-TIMELINE_EVENTS:])],
        result=result if is_final and not job.is_operation else None,
    )
    return [
        _response(f"/v1/jobs/{job.public_id}", JobDetailResponseSerializer.represent(detail, renderer)),
        _response(f"/v1/jobs/{job.public_id}/events", JobEventsResponseSerializer.represent(page, renderer)),
        _response("/job (its item)", FleetJobResponseSerializer.represent(item, renderer)),
    ]


def _response(path: str, body: dict[str, Any]) -> TenantResponse:
    body = orjson.loads(to_json(body))  # what JSON makes of it, such as lists of tuples
    return TenantResponse(
        path, 200, "", render_json(body, open_levels=3), json.dumps(body, indent=2, ensure_ascii=False)
    )


def _artifacts_by_event(job: Job, events: Sequence[JobEvent]) -> dict[int | None, list[list[Any]]]:
    """The artifacts of these events, in their order; those without an event last."""
    by_event: dict[int | None, list[list[Any]]] = defaultdict(list)
    first, last = (events[0].seq, events[-1].seq) if events else (0, 0)
    of_events = Q(event__seq__gte=first, event__seq__lte=last) | Q(event=None)
    found = Artifact.all_tenants.filter(of_events, job=job).order_by("event__seq", "position")
    for artifact in found[: 2 * MAX_RESULT_ARTIFACTS]:
        row = ArtifactRow(artifact.storage_key, artifact.kind, artifact.role, artifact.label, artifact.meta)
        by_event[artifact.event_id].append(list(row))
    without_event = by_event.pop(None, [])
    by_event[None] = without_event
    return by_event


def _event_row(event: JobEvent, artifacts: list[list[Any]]) -> EventRow:
    at = _rfc3339(event.created_at)
    values = (event.seq, event.event_type, event.visibility, event.stage, event.message, event.extra, at)
    return EventRow(*values, artifacts)


def _fold_event(event: JobEvent) -> fold.FoldEvent:
    return fold.FoldEvent(
        event.seq, event.event_type, event.visibility, event.message, event.hostname, event.extra, event.created_at
    )


def _timeline_row(event: JobEvent) -> TimelineRow:
    error = event.extra.get("error")
    text = error if isinstance(error, str) else None
    return TimelineRow(event.seq, _rfc3339(event.created_at), event.event_type, event.hostname, event.message, text)


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
