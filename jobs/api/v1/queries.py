"""The statements of ``/v1``: one prepared statement for each endpoint, always in the scope of one tenant."""

from __future__ import annotations

from functools import partial
from itertools import product, starmap
from typing import Any, NamedTuple, Self

import orjson
from django.db.models import Case, DateTimeField, F, JSONField, OuterRef, QuerySet, TextField, When
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan

from jobs.api.v1.params import ListParams
from jobs.database.artifacts import RESULT, TENANT
from jobs.database.events import EVENT_ROW_COLUMNS, EventPage, public_events
from jobs.database.prepared import (
    ANY_LIMIT,
    RFC3339,
    AsText,
    JSONRow,
    Param,
    PreparedQuery,
    json_rows,
    starts_at_offset,
)
from jobs.database.records import columns
from jobs.models import Job, JobStatus
from jobs.ulid import ULIDField


class SummaryRow(NamedTuple):
    public_id: str  # hexadecimal digits, with or without dashes
    job_type: str
    status: str
    created_at: str


class Header(NamedTuple):
    """The columns that decide whether a poll gets ``304``, and that its headers show."""

    version: int
    status: str

    @classmethod
    def parse(cls, document: str) -> Self:
        return cls(*orjson.loads(document))


def version_of(document: str) -> int:
    """The job's version in a document of VERSION, DETAIL or EVENTS; each begins with it."""
    version: int = orjson.loads(document)[0]
    return version


class DetailRow(NamedTuple):
    version: int
    public_id: str
    job_type: str
    status: str
    created_at: str
    request: Any
    result: list[list[Any]] | None  # each an ArtifactRow; None where the status is not SUCCESS
    latest_event: list[list[Any]]  # an EventRow, or nothing

    @classmethod
    def parse(cls, document: str) -> Self:
        return cls(*orjson.loads(document))


class EventsRow(NamedTuple):
    version: int
    public_id: str
    status: str
    last_public_seq: int
    events: list[list[Any]]  # each an EventRow

    @classmethod
    def parse(cls, document: str) -> Self:
        return cls(*orjson.loads(document))


_HEADER = {"public_id": AsText("public_id"), "status": F("v1_status"), "created_at": RFC3339("created_at")}


async def job_page(tenant: int, params: ListParams) -> list[SummaryRow]:
    """One page of workflow jobs, newest first."""
    values: dict[str, Any] = {
        "tenant": tenant,
        "status": params.status and params.status.value,
        "created_after": params.created_after,
        "updated_after": params.updated_after,
        "offset": params.offset,
        **{f"job_type_{n}": job_type.value for n, job_type in enumerate(params.job_type)},
    }
    if params.cursor is not None:
        values["cursor_time"], values["cursor_id"] = params.cursor
    query = LISTS[
        ListFilters(
            job_type=bool(params.job_type),
            status=params.status is not None,
            created_after=params.created_after is not None,
            updated_after=params.updated_after is not None,
            cursor=params.cursor is not None,
            offset=params.offset > 0,
        )
    ]
    rows = await query.fetch(values, params.limit, one_of=len(params.job_type) or 1)
    return [SummaryRow._make(row) for row in rows]


class ListFilters(NamedTuple):
    """Which parameters of the list are given."""

    job_type: bool
    status: bool
    created_after: bool
    updated_after: bool
    cursor: bool
    offset: bool


def list_of(filters: ListFilters) -> QuerySet[Job, Any]:
    """One page of the list, narrowed by ``filters``."""
    jobs: QuerySet[Job, Any] = Job.objects.for_tenant(TENANT).workflows().newest_first()
    if filters.job_type:
        jobs = jobs.filter(job_type__in=[Param("job_type_0", TextField())])
    if filters.status:
        jobs = jobs.filter(v1_status=Param("status", TextField()))
    if filters.created_after:
        jobs = jobs.filter(created_at__gt=Param("created_after", DateTimeField()))
    if filters.updated_after:
        jobs = jobs.filter(updated_at__gt=Param("updated_after", DateTimeField()))
    if filters.cursor:
        last = (Param("cursor_time", DateTimeField()), Param("cursor_id", ULIDField()))
        jobs = jobs.filter(TupleLessThan(Tuple("created_at", "public_id"), last))
    if filters.offset:
        jobs = jobs.filter(starts_at_offset(jobs, "created_at", "public_id"))
    return jobs.values_list(*columns(SummaryRow, **_HEADER))[:ANY_LIMIT]


LISTS = {
    filters: PreparedQuery(partial(list_of, filters))
    for filters in starmap(ListFilters, product((False, True), repeat=len(ListFilters._fields)))
}


def _one_job(record: type[Any], **expressions: Any) -> PreparedQuery:
    """A statement whose single row is the JSON array of a ``record``, bound with ``tenant`` and ``public_id``."""

    def job() -> QuerySet[Job, Any]:
        one: QuerySet[Job, Any] = Job.objects.for_tenant(TENANT).filter(pk=Param("public_id", ULIDField()))
        return one.values_list(AsText(JSONRow(*columns(record, **expressions))))

    return PreparedQuery(job)


VERSION = _one_job(Header, status=_HEADER["status"])
DETAIL = _one_job(
    DetailRow,
    **_HEADER,
    # Artifacts are read only for a job that has a result.
    result=Case(When(v1_status=JobStatus.SUCCESS, then=RESULT), output_field=JSONField()),
    latest_event=json_rows(public_events().filter(seq=OuterRef("last_public_seq")), *EVENT_ROW_COLUMNS),
)
# Bound with ``since`` too.
EVENTS = _one_job(EventsRow, public_id=_HEADER["public_id"], status=_HEADER["status"], events=EventPage())
