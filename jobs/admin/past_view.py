"""The API's responses as a tenant could have seen them right after a chosen event of a job.

They are read and written as the API does it, with its bounds, from the events up to that one. The request and artifacts
without an event have no past state: they are those of now.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import orjson
from asgiref.sync import async_to_sync
from django.db.models import Case, JSONField, Max, Min, When
from django.http import Http404, HttpRequest

from jobs import fold
from jobs.admin.tenant_view import TenantResponse, caller_for
from jobs.api.fleet.queries import (
    TIMELINE_EVENTS,
    JobRow,
    latest_events,
    outcome_of_agents,
    outcome_of_workflow,
)
from jobs.api.fleet.serializers import FleetJobResponseSerializer
from jobs.api.rendering import to_json
from jobs.api.tenant_renderer import TenantRenderer
from jobs.api.v1.queries import HEADER, SUMMARY, DetailRow, EventsRow, one_job
from jobs.api.v1.serializers import JobDetailResponseSerializer, JobEventsResponseSerializer
from jobs.database.artifacts import result
from jobs.database.events import EVENT_ROW_COLUMNS, event_page, public_events
from jobs.database.prepared import RFC3339, AsText, Param, PreparedQuery, json_rows
from jobs.models import Job, JobEvent, JobStatus

Row = TypeVar("Row")

_UP_TO = Param("up_to")
# What the API's statements read, without the events after the param ``up_to``. Status and time are those of now, and
# there is a result whatever the status: what they were then is computed here.
DETAIL = one_job(
    DetailRow,
    **HEADER,
    public_id=SUMMARY["public_id"],
    created_at=SUMMARY["created_at"],
    result=result(_UP_TO),
    latest_event=json_rows(public_events(_UP_TO).order_by("-seq")[:1], *EVENT_ROW_COLUMNS),
)
EVENTS = one_job(EventsRow, **HEADER, public_id=SUMMARY["public_id"], events=event_page(_UP_TO))
FLEET_JOB = one_job(
    JobRow,
    public_id=AsText("public_id"),
    created_at=RFC3339("created_at"),
    updated_at=RFC3339("updated_at"),
    events=Case(
        When(is_operation=True, then=outcome_of_agents(_UP_TO)),
        default=outcome_of_workflow(_UP_TO),
        output_field=JSONField(),
    ),
    timeline=latest_events(TIMELINE_EVENTS, _UP_TO),
    result=result(_UP_TO),
)


def responses_after(job: Job, seq: int, request: HttpRequest) -> list[TenantResponse]:
    """The responses about ``job`` after its event ``seq``: the job, its events, and its item in a page of ``/job``.

    Raises Http404 if the job was deleted meanwhile.
    """
    then = _State.after(job, seq)
    status = JobStatus.FAILURE.value if then.status == JobStatus.PARTIAL_FAILURE else then.status
    renderer = TenantRenderer(request, caller_for(job.tenant))
    detail = _read(DETAIL, DetailRow.parse, job, seq)
    detail = detail._replace(status=status, result=detail.result if then.has_result else None)
    # A first page without events is that of a job without public ones.
    page = _read(EVENTS, EventsRow.parse, job, seq)._replace(status=status, last_public_seq=0)
    return [
        _response(f"/v1/jobs/{job.public_id}", JobDetailResponseSerializer.represent(detail, renderer)),
        _response(f"/v1/jobs/{job.public_id}/events", JobEventsResponseSerializer.represent(page, renderer)),
        fleet_response_after(job, seq, request),
    ]


def fleet_response_after(job: Job, seq: int, request: HttpRequest) -> TenantResponse:
    """The item of ``job`` in a page of ``/job`` after its event ``seq``. Raises Http404 as ``responses_after``."""
    then = _State.after(job, seq)
    row = _read(FLEET_JOB, JobRow.parse, job, seq)
    has_result = then.has_result and not job.is_operation
    row = row._replace(status=then.status, updated_at=then.updated_at, result=row.result if has_result else None)
    renderer = TenantRenderer(request, caller_for(job.tenant))
    return _response("/job (its item)", FleetJobResponseSerializer.represent(row, renderer))


class _State(NamedTuple):
    """What the columns of a job said: its stored status, and the time of its latest event."""

    status: str
    updated_at: str

    @classmethod
    def after(cls, job: Job, seq: int) -> _State:
        # A job can have been loaded with a status that its events do not say.
        if seq >= job.last_seq:
            return cls(job.status, _rfc3339(job.updated_at))
        events = JobEvent.all_tenants.filter(job=job, seq__lte=seq)
        # Of the events of one type and host the status depends on the first.
        kinds = events.values_list("event_type", "hostname", named=True).annotate(first=Min("seq")).order_by("first")
        latest = events.aggregate(at=Max("created_at"))["at"] or job.created_at
        return cls(fold.fold_status(kinds), _rfc3339(latest))

    @property
    def has_result(self) -> bool:
        return self.status == JobStatus.SUCCESS


def _read(query: PreparedQuery, parse: Callable[[str], Row], job: Job, seq: int) -> Row:
    values = {"tenant": job.tenant_id, "public_id": job.public_id, "since": 0, "up_to": seq}
    document = async_to_sync(query.fetch_latest_document)(values)
    if document is None:
        raise Http404(f"There is no job {job.public_id} any more.")
    return parse(document)


def _response(path: str, body: dict[str, Any]) -> TenantResponse:
    return TenantResponse.make(path, orjson.loads(to_json(body)))  # what JSON makes of it, such as lists of tuples


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
