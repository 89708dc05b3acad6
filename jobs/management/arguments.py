"""What options of commands take."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

from ulid import ULID

from jobs.ulid import parse_ulid

MAX_BATCH = 10_000  # each job of a batch is a parameter of a statement, and SQLite takes 32,766 of them


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number from ``least`` up, to ``most`` where there is an end."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or int(text) < least or (most is not None and int(text) > most):
            raise ArgumentTypeError(
                f"“{text}” is not a whole number from {least} {'up' if most is None else f'to {most}'}"
            )
        return int(text)

    return number


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise ArgumentTypeError(f"“{text}” is not a number of seconds")
    return number


def ulid(text: str) -> ULID:
    try:
        return parse_ulid(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
