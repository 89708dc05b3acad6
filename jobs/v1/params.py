"""The query parameters of ``/v1``, checked by pydantic; every bad one is reported at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from django.db import models
from django.http import QueryDict
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError, PydanticKnownError

from jobs.egress.errors import Invalid
from jobs.models import JobType


class V1Status(models.TextChoices):
    """The statuses that ``/v1`` knows; FAILURE stands for the store's PARTIAL_FAILURE too."""

    NOT_STARTED = "NOT_STARTED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


MAX_OFFSET = 2_147_483_647

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))?", re.ASCII)


def integer(text: str) -> int:
    """An integer in decimal digits and nothing else; one of any length is read, those beyond 64 bits as ±2**63."""
    if not _INTEGER.fullmatch(text):
        raise PydanticKnownError("int_parsing")
    if len(text) > 20:
        return -(2**63) if text.startswith("-") else 2**63
    return int(text)


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
        return (datetime.min if sign == "+" else datetime.max).replace(tzinfo=UTC)


Integer = BeforeValidator(integer)


class Params(BaseModel):
    """Reads a query string: unknown names change nothing, and of a name given twice the last counts."""

    @classmethod
    def read(cls, query: QueryDict) -> Self:
        """Raises Invalid (422) that names every bad parameter."""
        try:
            return cls.model_validate({name: cls.given(query, name) for name in cls.model_fields if name in query})
        except ValidationError as error:
            raise Invalid(
                [
                    {"loc": ["query", *problem["loc"]], "msg": problem["msg"], "type": problem["type"]}
                    for problem in error.errors(include_url=False, include_context=False, include_input=False)
                ]
            ) from error

    @classmethod
    def given(cls, query: QueryDict, name: str) -> Any:
        return query[name]


class ListParams(Params):
    job_type: list[JobType] = []
    status: V1Status | None = None
    created_after: Annotated[datetime, BeforeValidator(instant)] | None = None
    limit: Annotated[int, Integer, Field(ge=1, le=200)] = 50
    offset: Annotated[int, Integer, Field(ge=0, le=MAX_OFFSET)] = 0
    cursor: str | None = None

    @classmethod
    def given(cls, query: QueryDict, name: str) -> Any:
        return query.getlist(name) if name == "job_type" else query[name]

    @property
    def types(self) -> list[str]:
        """The types to filter by, each once and in one order; none where that would be all of them."""
        chosen = sorted({member.value for member in self.job_type})
        return [] if len(chosen) == len(JobType) else chosen

    @property
    def filters(self) -> tuple[object, ...]:
        """What a cursor of this listing is bound to."""
        return self.types, self.status and self.status.value, self.created_after


class EventsParams(Params):
    since: Annotated[int, Integer] = 0
