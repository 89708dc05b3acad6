"""Public events as ``/v1`` reads them, in pages of bounded size."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db.models import F, JSONField, OuterRef, QuerySet, Subquery
from django.db.models.sql.compiler import SQLCompiler

from jobs.database.artifacts import EVENT_ARTIFACTS, TENANT
from jobs.database.prepared import RFC3339, JSONRow, Param
from jobs.database.records import columns
from jobs.models import JobEvent, Visibility

# What one page of a timeline holds at most. A single event is a page, whatever it holds.
PAGE_EVENTS = 500
PAGE_ARTIFACTS = 1_000
PAGE_BYTES = 2**20  # of the page as JSON, with storage keys where its answer has links


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


def public_events() -> QuerySet[JobEvent]:
    """The public events of the outer query's job."""
    return JobEvent.objects.for_tenant(TENANT).filter(job=OuterRef("pk"), visibility=Visibility.PUBLIC)


class _PreviousSeq(Param):
    """The seq that the next event comes after, in :class:`EventPage`."""

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        return f"coalesce(json_extract(page.row, '$[{EventRow._fields.index('seq')}]'), %s)", [self]


class EventPage(Subquery):
    """A JSON array of the public events after the param ``since``, each an EventRow, within the bounds of a page.

    It ends before the event that would exceed a bound. Events beyond that one are not read: PostgreSQL stops a window
    whose condition can only stay false, and SQLite goes from one event to the next by recursion, as its windows read
    everything.
    """

    output_field = JSONField()
    _ARTIFACTS = EventRow._fields.index("artifacts")

    def __init__(self) -> None:
        events = public_events().filter(seq__gt=_PreviousSeq("since")).order_by("seq")
        super().__init__(events.values(row=JSONRow(*EVENT_ROW_COLUMNS), place=F("seq"))[:PAGE_EVENTS])

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        beyond = f"number > 1 AND (bytes > {PAGE_BYTES} OR artifacts > {PAGE_ARTIFACTS})"
        template = f"""array_to_json(ARRAY(
            SELECT row FROM (
                SELECT row, place, count(CASE WHEN {beyond} THEN 1 END) OVER in_order AS beyond
                FROM (
                    SELECT row, place, row_number() OVER in_order AS number,
                           sum(octet_length(CAST(row AS text))) OVER in_order AS bytes,
                           sum(json_array_length(row -> {self._ARTIFACTS})) OVER in_order AS artifacts
                    FROM (%(subquery)s) AS event
                    WINDOW in_order AS (ORDER BY place ROWS UNBOUNDED PRECEDING)
                ) AS measured
                WINDOW in_order AS (ORDER BY place ROWS UNBOUNDED PRECEDING)
            ) AS page
            WHERE beyond < 1 ORDER BY place
        ))"""  # noqa: S608 - of this module's constants
        return self.as_sql(compiler, connection, template=template, **context)

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        following = self.copy()
        following.query = self.query.clone()
        following.query.clear_limits()
        following.query.set_limits(high=1)
        # What the events of the page up to and with this one hold; before the first there is no row.
        artifacts = f"artifacts + coalesce(json_array_length(page.row, '$[{self._ARTIFACTS}]'), 0)"
        size = "bytes + coalesce(length(CAST(page.row AS blob)), 0)"
        fits = f"(number = 1 OR {size} <= {PAGE_BYTES} AND {artifacts} <= {PAGE_ARTIFACTS})"
        template = f"""(
            WITH RECURSIVE page (row, number, bytes, artifacts) AS (
                SELECT NULL, 0, 0, 0
                UNION ALL
                SELECT (SELECT row FROM (%(subquery)s)), number + 1, {size}, {artifacts}
                FROM page WHERE number = 0 OR number < {PAGE_EVENTS} AND row IS NOT NULL AND {fits}
            )
            SELECT json_group_array(json(row)) FROM page WHERE row IS NOT NULL AND {fits}
        )"""  # noqa: S608 - of this module's constants
        return Subquery.as_sql(following, compiler, connection, template=template, **context)
