"""The API's responses as a tenant could have seen them right after a chosen event of a job.

They are read and written as the API does it, with its bounds, from the events up to that one. The request and artifacts
without an event have no past state: they are those of now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from asgiref.sync import async_to_sync
from django.db import InterfaceError, OperationalError
from django.db.models import Case, JSONField, Max, Min, TextField, When
from django.db.models.functions import Cast
from django.db.models.lookups import Exact
from django.http import Http404, HttpRequest

from jobs import fold
from jobs.admin.tenant_view import TenantResponse, caller_for, request_id_of
from jobs.api import errors
from jobs.api.fleet.queries import TIMELINE_EVENTS, JobRow, latest_events, outcome_of_agents, outcome_of_workflow
from jobs.api.fleet.serializers import FleetJobResponseSerializer
from jobs.api.rendering import to_json
from jobs.api.tenant_renderer import TenantRenderer
from jobs.api.v1.queries import HEADER, SUMMARY, DetailRow, EventsRow, one_job
from jobs.api.v1.serializers import JobDetailResponseSerializer, JobEventsResponseSerializer
from jobs.database.artifacts import result
from jobs.database.events import EVENT_ROW_COLUMNS, event_page, public_events
from jobs.database.prepared import RFC3339, AsText, Param, PreparedQuery, json_rows
from jobs.models import Job, JobEvent, JobStatus
from tenants.fast_settings import settings

# What the API's statements read, without the events after the param ``up_to``, of a job whose status was then the param
# ``status``. The rows' own status and time are those of now.
_UP_TO = Param("up_to")


def _status_was(status: JobStatus) -> Exact:
    return Exact(Cast(Param("status", TextField()), TextField()), status.value)


DETAIL = one_job(
    DetailRow,
    **HEADER,
    public_id=SUMMARY["public_id"],
    created_at=SUMMARY["created_at"],
    result=Case(When(_status_was(JobStatus.SUCCESS), then=result(_UP_TO)), output_field=JSONField()),
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
        When(_status_was(JobStatus.FAILURE), then=outcome_of_workflow(_UP_TO)),
        output_field=JSONField(),
    ),
    timeline=latest_events(TIMELINE_EVENTS, _UP_TO),
    result=Case(
        When(_status_was(JobStatus.SUCCESS), is_operation=False, then=result(_UP_TO)), output_field=JSONField()
    ),
)


class PastResponses:
    """The responses about ``job`` after its event ``seq``.

    Each raises Http404 if the job was deleted meanwhile. Where the database does not answer in time, it is the API's
    503.
    """

    def __init__(self, job: Job, seq: int, request: HttpRequest) -> None:
        self._job = job
        self._up_to = min(seq, job.last_seq)
        self._status, self._updated_at = _state_after(job, seq)
        self._renderer = TenantRenderer(request, caller_for(job.tenant))
        self._request_id = request_id_of(request) or ""

    def all(self) -> list[TenantResponse]:
        return [self.detail(), self.events(), self.fleet_job()]

    def detail(self) -> TenantResponse:
        def represent(document: str) -> dict[str, Any]:
            row = DetailRow.parse(document)._replace(status=self._v1_status)
            return JobDetailResponseSerializer.represent(row, self._renderer)

        return self._response(f"/v1/jobs/{self._job.public_id}", errors.V1, DETAIL, represent)

    def events(self) -> TenantResponse:
        def represent(document: str) -> dict[str, Any]:
            # A first page without events is that of a job without public ones.
            row = EventsRow.parse(document)._replace(last_public_seq=0)
            return JobEventsResponseSerializer.represent(row, self._renderer)

        return self._response(f"/v1/jobs/{self._job.public_id}/events", errors.V1, EVENTS, represent)

    def fleet_job(self) -> TenantResponse:
        """Its item in a page of ``/job``."""

        def represent(document: str) -> dict[str, Any]:
            row = JobRow.parse(document)._replace(status=self._status, updated_at=self._updated_at)
            return FleetJobResponseSerializer.represent(row, self._renderer)

        return self._response("/job (its item)", errors.FLEET, FLEET_JOB, represent)

    @property
    def _v1_status(self) -> str:
        return JobStatus.FAILURE.value if self._status == JobStatus.PARTIAL_FAILURE else self._status

    def _response(
        self, path: str, dialect: errors.Dialect, query: PreparedQuery, represent: Callable[[str], dict[str, Any]]
    ) -> TenantResponse:
        values = {
            "tenant": self._job.tenant_id,
            "public_id": self._job.public_id,
            "since": 0,
            "up_to": self._up_to,
            "status": self._status,
        }
        try:
            document = async_to_sync(_read)(query, values)
        except (OperationalError, InterfaceError) as error:
            return TenantResponse.of(path, dialect.response(error, self._request_id))
        if document is None:
            raise Http404(f"There is no job {self._job.public_id} any more.")
        # What JSON makes of it, such as lists of tuples.
        return TenantResponse.make(path, orjson.loads(to_json(represent(document))))


def _state_after(job: Job, seq: int) -> tuple[str, str]:
    """The stored status, and the time of the latest event."""
    # A job can have been loaded with a status that its events do not say.
    if seq >= job.last_seq:
        return job.status, _rfc3339(job.updated_at)
    events = JobEvent.all_tenants.filter(job=job, seq__lte=seq)
    # Of the events of one type and host the status depends on the first.
    kinds = events.values_list("event_type", "hostname", named=True).annotate(first=Min("seq")).order_by("first")
    latest = events.aggregate(at=Max("created_at"))["at"] or job.created_at
    return fold.fold_status(kinds), _rfc3339(latest)


async def _read(query: PreparedQuery, values: Mapping[str, Any]) -> str | None:
    """Raises OperationalError where there is no answer in time."""
    try:
        async with asyncio.timeout(settings.DATABASE_DEADLINE_SECONDS):
            return await query.read_document(values, settings.API_DATABASE)
    except TimeoutError:
        raise OperationalError(f"no answer within {settings.DATABASE_DEADLINE_SECONDS} s") from None


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
