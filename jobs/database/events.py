"""Public events as ``/v1`` reads them, of a job or of all the tenant's jobs, in pages of bounded size."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db.models import BigIntegerField, F, JSONField, OuterRef, QuerySet, Subquery, TextField, Value
from django.db.models.functions import Coalesce
from django.db.models.sql.compiler import SQLCompiler

from jobs.database.artifacts import EVENT_ARTIFACTS, TENANT
from jobs.database.prepared import ANY_LIMIT, RFC3339, AsText, IsOneOf, JSONRow, JSONRows, Param
from jobs.database.records import columns
from jobs.models import Job, JobEvent, Visibility

# What one page holds at most. A single event is a page, whatever it holds.
PAGE_EVENTS = 500
PAGE_ARTIFACTS = 1_000
PAGE_BYTES = 2**20  # of the page as JSON, with storage keys where its answer has links
# The positions that one page of the feed examines, so that a filter that matches nothing costs no more than another.
EXAMINED_POSITIONS = 5_000


class EventRow(NamedTuple):
    seq: int
    event_type: str
    visibility: str
    stage: str | None
    message: str
    extra: dict[str, Any]
    created_at: str
    artifacts: list[list[Any]]  # each an ArtifactRow


EVENT_ROW_COLUMNS = columns(EventRow, created_at=RFC3339("created_at"), artifacts=EVENT_ARTIFACTS)


def events_of_tenant() -> QuerySet[JobEvent]:
    events: QuerySet[JobEvent] = JobEvent.objects.for_tenant(TENANT)
    return events


def events_of_job(up_to: Param | None = None) -> QuerySet[JobEvent]:
    """The events of the job that the statement is at: all, or those up to the ``seq`` that is the param ``up_to``."""
    events = events_of_tenant().filter(job=OuterRef("pk"))
    return events if up_to is None else events.filter(seq__lte=up_to)


def public_events(up_to: Param | None = None) -> QuerySet[JobEvent]:
    """The public ones of :func:`events_of_job`."""
    return events_of_job(up_to).filter(visibility=Visibility.PUBLIC)


class _PreviousPlace(Param):
    """The place that the next row comes after, in :class:`Page`: the param ``name`` before the first row."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name, BigIntegerField())
        self.path = path

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        return f"coalesce(json_extract(page.row, '{self.path}'), %s)", [self]


class Page(Subquery):
    """A JSON array of rows in the order of a number, their place, within the bounds of a page.

    It ends before the row that would exceed a bound in artifacts or bytes, and where ``says_if_cut`` with a null in
    that row's place. Rows beyond that one are not read: PostgreSQL stops a window whose condition can only stay false,
    and SQLite goes from one row to the next by recursion, as its windows read everything.
    """

    output_field = JSONField()

    def __init__(
        self,
        events: QuerySet[JobEvent],
        row: JSONRow,
        place: str,
        *,
        after: str,
        limit: int,
        place_at: int,
        artifacts_at: tuple[int, ...],
        says_if_cut: bool = False,
    ) -> None:
        """``events`` after the param ``after``, by their field ``place``.

        ``place_at`` and ``artifacts_at`` say where a row has its place and its artifacts: an index in each array.
        """
        previous = _PreviousPlace(after, f"$[{place_at}]")
        rows = events.filter(**{f"{place}__gt": previous}).order_by(place).values(row=row, place=F(place))
        super().__init__(rows[:limit])
        self._limit = limit
        self._artifacts_at = artifacts_at
        self._says_if_cut = says_if_cut

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        artifacts = " -> ".join(["row", *map(str, self._artifacts_at)])
        beyond = f"number > 1 AND (bytes > {PAGE_BYTES} OR artifacts > {PAGE_ARTIFACTS})"
        row, last = ("CASE WHEN beyond < 1 THEN row END", 1) if self._says_if_cut else ("row", 0)
        template = f"""array_to_json(ARRAY(
            SELECT {row} FROM (
                SELECT row, place, count(CASE WHEN {beyond} THEN 1 END) OVER in_order AS beyond
                FROM (
                    SELECT row, place, row_number() OVER in_order AS number,
                           sum(octet_length(CAST(row AS text))) OVER in_order AS bytes,
                           sum(json_array_length({artifacts})) OVER in_order AS artifacts
                    FROM (%(subquery)s) AS event
                    WINDOW in_order AS (ORDER BY place ROWS UNBOUNDED PRECEDING)
                ) AS measured
                WINDOW in_order AS (ORDER BY place ROWS UNBOUNDED PRECEDING)
            ) AS page
            WHERE beyond < {last + 1} ORDER BY place
        ))"""  # noqa: S608 - of this module's constants
        return self.as_sql(compiler, connection, template=template, **context)

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        following = self.copy()
        following.query = self.query.clone()
        following.query.clear_limits()
        following.query.set_limits(high=1)
        # What the rows of the page up to and with this one hold; before the first there is no row.
        path = "".join(f"[{index}]" for index in self._artifacts_at)
        artifacts = f"artifacts + coalesce(json_array_length(page.row, '${path}'), 0)"
        size = "bytes + coalesce(length(CAST(page.row AS blob)), 0)"
        fits = f"(number = 1 OR {size} <= {PAGE_BYTES} AND {artifacts} <= {PAGE_ARTIFACTS})"
        row, last = (f"CASE WHEN {fits} THEN row END", "") if self._says_if_cut else ("row", f"AND {fits}")
        template = f"""(
            WITH RECURSIVE page (row, number, bytes, artifacts) AS (
                SELECT NULL, 0, 0, 0
                UNION ALL
                SELECT (SELECT row FROM (%(subquery)s)), number + 1, {size}, {artifacts}
                FROM page WHERE number = 0 OR number < {self._limit} AND row IS NOT NULL AND {fits}
            )
            SELECT json_group_array(json({row})) FROM page WHERE row IS NOT NULL {last}
        )"""  # noqa: S608 - of this module's constants
        return Subquery.as_sql(following, compiler, connection, template=template, **context)


def event_page(up_to: Param | None = None) -> Page:
    """The :func:`public_events` of a job after the param ``since``, each an EventRow."""
    return Page(
        public_events(up_to),
        JSONRow(*EVENT_ROW_COLUMNS),
        "seq",
        after="since",
        limit=PAGE_EVENTS,
        place_at=EventRow._fields.index("seq"),
        artifacts_at=(EventRow._fields.index("artifacts"),),
    )


class SummaryRow(NamedTuple):
    """The header of a job."""

    public_id: str  # hexadecimal digits, with or without dashes
    job_type: str
    status: str
    created_at: str


class FeedRow(NamedTuple):
    """One event of the feed."""

    position: int
    job: list[Any]  # a SummaryRow
    event: list[Any]  # an EventRow


class EventAtPosition(NamedTuple):
    position: int
    public_id: str  # as in SummaryRow
    seq: int


# The last position that a page examines for rows that its filters let through. It counts from the first event after the
# param ``after``: what was pruned costs nothing. Where no event follows, it is beyond all positions.
LAST_EXAMINED = (
    Coalesce(
        Subquery(
            events_of_tenant()
            .filter(position__gt=Param("after", BigIntegerField()))
            .order_by("position")
            .values("position")[:1]
        ),
        Value(2**62, BigIntegerField()),
    )
    + EXAMINED_POSITIONS
    - 1
)


# The job of the event that the statement is at, by its key: a join would read all jobs where there are few.
_JOB: QuerySet[Job, Any] = Job.objects.for_tenant(TENANT).filter(pk=OuterRef("job_id"))


def feed_row() -> JSONRow:
    """A FeedRow of the event that the statement is at."""
    job = columns(SummaryRow, public_id=AsText("public_id"), status=F("v1_status"), created_at=RFC3339("created_at"))
    return JSONRow("position", Subquery(_JOB.values(row=JSONRow(*job))), JSONRow(*EVENT_ROW_COLUMNS))


def pushed_events() -> QuerySet[JobEvent]:
    """The tenant's events that webhooks push."""
    return events_of_tenant().filter(position__isnull=False, is_late=False)


def feed_page(*, of_job_types: bool, of_event_types: bool, pushed_only: bool = False) -> Page:
    """The tenant's public events after the param ``after``, each a FeedRow; ``ANY_LIMIT`` bounds their number.

    A null after them says that the page is cut by its artifacts or bytes. With ``pushed_only`` it has those that
    webhooks push.

    Where they are filtered, ``job_types`` and ``event_types`` are params: JSON arrays of the texts to be found.
    """
    events = pushed_events() if pushed_only else events_of_tenant().filter(position__isnull=False)
    if of_job_types or of_event_types or pushed_only:
        events = events.filter(position__lte=LAST_EXAMINED)
    if of_job_types:
        events = events.filter(IsOneOf(Subquery(_JOB.values("job_type")), Param("job_types", TextField())))
    if of_event_types:
        events = events.filter(IsOneOf(F("event_type"), Param("event_types", TextField())))
    return Page(
        events,
        feed_row(),
        "position",
        after="after",
        limit=ANY_LIMIT,
        place_at=FeedRow._fields.index("position"),
        artifacts_at=(FeedRow._fields.index("event"), EventRow._fields.index("artifacts")),
        says_if_cut=True,
    )


def latest_event(up_to: Any = None) -> JSONRows:
    """The tenant's event with the highest position, as an array of one EventAtPosition or of none.

    ``up_to`` is an expression: the position that is not exceeded.
    """
    events = events_of_tenant().filter(position__isnull=False)
    if up_to is not None:
        events = events.filter(position__lte=up_to)
    at = columns(EventAtPosition, public_id=AsText("job_id"))
    return JSONRows(events.order_by("-position").values(row=JSONRow(*at))[:1])
