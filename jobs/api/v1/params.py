"""The query parameters of ``/v1``, checked by pydantic; every bad one is reported at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

from django.db import models
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from jobs.api.cursors import BadCursor
from jobs.api.parameters import Integer, Offset, Params
from jobs.api.v1.paging import Filters, Position, position_of
from jobs.models import JobType


class V1Status(models.TextChoices):
    """The statuses that ``/v1`` has; FAILURE stands for the store's PARTIAL_FAILURE too."""

    NOT_STARTED = "NOT_STARTED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)(?:\.(\d+))?"
    # Some generated clients write offsets without the colon, or without the minutes. A space is a + that was not
    # escaped in the URL.
    r"(?:[Zz]|([+ -])(\d\d)(?::?(\d\d))?)?",
    re.ASCII,
)


def rfc3339(text: str) -> datetime:
    """An RFC 3339 time in UTC, to the microsecond.

    No offset means UTC. Times that UTC's calendar cannot hold (the first and last hours of the years 1 and 9999, by
    their offset) read as its nearest.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise PydanticCustomError("datetime_parsing", "Input should be an RFC 3339 date and time")
    day, clock, fraction, sign, hours, minutes = match.groups()
    try:
        local = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}+00:00")
    except ValueError as error:
        raise PydanticCustomError("datetime_parsing", "Input should be a date and time of the calendar") from error
    if sign is None:
        return local
    offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
    if int(hours) > 23 or int(minutes or 0) > 59:
        raise PydanticCustomError("datetime_parsing", "Input should have an offset of at most 23:59")
    try:
        return local + offset if sign == "-" else local - offset
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if sign == "-" else datetime.min.replace(tzinfo=UTC)


def each_once(job_types: list[JobType]) -> list[JobType]:
    """The types without duplicates, sorted. All eight become none, so that equal filters compare equal."""
    unique = sorted(set(job_types))
    return [] if len(unique) == len(JobType) else unique


Time = Annotated[datetime, BeforeValidator(rfc3339)]


class JobFilters(Params):
    """The filters of the list. A cursor is valid for the same filters and tenant only."""

    repeatable: ClassVar[frozenset[str]] = frozenset({"job_type"})

    job_type: Annotated[list[JobType], AfterValidator(each_once)] = Field(
        [],
        description="Only jobs of this type. Repeat it for several: `job_type=A&job_type=B`. `job_type[]` means the "
        "same. Without it, jobs of all eight workflow types are listed.",
    )
    status: V1Status | None = Field(None, description="Only jobs with this status.")
    created_after: Time | None = Field(
        None,
        description="Only jobs created after this time, which is excluded. RFC 3339, such as `2026-04-15T12:00:00Z`; "
        "without an offset it is UTC.",
    )
    updated_after: Time | None = Field(
        None,
        description="Only jobs whose latest event, internal ones included, is after this time, which is excluded. It "
        "compares the writers' clocks and is not a feed of changes.",
    )

    def query(self) -> Filters:
        """The filters as they are written in a URL."""
        return [
            (name, value)
            for name, values in self.model_dump(mode="json", include=_FILTER_NAMES).items()
            if values is not None
            for value in (values if isinstance(values, list) else [values])
        ]


_FILTER_NAMES = set(JobFilters.model_fields)


class ListParams(JobFilters):
    """The validation context is the id of the tenant."""

    limit: Annotated[int, Integer] = Field(50, ge=1, le=200, description="The most jobs in one page.")
    offset: Offset = 0
    cursor: Annotated[Position | None, WithJsonSchema({"type": "string"})] = Field(
        None,
        description="Where to continue, out of the `Link` header of an earlier page. Send the same filters with it.",
    )

    @field_validator("cursor", mode="plain")
    @classmethod
    def position(cls, cursor: str, info: ValidationInfo) -> Position:
        """Where the page begins. If a filter is invalid, the filters of the cursor are not compared."""
        given = {name: info.data[name] for name in JobFilters.model_fields if name in info.data}
        complete = len(given) == len(JobFilters.model_fields)
        filters = JobFilters.model_construct(**given).query() if complete else None
        tenant_id: Any = info.context
        try:
            return position_of(cursor, tenant_id, filters)
        except BadCursor as error:
            message = "Input should be a cursor of an earlier page, sent with the same filters"
            raise PydanticCustomError("value_error", message) from error


MAX_SEQ = 2_147_483_647


class EventsParams(Params):
    # Any integer is a cursor: one below 0 is before every event, one beyond what a seq can be is after every event.
    since: Annotated[int, Integer, AfterValidator(lambda since: min(max(since, 0), MAX_SEQ))] = Field(
        0,
        description="Only events with a higher `seq`. Below 0 means the start; a number beyond the last event gives an "
        "empty page.",
    )
