"""The statements of ``/job``, in the scope of one tenant: at most two for a page of any size.

They read only the events that an item shows: the end of the timeline and, for an operation, the first and the latest
event of each agent and type.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import product, starmap
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from django.db.models import (
    Case,
    Count,
    DateTimeField,
    F,
    Func,
    IntegerField,
    JSONField,
    QuerySet,
    Subquery,
    TextField,
    When,
    Window,
)
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThanOrEqual
from django.db.models.functions import RowNumber
from django.db.models.lookups import GreaterThan

from jobs.api.fleet.params import FLEET_STATUS, STORED_STATUS, FleetListParams
from jobs.database.artifacts import RESULT, TENANT
from jobs.database.events import events_of_job, public_events
from jobs.database.prepared import ANY_LIMIT, RFC3339, AsText, JSONRow, JSONRows, Param, PreparedQuery, json_rows
from jobs.database.records import columns
from jobs.fold import FoldEvent
from jobs.models import Job, JobCounts, JobQuerySet, JobStatus
from jobs.ulid import ULIDField

# The events of a timeline; fewer of each where a page would hold more than MAX_PAGE_EVENTS.
TIMELINE_EVENTS = 500
SHORT_TIMELINE_EVENTS = 50
MAX_PAGE_EVENTS = 5_000


class TimelineRow(NamedTuple):
    seq: int
    created_at: str
    event_type: str
    hostname: str | None
    message: str
    error: str | None


class JobRow(NamedTuple):
    """One job. ``events`` are the FoldEvents that its outcome depends on, by ``seq``."""

    public_id: str  # hexadecimal digits, with or without dashes
    job_type: str
    status: str
    created_at: str
    updated_at: str
    request: Any
    events: Any  # none of a workflow job that has not failed
    timeline: list[Any]  # TimelineRows, the latest first
    result: list[list[Any]] | None  # each an ArtifactRow; None where the job has none to show

    @classmethod
    def parse(cls, document: str) -> JobRow:
        row = cls(*orjson.loads(document))
        return row._replace(
            events=[_fold_event(*event) for event in row.events or ()],
            timeline=[TimelineRow._make(event) for event in row.timeline],
        )


def _fold_event(*event: Any) -> FoldEvent:
    made = FoldEvent._make(event)
    text: Any = made.created_at
    return made._replace(created_at=datetime.fromisoformat(text))


class FleetPage(NamedTuple):
    """How many jobs the tenant has in each status of this dialect, and one page of them, newest first."""

    status_counts: dict[str, int]
    documents: tuple[str, ...]  # each a JobRow

    @property
    def jobs(self) -> Iterator[JobRow]:
        """Each is decoded when its turn comes."""
        return map(JobRow.parse, self.documents)


async def job_page(tenant: int, params: FleetListParams) -> FleetPage:
    """Reads jobs and counts in one statement, so that both are of the same moment.

    With an offset, a statement before it finds where the page begins, from the index only. Without rows, a second one
    reads the counts.
    """
    values: dict[str, Any] = {
        "tenant": tenant,
        "status": params.status and STORED_STATUS[params.status],
        "offset": params.offset,
    }
    kind = ListKind(
        status=params.status is not None,
        offset=params.offset > 0,
        is_long=params.limit * TIMELINE_EVENTS > MAX_PAGE_EVENTS,
    )
    rows: list[tuple[Any, ...]] = []
    if not kind.offset:
        rows = await LISTS[kind].fetch(values, params.limit)
    elif first := await FIRST[kind.status].fetch(values):
        time, public_id = map(str, first[0])
        values["first_time"] = datetime.fromisoformat(time).replace(tzinfo=UTC)
        values["first_id"] = UUID(public_id)
        rows = await LISTS[kind].fetch(values, params.limit)
    counts = orjson.loads(rows[0][0]) if rows else [orjson.loads(row) for (row,) in await COUNTS.fetch(values)]
    return FleetPage(_counts_by_status(counts), tuple(document for _, document in rows))


def _counts_by_status(rows: list[Any]) -> dict[str, int]:
    # A tenant without jobs has no row.
    return dict(zip(FLEET_STATUS.values(), rows[0] if rows else [0] * len(FLEET_STATUS), strict=True))


class ListKind(NamedTuple):
    """Which statement reads a page."""

    status: bool  # only jobs of the param ``status``
    offset: bool  # from the job of the params ``first_time`` and ``first_id`` on
    is_long: bool  # the timelines of the page may hold more than MAX_PAGE_EVENTS together


def _jobs(*, status: bool) -> JobQuerySet:
    jobs: JobQuerySet = Job.objects.for_tenant(TENANT).newest_first()
    return jobs.filter(status=Param("status", TextField())) if status else jobs


def _first(*, status: bool) -> QuerySet[Job, Any]:
    """Where the page at ``offset`` begins. It reads only the key, because the cost of an offset grows with the row."""
    return _jobs(status=status).values_list("created_at", "public_id")[:1]


def _list(kind: ListKind) -> QuerySet[Job, Any]:
    jobs = _jobs(status=kind.status)
    if kind.offset:
        first = (Param("first_time", DateTimeField()), Param("first_id", ULIDField()))
        jobs = jobs.filter(TupleLessThanOrEqual(Tuple("created_at", "public_id"), first))
    page = jobs[:ANY_LIMIT]
    # A subquery chooses the page by key. Without it the planner may choose a worse index, because reading the rest of
    # each job costs much more than the difference between two indexes. The second limit makes it sort keys only.
    chosen = Job.objects.for_tenant(TENANT).filter(pk__in=page.values("pk")).newest_first()[:ANY_LIMIT]
    item = columns(
        JobRow,
        public_id=AsText("public_id"),
        created_at=RFC3339("created_at"),
        updated_at=RFC3339("updated_at"),
        events=_EVENTS,
        timeline=_timeline(page) if kind.is_long else latest_events(TIMELINE_EVENTS),
        result=Case(When(status=JobStatus.SUCCESS, is_operation=False, then=RESULT), output_field=JSONField()),
    )
    return chosen.values_list(AsText(json_rows(_counts(), *_COUNT_COLUMNS)), AsText(JSONRow(*item)))


def _counts() -> Any:
    return JobCounts.objects.for_tenant(TENANT)


_COUNT_COLUMNS = tuple(status.lower() for status in FLEET_STATUS)
COUNTS = PreparedQuery(lambda: _counts().values_list(AsText(JSONRow(*_COUNT_COLUMNS))))
FIRST = {status: PreparedQuery(partial(_first, status=status), offset=True) for status in (False, True)}
LISTS = {
    kind: PreparedQuery(partial(_list, kind))
    for kind in starmap(ListKind, product((False, True), repeat=len(ListKind._fields)))
}


class ErrorText(Func):
    """The member ``error`` of a JSON object, if it is a text."""

    output_field = TextField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "CASE jsonb_typeof(%(expressions)s -> 'error') WHEN 'string' THEN %(expressions)s ->> 'error' END"
        return self._twice(compiler, connection, template, **context)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = (
            "CASE json_type(%(expressions)s, '$.error') WHEN 'text' THEN json_extract(%(expressions)s, '$.error') END"
        )
        return self._twice(compiler, connection, template, **context)

    def _twice(self, compiler: Any, connection: Any, template: str, **context: Any) -> Any:
        sql, params = self.as_sql(compiler, connection, template=template, **context)
        return sql, [*params, *params]


def latest_events(number: int, up_to: Param | None = None) -> JSONRows:
    """The last public events of a job, as many as ``number``, the latest first: TimelineRows."""
    row = columns(TimelineRow, created_at=RFC3339("created_at"), error=ErrorText("extra"))
    return json_rows(public_events(up_to).order_by("-seq")[:number], *row)


class _Sum(Subquery):
    """The sum of the single column ``number`` of a queryset."""

    output_field = IntegerField()
    template = "(SELECT sum(number) FROM (%(subquery)s) AS numbers)"


class _CountRows(Subquery):
    """How many rows a queryset has."""

    output_field = IntegerField()
    template = "(SELECT count(*) FROM (%(subquery)s) AS counted)"


def _timeline(page: QuerySet[Job, Any]) -> Case:
    """The timeline of a job of ``page``. It is shorter if the timelines of the page together are too long."""
    numbers = page.values(number=_CountRows(public_events().order_by("-seq").values("seq")[:TIMELINE_EVENTS]))
    return Case(
        When(GreaterThan(_Sum(numbers), MAX_PAGE_EVENTS), then=latest_events(SHORT_TIMELINE_EVENTS)),
        default=latest_events(TIMELINE_EVENTS),
        output_field=JSONField(),
    )


class _FirstAndLatest(JSONRows):
    """The rows with ``place`` 1 or ``last_place``, by ``seq``."""

    _chosen = "SELECT row FROM (%(subquery)s) AS ranked WHERE place = 1 OR place = last_place ORDER BY seq"

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template=f"array_to_json(ARRAY({self._chosen}))", **context)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = f"(SELECT json_group_array(json(row)) FROM ({self._chosen}))"  # noqa: S608 - a constant
        return self.as_sql(compiler, connection, template=template, **context)


_FOLD_COLUMNS = columns(FoldEvent, created_at=RFC3339("created_at"))
# The fold needs three things of an agent: its latest event of the highest type, its first start, and whether any of its
# events is public.
_SAME = [F("hostname"), F("event_type"), F("visibility")]


def outcome_of_agents(up_to: Param | None = None) -> _FirstAndLatest:
    """The FoldEvents that the outcome of an operation depends on."""
    events = events_of_job(up_to).filter(hostname__gt="")
    return _FirstAndLatest(
        events.values(
            "seq",
            row=JSONRow(*_FOLD_COLUMNS),
            place=Window(RowNumber(), partition_by=_SAME, order_by="seq"),
            last_place=Window(Count("pk"), partition_by=_SAME),
        )
    )


def outcome_of_workflow(up_to: Param | None = None) -> JSONRows:
    """The FoldEvent that the outcome of a workflow job that failed depends on."""
    # It has at most one such event, usually the last one.
    return json_rows(events_of_job(up_to).filter(event_type="failed").order_by("-seq")[:1], *_FOLD_COLUMNS)


_EVENTS = Case(
    When(is_operation=True, then=outcome_of_agents()),
    When(status=JobStatus.FAILURE, then=outcome_of_workflow()),
    output_field=JSONField(),
)
