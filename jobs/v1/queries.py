"""What ``/v1`` reads: one prepared statement an endpoint, always in the scope of one tenant."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson
from django.db.models import OuterRef, QuerySet, TextField, F, DateTimeField
from ulid import ULID

from jobs.egress.prepared import Instant, JSONRow, Param, Prepared, Text, json_rows
from jobs.models import Artifact, Job, JobEvent, Role, Visibility
from jobs.ulid import ULIDField

# The most events one page holds.
EVENTS_PAGE = 500

TENANT = Param("tenant")
ARTIFACT_COLUMNS = ("storage_key", "kind", "role", "label", "meta")
EVENT_COLUMNS = ("seq", "event_type", "visibility", "stage", "message", "extra", Instant("created_at"))
JOB_COLUMNS = (Text("public_id"), "job_type", "v1_status", Instant("created_at"))


@lru_cache(maxsize=256)
def job_page(types: int, status: bool, created_after: bool, limit: int, offset: bool) -> Prepared:
    """A page of workflow jobs, newest first, for one combination of filters."""
    jobs: QuerySet[Job] = Job.objects.for_tenant(TENANT).workflows().newest_first()
    if types:
        jobs = jobs.filter(job_type__in=[Param(f"job_type_{n}", TextField()) for n in range(types)])
    if status:
        jobs = jobs.filter(v1_status=Param("status", TextField()))
    if created_after:
        jobs = jobs.filter(created_at__gt=Param("created_after", DateTimeField()))
    # The limit stands in the text, for the planner to see; the offset, of which there are too many, is a param.
    return Prepared(jobs.values_list(*JOB_COLUMNS), tail=f" LIMIT {limit}")


def artifacts_of_event() -> Any:
    return json_rows(
        Artifact.objects.for_tenant(TENANT).filter(event=OuterRef("pk")).order_by("position"), *ARTIFACT_COLUMNS
    )


def public_events() -> QuerySet[JobEvent]:
    return JobEvent.objects.for_tenant(TENANT).filter(job=OuterRef("pk"), visibility=Visibility.PUBLIC)


def one_job() -> QuerySet[Job]:
    return Job.objects.for_tenant(TENANT).filter(pk=Param("public_id", ULIDField()))


def _detail() -> Prepared:
    result = json_rows(
        Artifact.objects.for_tenant(TENANT)
        .filter(job=OuterRef("pk"), role=Role.FINAL)
        .order_by(F("event__seq").asc(nulls_last=True), "position"),
        *ARTIFACT_COLUMNS,
    )
    latest = json_rows(public_events().filter(seq=OuterRef("last_public_seq")), *EVENT_COLUMNS, artifacts_of_event())
    return Prepared(one_job().values_list(JSONRow(*JOB_COLUMNS, "request", result, latest)))


def _events() -> Prepared:
    page = json_rows(
        public_events().filter(seq__gt=Param("since")).order_by("seq")[:EVENTS_PAGE],
        *EVENT_COLUMNS,
        artifacts_of_event(),
    )
    return Prepared(one_job().values_list(JSONRow("last_public_seq", page)))


DETAIL = _detail()
EVENTS = _events()
