"""The ULID as a column: 128 bits, ordered by time; a ULID on ``/v1``, a UUID on ``/job``, one key in the store."""

from __future__ import annotations

import re
import uuid
from functools import lru_cache
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.lookups import In
from ulid import ULID
from ulid_transform import bytes_to_ulid, ulid_to_bytes

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)


@lru_cache(maxsize=4096)  # clients poll the same jobs
def parse_ulid(text: str) -> ULID:
    """The ULID that ``text`` spells, in either case.

    Raises ValueError for anything but 26 Crockford base32 characters that fit 128 bits.
    """
    canonical = text.upper()
    # The upper case of “ſ” is S: what is not ASCII must not become it.
    if not (text.isascii() and _ULID.fullmatch(canonical)):
        raise ValueError(f"{text!r} is not a ULID: 26 characters of 0-9 and A-Z without I, L, O and U")
    return ULID.from_bytes(ulid_to_bytes(canonical))


def ulid_text(stored: str) -> str:
    """The ULID, in upper case, of an id as the database spells it: hexadecimal digits, with or without dashes.

    The list does it for every row; the way through ``ULID`` takes fifteen times as long.
    """
    return bytes_to_ulid(bytes.fromhex(stored.replace("-", "")))


class ULIDField(models.UUIDField):
    """Stores a ULID as its 128 bits: ``uuid`` on PostgreSQL, 32 hexadecimal digits on SQLite. Values are ``ULID``."""

    description = "A ULID"
    # For django-stubs: what may be assigned and looked up, and what is read.
    _pyi_private_set_type: ULID | str  # type: ignore[assignment]
    _pyi_private_get_type: ULID  # type: ignore[assignment]
    _pyi_lookup_exact_type: ULID | str  # type: ignore[assignment]

    def to_python(self, value: Any) -> ULID | None:
        if value is None or isinstance(value, ULID):
            return value
        if isinstance(value, uuid.UUID):
            return ULID.from_uuid(value)
        try:
            return parse_ulid(str(value))
        except ValueError as error:
            raise ValidationError(str(error), code="invalid", params={"value": value}) from error

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        ulid = self.to_python(value)
        return None if ulid is None else super().get_db_prep_value(ulid.to_uuid(), connection, prepared)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> ULID | None:
        if value is None:
            return None
        return ULID.from_uuid(value if isinstance(value, uuid.UUID) else uuid.UUID(value))

    def value_to_string(self, obj: models.Model) -> str:
        return str(self.value_from_object(obj))

    def formfield(self, **kwargs: Any) -> Any:
        return models.Field.formfield(self, **kwargs)


@ULIDField.register_lookup
class InArray(In):
    """``in_array``: as ``in`` for a queryset, which on PostgreSQL becomes an array first.

    The planner takes an array to be short, and finds each value by its index. Of a join it expects as many values as
    there are, and from ten thousand on it reads the whole table, even where that has millions of rows.
    """

    lookup_name = "in_array"

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        column, column_params = self.process_lhs(compiler, connection)
        query, query_params = self.process_rhs(compiler, connection)
        return f"{column} = ANY(ARRAY{query})", (*column_params, *query_params)
