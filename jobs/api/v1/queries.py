"""The statements of ``/v1``: one prepared statement for each endpoint, always in the scope of one tenant."""

from __future__ import annotations

from functools import partial
from itertools import product, starmap
from typing import Any, NamedTuple, Self

import orjson
from django.db.models import BigIntegerField, Case, DateTimeField, F, JSONField, OuterRef, QuerySet, TextField, When
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan

from jobs.api.errors import JobNotFound
from jobs.api.v1.params import ListParams
from jobs.database.artifacts import RESULT, TENANT
from jobs.database.events import (
    EVENT_ROW_COLUMNS,
    LAST_EXAMINED,
    SummaryRow,
    event_page,
    feed_page,
    latest_event,
    public_events,
)
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
from jobs.models import Job, JobCounts, JobStatus
from jobs.ulid import ULIDField


class Header(NamedTuple):
    """What a poll and the headers of an answer depend on; DETAIL and EVENTS begin with it too."""

    version: int
    status: str
    updated_at: str

    @classmethod
    def parse(cls, document: str) -> Self:
        return cls(*orjson.loads(document))


# A job is over when its status is one of these, until an agent's late event resumes it.
OVER = frozenset({JobStatus.SUCCESS.value, JobStatus.FAILURE.value})


def found(document: str | None) -> str:
    """The document, which there is only of a job of the tenant's own. Raises JobNotFound."""
    if document is None:
        raise JobNotFound
    return document


def has_events(document: str | None) -> bool:
    """Whether a replica's page of events will do: that there are no more only the primary can say."""
    return document is not None and bool(EventsRow.parse(document).events)


def version_of(document: str) -> int:
    """The job's version in a document of VERSION, DETAIL or EVENTS; each begins with it."""
    version: int = orjson.loads(document)[0]
    return version


class DetailRow(NamedTuple):
    version: int
    status: str
    updated_at: str
    public_id: str
    job_type: str
    created_at: str
    request: Any
    result: list[list[Any]] | None  # each an ArtifactRow; None where the status is not SUCCESS
    latest_event: list[list[Any]]  # an EventRow, or nothing

    @classmethod
    def parse(cls, document: str) -> Self:
        return cls(*orjson.loads(document))


class EventsRow(NamedTuple):
    version: int
    status: str
    updated_at: str
    public_id: str
    last_public_seq: int
    events: list[list[Any]]  # each an EventRow

    @classmethod
    def parse(cls, document: str) -> Self:
        return cls(*orjson.loads(document))


def last_public_seq_of(document: str) -> int:
    """The ``seq`` of the job's last public event, in a document of EVENTS."""
    return EventsRow.parse(document).last_public_seq


SUMMARY = {"public_id": AsText("public_id"), "status": F("v1_status"), "created_at": RFC3339("created_at")}


async def job_page(tenant: int, params: ListParams) -> str:
    """One page of workflow jobs, newest first: a JSON array that :func:`summaries` reads."""
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
    return f"[{','.join(row for (row,) in rows)}]"


def summaries(document: str) -> list[SummaryRow]:
    return [*starmap(SummaryRow, orjson.loads(document))]


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
    return jobs.values_list(AsText(JSONRow(*columns(SummaryRow, **SUMMARY))))[:ANY_LIMIT]


LISTS = {
    filters: PreparedQuery(partial(list_of, filters))
    for filters in starmap(ListFilters, product((False, True), repeat=len(ListFilters._fields)))
}


def one_job(record: type[Any], **expressions: Any) -> PreparedQuery:
    """A statement whose single row is the JSON array of a ``record``, bound with ``tenant`` and ``public_id``."""

    def job() -> QuerySet[Job, Any]:
        one: QuerySet[Job, Any] = Job.objects.for_tenant(TENANT).filter(pk=Param("public_id", ULIDField()))
        return one.values_list(AsText(JSONRow(*columns(record, **expressions))))

    return PreparedQuery(job)


HEADER = {"status": F("v1_status"), "updated_at": RFC3339("updated_at")}

VERSION = one_job(Header, **HEADER)
DETAIL = one_job(
    DetailRow,
    **HEADER,
    public_id=SUMMARY["public_id"],
    created_at=SUMMARY["created_at"],
    # Nothing of the result is read before there is one.
    result=Case(When(v1_status=JobStatus.SUCCESS, then=RESULT), output_field=JSONField()),
    latest_event=json_rows(public_events().filter(seq=OuterRef("last_public_seq")), *EVENT_ROW_COLUMNS),
)
# Bound with ``since`` too.
EVENTS = one_job(EventsRow, **HEADER, public_id=SUMMARY["public_id"], events=event_page())


class FeedPageRow(NamedTuple):
    """One page of the feed, and what its cursors are checked and made with."""

    last_position: int  # of the tenant
    at_cursor: list[list[Any]]  # the latest event up to ``after``: an EventAtPosition, or nothing
    last_examined: int  # the page has every event up to this position, unless a bound ended it before
    at_end: list[list[Any]]  # the latest event up to ``last_examined``: an EventAtPosition, or nothing
    events: list[list[Any]]  # each a FeedRow

    @classmethod
    def parse(cls, document: str | None) -> Self:
        """None stands for a tenant that has had no job yet."""
        return cls(0, [], 0, [], []) if document is None else cls(*orjson.loads(document))


class FeedEndRow(NamedTuple):
    """Where the feed ends at the moment."""

    last_position: int
    at_end: list[list[Any]]  # as in FeedPageRow

    @classmethod
    def parse(cls, document: str | None) -> Self:
        return cls(0, []) if document is None else cls(*orjson.loads(document))


def _of_tenant(record: type[Any], **expressions: Any) -> PreparedQuery:
    """A statement whose single row is the JSON array of a ``record``, bound with ``tenant``."""

    def counts() -> QuerySet[JobCounts, Any]:
        return JobCounts.objects.for_tenant(TENANT).values_list(AsText(JSONRow(*columns(record, **expressions))))

    return PreparedQuery(counts)


# By whether it is filtered by job types and by event types. Bound with ``after``, and with ``job_types`` and
# ``event_types`` where it is.
FEEDS = {
    (of_job_types, of_event_types): _of_tenant(
        FeedPageRow,
        at_cursor=latest_event(up_to=Param("after", BigIntegerField())),
        # Without a filter a page that is not full has everything.
        last_examined=LAST_EXAMINED if of_job_types or of_event_types else F("last_position"),
        at_end=latest_event(up_to=LAST_EXAMINED if of_job_types or of_event_types else None),
        events=feed_page(of_job_types=of_job_types, of_event_types=of_event_types),
    )
    for of_job_types, of_event_types in product((False, True), repeat=2)
}
FEED_END = _of_tenant(FeedEndRow, at_end=latest_event())
