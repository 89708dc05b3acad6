"""What ``/v1`` reads: one prepared statement an endpoint, always in the scope of one tenant."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.db.models import DateTimeField, OuterRef, QuerySet, TextField
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan

from jobs.api.v1.params import ListParams
from jobs.database.artifacts import ARTIFACT_COLUMNS, RESULT, TENANT, artifacts
from jobs.database.prepared import RFC3339, AsText, JSONRow, Param, PreparedQuery, json_rows, starts_at_offset
from jobs.models import Job, JobEvent, Visibility
from jobs.ulid import ULIDField

# The most events one page of a timeline holds.
EVENTS_PAGE = 500

EVENT_COLUMNS = ("seq", "event_type", "visibility", "stage", "message", "extra", RFC3339("created_at"))
SUMMARY_COLUMNS = (AsText("public_id"), "job_type", "v1_status", RFC3339("created_at"))


def job_page(tenant: int, params: ListParams) -> list[tuple[str, str, str, str]]:
    """One page of workflow jobs, newest first: rows of ``SUMMARY_COLUMNS``."""
    filters, position = params.filters, params.cursor
    values: dict[str, Any] = {
        "tenant": tenant,
        "status": filters.status,
        "created_after": filters.created_after,
        "offset": params.offset,
        **{f"job_type_{n}": job_type for n, job_type in enumerate(filters.types)},
    }
    if position:
        values["position_time"], values["position_id"] = position
    return listing(
        len(filters.types),
        filters.status is not None,
        filters.created_after is not None,
        position is not None,
        params.limit,
        params.offset > 0,
    ).fetch(values)


@lru_cache(maxsize=512)
def listing(types: int, status: bool, created_after: bool, position: bool, limit: int, offset: bool) -> PreparedQuery:
    """The listing for one combination of filters. ``types`` is how many job types are asked for."""
    jobs: QuerySet[Job, Any] = Job.objects.for_tenant(TENANT).workflows().newest_first()
    if types:
        jobs = jobs.filter(job_type__in=[Param(f"job_type_{n}", TextField()) for n in range(types)])
    if status:
        jobs = jobs.filter(v1_status=Param("status", TextField()))
    if created_after:
        jobs = jobs.filter(created_at__gt=Param("created_after", DateTimeField()))
    if position:
        place = (Param("position_time", DateTimeField()), Param("position_id", ULIDField()))
        jobs = jobs.filter(TupleLessThan(Tuple("created_at", "public_id"), place))
    if offset:
        jobs = jobs.filter(starts_at_offset(jobs, "created_at", "public_id"))
    return PreparedQuery(jobs.values_list(*SUMMARY_COLUMNS)[:limit])


def _one_job() -> QuerySet[Job]:
    return Job.objects.for_tenant(TENANT).filter(pk=Param("public_id", ULIDField()))


def _public_events() -> QuerySet[JobEvent]:
    return JobEvent.objects.for_tenant(TENANT).filter(job=OuterRef("pk"), visibility=Visibility.PUBLIC)


_ARTIFACTS_OF_EVENT = json_rows(artifacts().filter(event=OuterRef("pk")).order_by("position"), *ARTIFACT_COLUMNS)
_EVENT = (*EVENT_COLUMNS, _ARTIFACTS_OF_EVENT)
_LATEST_EVENT = json_rows(_public_events().filter(seq=OuterRef("last_public_seq")), *_EVENT)
_EVENTS_PAGE = json_rows(_public_events().filter(seq__gt=Param("since")).order_by("seq")[:EVENTS_PAGE], *_EVENT)

# Each is bound with ``tenant`` and ``public_id``, EVENTS with ``since`` too.
VERSION = PreparedQuery(_one_job().values_list(AsText(JSONRow("version"))))
DETAIL = PreparedQuery(
    _one_job().values_list(AsText(JSONRow("version", *SUMMARY_COLUMNS, "request", RESULT, _LATEST_EVENT)))
)
EVENTS = PreparedQuery(
    _one_job().values_list(AsText(JSONRow("version", AsText("public_id"), "last_public_seq", _EVENTS_PAGE)))
)
