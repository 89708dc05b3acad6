"""Types of command-line options, for argparse."""

from __future__ import annotations

import re
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


INTERVAL_UNITS = {"s": 1, "m": 60, "h": 3600}


def interval(text: str) -> float:
    """A time in seconds, minutes or hours, as a number of seconds: 10s, 0.5s, 2m, 1h. A day at most."""
    number, unit = text[:-1], INTERVAL_UNITS.get(text[-1:])
    if unit and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", number) and 0 < float(number) * unit <= 86_400:
        return float(number) * unit
    raise ArgumentTypeError(f"“{text}” is not a time such as 10s, 0.5s, 2m or 1h, a day at most")


def percentage(text: str) -> float:
    """A percentage, with or without its sign, as a share from 0 to 1: 10%, 0, 2.5%."""
    number = text.removesuffix("%")
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", number) and float(number) <= 100:
        return float(number) / 100
    raise ArgumentTypeError(f"“{text}” is not a percentage from 0% to 100%")


def factor(text: str) -> float:
    """A number above 0, up to 1000."""
    if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text) and 0 < float(text) <= 1000:
        return float(text)
    raise ArgumentTypeError(f"“{text}” is not a number above 0, up to 1000")


def ulid(text: str) -> ULID:
    try:
        return parse_ulid(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
