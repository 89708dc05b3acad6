"""The query parameters of ``/v1``, checked by pydantic; every bad one is reported at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from django.db import models
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from jobs.api.cursors import BadCursor
from jobs.api.errors import Invalid
from jobs.api.parameters import Integer, Offset, Params, integer
from jobs.api.v1.feed_cursor import FeedFilter, FeedPlace, place_of
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
        return written({name: getattr(self, name) for name in JobFilters.model_fields})


def written(filters: dict[str, Any]) -> Filters:
    """``filters``, which are checked, as they are written in a URL."""
    if not any(filters.values()):  # most walks have none
        return []
    return [
        (name, value)
        for name, values in JobFilters.model_construct(**filters).model_dump(mode="json").items()
        if values is not None
        for value in (values if isinstance(values, list) else [values])
    ]


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
        filters = written(given) if len(given) == len(JobFilters.model_fields) else None
        tenant_id: Any = info.context
        try:
            return position_of(cursor, tenant_id, filters)
        except BadCursor as error:
            message = "Input should be a cursor of an earlier page, sent with the same filters"
            raise PydanticCustomError("value_error", message) from error


def each_type_once(event_types: list[str]) -> list[str]:
    return sorted(set(event_types))


EventType = Annotated[str, StringConstraints(min_length=1, max_length=50)]


class FeedFilters(Params):
    """Which events are in the feed. A cursor is bound to these, beside the tenant."""

    repeatable: ClassVar[frozenset[str]] = frozenset({"job_type", "event_type"})

    job_type: Annotated[list[JobType], AfterValidator(each_type_once)] = Field(
        [],
        description="Only events of jobs of this type. Repeat it for several: `job_type=A&job_type=B`. `job_type[]` "
        "means the same. Without it, events of jobs of every type are in the feed, operations included.",
    )
    event_type: Annotated[list[EventType], AfterValidator(each_type_once)] = Field(
        [],
        description="Only events of this type, such as `succeeded`. Repeat it for several. `event_type[]` means the "
        "same.",
    )

    def filters(self) -> FeedFilter:
        return FeedFilter(tuple(str(each) for each in self.job_type), tuple(self.event_type))


class FeedParams(FeedFilters):
    """Read for a tenant, whose id is the context."""

    after: Annotated[FeedPlace | Literal["latest"] | None, WithJsonSchema({"type": "string"})] = Field(
        None,
        description="Where to continue: the `cursor` of an earlier page, sent with the same filters; or `latest`, for "
        "events from now on. Without it the feed begins with the oldest event.",
    )
    limit: Annotated[int, Integer] = Field(100, ge=1, le=500, description="The most events in one page.")

    @field_validator("after", mode="plain")
    @classmethod
    def place(cls, after: str, info: ValidationInfo) -> FeedPlace | Literal["latest"]:
        """Beside a bad filter it is not known which filters the cursor has to be of: any of the tenant's will do."""
        if after == "latest":
            return "latest"
        given = {name: info.data[name] for name in FeedFilters.model_fields if name in info.data}
        complete = len(given) == len(FeedFilters.model_fields)
        filters = FeedFilters.model_construct(**given).filters() if complete else None
        try:
            return place_of(after, info.context, filters)  # type: ignore[arg-type]
        except BadCursor as error:
            raise PydanticCustomError("value_error", BAD_FEED_CURSOR) from error


BAD_FEED_CURSOR = "Input should be a cursor that this feed gave, sent with the same filters"
MAX_SEQ = 2_147_483_647


def within_seqs(since: int) -> int:
    """Any integer is a cursor: one below 0 is before every event, one beyond what a seq can be is after every event."""
    return min(max(since, 0), MAX_SEQ)


class EventsParams(Params):
    since: Annotated[int, Integer, AfterValidator(within_seqs)] = Field(
        0,
        description="Only events with a higher `seq`. Below 0 means the start; a number beyond the last event gives an "
        "empty page.",
    )


# --- Last-Event-ID, where a stream continues -------------------------------------------------------------------------


def seq_of_header(last_event_id: str) -> int:
    """The seq that the stream of a job continues after. Raises Invalid."""
    try:
        return within_seqs(integer(last_event_id))
    except PydanticKnownError as error:
        raise bad_last_event_id(error.message(), error.type) from None


def place_of_header(last_event_id: str, tenant_id: int, filters: FeedFilter) -> FeedPlace:
    """The place that the stream of the feed continues after. Raises Invalid."""
    try:
        return place_of(last_event_id, tenant_id, filters)
    except BadCursor:
        raise bad_last_event_id(BAD_FEED_CURSOR, "value_error") from None


def bad_last_event_id(message: str, kind: str) -> Invalid:
    return Invalid([{"loc": ["header", "Last-Event-ID"], "msg": message, "type": kind}])
