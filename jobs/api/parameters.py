"""Query parameters, checked by pydantic: what both dialects ask of every one of theirs."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Self

from django.http import QueryDict
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticKnownError

from jobs.api.errors import Invalid

MAX_OFFSET = 2_147_483_647

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)


def integer(text: str) -> int:
    """An integer in decimal digits and nothing else, however many: those of more than 18 read as ±10**18."""
    if not _INTEGER.fullmatch(text):
        raise PydanticKnownError("int_parsing")
    digits = text.lstrip("+-").lstrip("0") or "0"
    # int() refuses thousands of digits, and no column holds as many as these.
    magnitude = int(digits) if len(digits) <= 18 else 10**18
    return -magnitude if text.startswith("-") else magnitude


Integer = BeforeValidator(integer)
Offset = Annotated[int, Integer, Field(ge=0, le=MAX_OFFSET)]


class Params(BaseModel):
    """Reads a query string: unknown names change nothing, and of a name given twice the last counts."""

    @classmethod
    def read(cls, query: QueryDict, context: Any = None) -> Self:
        """Raises Invalid (422, on ``/job`` 400) that names every bad parameter."""
        if not query:  # as most are asked
            return cls._of_nothing()
        given = {name: cls.given(query, name) for name in cls.model_fields if name in query}
        try:
            return cls.model_validate(given, context=context)
        except ValidationError as error:
            raise Invalid(
                [
                    {"loc": ["query", *problem["loc"]], "msg": problem["msg"], "type": problem["type"]}
                    for problem in error.errors(include_url=False, include_context=False, include_input=False)
                ]
            ) from error

    @classmethod
    @cache
    def _of_nothing(cls) -> Self:
        return cls()

    @classmethod
    def given(cls, query: QueryDict, name: str) -> Any:
        return query[name]
