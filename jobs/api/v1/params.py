"""The query parameters of ``/v1``, checked by pydantic; every bad one is reported at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from django.db import models
from django.http import QueryDict
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from jobs.api.parameters import Integer, Offset, Params
from jobs.api.v1.paging import Filters, Position, position_of
from jobs.models import JobType


class V1Status(models.TextChoices):
    """The statuses that ``/v1`` knows; FAILURE stands for the store's PARTIAL_FAILURE too."""

    NOT_STARTED = "NOT_STARTED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))?", re.ASCII
)


def instant(text: str) -> datetime:
    """An RFC 3339 instant in UTC, to the microsecond.

    No offset means UTC. A space before the offset is a ``+`` that was not escaped in the URL. Instants that UTC's
    calendar cannot hold (the first and last hours of the years 1 and 9999, by their offset) read as its nearest.
    """
    match = _INSTANT.fullmatch(re.sub(r" (?=\d\d:\d\d$)", "+", text))
    if match is None:
        raise PydanticCustomError("datetime_parsing", "Input should be an RFC 3339 date and time")
    day, clock, fraction, sign, hours, minutes = match.groups()
    try:
        local = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}+00:00")
    except ValueError as error:
        raise PydanticCustomError("datetime_parsing", "Input should be a date and time of the calendar") from error
    if sign is None:
        return local
    if int(hours) > 23 or int(minutes) > 59:
        raise PydanticCustomError("datetime_parsing", "Input should have an offset of at most 23:59")
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    try:
        return local - offset if sign == "+" else local + offset
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if sign == "+" else datetime.max.replace(tzinfo=UTC)


class ListParams(Params):
    """Read for a tenant, whose id is the context."""

    job_type: list[JobType] = []
    status: V1Status | None = None
    created_after: Annotated[datetime, BeforeValidator(instant)] | None = None
    limit: Annotated[int, Integer, Field(ge=1, le=200)] = 50
    offset: Offset = 0
    cursor: Position | None = None

    @field_validator("cursor", mode="plain")
    @classmethod
    def position(cls, cursor: str, info: ValidationInfo) -> Position:
        """Where the page begins. Where a filter is bad there is no listing that the cursor could be of."""
        given = {name: info.data[name] for name in ("job_type", "status", "created_after") if name in info.data}
        try:
            return position_of(cursor, (info.context, Filters.of(**given)) if len(given) == 3 else None)
        except (ValueError, OverflowError) as error:
            message = "Input should be a cursor that this listing gave, sent with the same filters"
            raise PydanticCustomError("value_error", message) from error

    @classmethod
    def given(cls, query: QueryDict, name: str) -> Any:
        return query.getlist(name) if name == "job_type" else query[name]

    @property
    def filters(self) -> Filters:
        return Filters.of(self.job_type, self.status, self.created_after)


MAX_SEQ = 2_147_483_647


class EventsParams(Params):
    # Any integer is a cursor: one below 0 is before every event, one beyond what a seq can be is after every event.
    since: Annotated[int, Integer, AfterValidator(lambda since: min(max(since, 0), MAX_SEQ))] = 0
