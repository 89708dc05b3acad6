"""Query parameters, checked by pydantic: the base of both dialects."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import parse_qs

from django.conf import settings
from django.core.exceptions import TooManyFieldsSent
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticKnownError

from jobs.api.errors import Invalid
from jobs.api.request import ApiRequest

MAX_CACHED_QUERY = 64  # characters
MAX_OFFSET = 2_147_483_647

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)


def integer(text: str) -> int:
    """An integer in decimal digits. One of more than 18 digits becomes ±10**18."""
    if not _INTEGER.fullmatch(text):
        raise PydanticKnownError("int_parsing")
    digits = text.lstrip("+-").lstrip("0") or "0"
    # int() raises ValueError for thousands of digits. No column holds more than 18.
    magnitude = int(digits) if len(digits) <= 18 else 10**18
    return -magnitude if text.startswith("-") else magnitude


Integer = BeforeValidator(integer)


class Params(BaseModel):
    """The query parameters of one operation, read from a query string and described in the OpenAPI document.

    Every field has a default, and ``None`` stands for a parameter that is not sent. Unknown parameters are ignored. A
    parameter that is sent twice counts the last time, unless it is one of ``repeatable``, which may also be spelt with
    ``[]`` at its end.
    """

    repeatable: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, request: ApiRequest, context: Any = None) -> Self:
        """As :meth:`read`, of the request's query. Do not change what it returns: requests may share it."""
        query_string = request.query_string
        if not query_string:  # most requests
            return cls._defaults()
        if context is None and len(query_string) <= MAX_CACHED_QUERY:
            return cls._cached(query_string)
        return cls.read(query_string, context)

    @classmethod
    @lru_cache(maxsize=1024)
    def _cached(cls, query_string: str) -> Self:
        return cls.read(query_string)

    @classmethod
    def read(cls, query_string: str, context: Any = None) -> Self:
        """Raises Invalid (422, on ``/job`` 400) that names every bad parameter."""
        query = parsed(query_string)
        sent: dict[str, Any] = {name: query[name][-1] for name in cls.model_fields if name in query}
        for name in cls.repeatable:
            if values := [*query.get(name, ()), *query.get(f"{name}[]", ())]:
                sent[name] = values
        try:
            return cls.model_validate(sent, context=context)
        except ValidationError as error:
            raise Invalid(
                [
                    {"loc": ["query", *problem["loc"]], "msg": problem["msg"], "type": problem["type"]}
                    for problem in error.errors(include_url=False, include_context=False, include_input=False)
                ]
            ) from error

    @classmethod
    @cache
    def _defaults(cls) -> Self:
        return cls()


def parsed(query_string: str) -> dict[str, list[str]]:
    """The values of each parameter, as Django's QueryDict reads them, which takes four times as long.

    Raises TooManyFieldsSent.
    """
    try:
        return parse_qs(query_string, keep_blank_values=True, max_num_fields=settings.DATA_UPLOAD_MAX_NUMBER_FIELDS)
    except ValueError:
        raise TooManyFieldsSent("There are too many query parameters.") from None


# The bounds stand first: otherwise the OpenAPI document does not have them.
Offset = Annotated[
    int, Field(ge=0, le=MAX_OFFSET, description="How many jobs to skip. The cost grows with the number."), Integer
]
