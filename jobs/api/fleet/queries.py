"""What ``/job`` reads, in the scope of one tenant: two prepared statements at the most, whatever the page holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from django.db.models import DateTimeField, OuterRef, TextField
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThanOrEqual

from jobs.api.fleet.params import FLEET_STATUS, STORED_STATUS, FleetListParams
from jobs.database.artifacts import RESULT, TENANT
from jobs.database.prepared import RFC3339, AsText, JSONRow, Param, PreparedQuery, json_rows
from jobs.fold import FoldEvent
from jobs.models import Job, JobCounts, JobEvent, JobQuerySet
from jobs.ulid import ULIDField


class FleetJob(NamedTuple):
    """One job with all its events by ``seq``, internal ones included, and the rows of its final artifacts."""

    hex_id: str
    job_type: str
    status: str
    created: str
    request: Any
    events: list[FoldEvent]
    artifacts: list[list[Any]]


class FleetPage(NamedTuple):
    """How many jobs the tenant has in each status of this dialect, and one page of them, newest first.

    The jobs can be gone through once: each is decoded when its turn comes, for a page may have 80,000 events.
    """

    status_counts: dict[str, int]
    jobs: Iterator[FleetJob]


def job_page(tenant: int, params: FleetListParams) -> FleetPage:
    """Jobs and counts of one moment: a single statement reads both.

    A second one is made before it to find where a page with an offset begins, from the index alone, or instead of it
    to count, where there is no such page.
    """
    values: dict[str, Any] = {
        "tenant": tenant,
        "status": params.status and STORED_STATUS[params.status],
        "offset": params.offset,
    }
    filtered = params.status is not None
    rows: list[tuple[Any, ...]] = []
    if not params.offset:
        rows = listing(filtered, False, params.limit).fetch(values)
    elif beginning := _beginning(filtered).fetch(values):
        time, public_id = map(str, beginning[0])
        values["beginning_time"] = datetime.fromisoformat(time).replace(tzinfo=UTC)
        values["beginning_id"] = UUID(public_id)
        rows = listing(filtered, True, params.limit).fetch(values)
    counts = orjson.loads(rows[0][0]) if rows else [orjson.loads(row) for (row,) in _COUNTS.fetch(values)]
    return FleetPage(_counts_by_status(counts), (_job(*orjson.loads(document)) for _, document in rows))


def _counts_by_status(rows: list[Any]) -> dict[str, int]:
    # A tenant whose first job is still to come has no row.
    return dict(zip(FLEET_STATUS.values(), rows[0] if rows else [0] * len(FLEET_STATUS), strict=True))


def _job(hex_id: str, job_type: str, status: str, created: str, request: Any, events: Any, artifacts: Any) -> FleetJob:
    for event in events:
        event[-1] = datetime.fromisoformat(event[-1])
    return FleetJob(hex_id, job_type, status, created, request, list(map(FoldEvent._make, events)), artifacts)


def _jobs(filtered: bool) -> JobQuerySet:
    jobs: JobQuerySet = Job.objects.for_tenant(TENANT).newest_first()
    return jobs.filter(status=Param("status", TextField())) if filtered else jobs


@lru_cache(maxsize=2)
def _beginning(filtered: bool) -> PreparedQuery:
    """Where the page at ``offset`` begins. Only its key is read: an offset is paid for by the row."""
    return PreparedQuery(_jobs(filtered).values_list("created_at", "public_id")[:1], offset=True)


@lru_cache(maxsize=400)
def listing(filtered: bool, from_beginning: bool, limit: int) -> PreparedQuery:
    jobs = _jobs(filtered)
    if from_beginning:
        beginning = (Param("beginning_time", DateTimeField()), Param("beginning_id", ULIDField()))
        jobs = jobs.filter(TupleLessThanOrEqual(Tuple("created_at", "public_id"), beginning))
    # The page is chosen by key first, for beside what is read of each job the planner would take the cost of one index
    # for as good as that of another. The limit said again makes it sort keys, not what was read.
    page = Job.objects.for_tenant(TENANT).filter(pk__in=jobs.values("pk")[:limit]).newest_first()[:limit]
    columns = (AsText("public_id"), "job_type", "status", RFC3339("created_at"), "request", _EVENTS, RESULT)
    return PreparedQuery(page.values_list(AsText(json_rows(_counts(), *_COUNT_COLUMNS)), AsText(JSONRow(*columns))))


def _counts() -> Any:
    return JobCounts.objects.for_tenant(TENANT)


_COUNT_COLUMNS = tuple(status.lower() for status in FLEET_STATUS)
_COUNTS = PreparedQuery(_counts().values_list(AsText(JSONRow(*_COUNT_COLUMNS))))
_EVENTS = json_rows(
    JobEvent.objects.for_tenant(TENANT).filter(job=OuterRef("pk")).order_by("seq"),
    *FoldEvent._fields[:-1],
    RFC3339("created_at"),
)
