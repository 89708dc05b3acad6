"""Types of command-line options, for argparse."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import timedelta

from ulid import ULID

from jobs.ulid import parse_ulid

MAX_BATCH = 10_000  # each job is a parameter of a statement; SQLite allows 32,766


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """A type for argparse: a whole number from ``least`` to ``most`` (None: no upper bound)."""

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


UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def duration(text: str) -> timedelta:
    """A whole number of days, hours or minutes: 90d, 12h, 30m."""
    number, unit = text[:-1], UNITS.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdecimal()) or not 0 < int(number) < 10**6:
        raise ArgumentTypeError(f"“{text}” is not a duration such as 90d, 12h or 30m")
    return timedelta(**{unit: int(number)})


def duration_text(length: timedelta) -> str:
    """The length as :func:`duration` reads it."""
    steps = ((letter, timedelta(**{unit: 1})) for letter, unit in UNITS.items())
    return next(f"{length // step}{letter}" for letter, step in steps if not length % step)


def ulid(text: str) -> ULID:
    try:
        return parse_ulid(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
