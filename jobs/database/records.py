"""Columns by name: a named tuple declares the columns that a statement selects."""

from __future__ import annotations

from typing import Any


def columns(record: Any, **expressions: Any) -> tuple[Any, ...]:
    """What a statement selects so that its rows are ``record``, a class made by :class:`typing.NamedTuple`.

    A field is the model's field of that name, or the expression that is given for it. Raises TypeError for an
    expression of no field.
    """
    if unknown := expressions.keys() - set(record._fields):
        raise TypeError(f"{record.__name__} has no {', '.join(sorted(unknown))}")
    return tuple(expressions.get(name, name) for name in record._fields)
