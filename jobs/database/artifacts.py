"""Artifacts: the expressions that both dialects select."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db.models import F, FilteredRelation, OuterRef, Q, QuerySet

from jobs.database.prepared import JSONRow, JSONRows, Param, json_rows
from jobs.database.records import columns
from jobs.models import Artifact, Role

TENANT = Param("tenant")

# The most final artifacts that a job may have (CONTRACT.md, section 9). Of older jobs with more artifacts, this many
# are shown.
MAX_RESULT_ARTIFACTS = 2_000


class ArtifactRow(NamedTuple):
    storage_key: str
    kind: str
    role: str
    label: str | None
    meta: dict[str, Any]


class ResultRows(JSONRows):
    """The rows of a queryset with the columns ``row``, ``event_seq`` and ``place``, in the order of the latter two.

    Rows without ``event_seq`` come last. The order is applied to what the queryset's limit has left, so that a job with
    500,000 final artifacts is not sorted.
    """

    # The condition, which always holds, keeps SQLite from sorting before it applies the limit.
    _ordered = (
        "SELECT row FROM (%(subquery)s) AS unordered WHERE place >= 0 ORDER BY (event_seq IS NULL), event_seq, place"
    )

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template=f"array_to_json(ARRAY({self._ordered}))", **context)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = f"(SELECT json_group_array(json(row)) FROM ({self._ordered}))"  # noqa: S608 - a constant
        return self.as_sql(compiler, connection, template=template, **context)


def artifacts() -> QuerySet[Artifact]:
    """The artifacts of the tenant that the statement is bound to."""
    own: QuerySet[Artifact] = Artifact.objects.for_tenant(TENANT)
    return own


# The artifacts of the outer query's event, each an ArtifactRow.
EVENT_ARTIFACTS = json_rows(artifacts().filter(event=OuterRef("pk")).order_by("position"), *columns(ArtifactRow))


def result(up_to: Param | None = None) -> ResultRows:
    """The result of the job that the statement is at, each an ArtifactRow.

    These are the final artifacts of its events by seq and position, then those that no event recorded. With the param
    ``up_to`` events of a higher ``seq`` are left out.
    """
    final = artifacts().filter(job=OuterRef("pk"), role=Role.FINAL)
    # The event always has the tenant of the artifact. The condition is there so that PostgreSQL reads no other
    # partition of a partitioned table.
    final = final.annotate(recorded_by=FilteredRelation("event", condition=Q(event__tenant=TENANT)))
    if up_to is not None:
        final = final.filter(Q(event=None) | Q(recorded_by__seq__lte=up_to))
    rows = final.values(row=JSONRow(*columns(ArtifactRow)), event_seq=F("recorded_by__seq"), place=F("position"))
    return ResultRows(rows[:MAX_RESULT_ARTIFACTS])


RESULT = result()
