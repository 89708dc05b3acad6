"""What options of commands take."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

from ulid import ULID

from jobs.ulid import parse_ulid


def at_least(least: int) -> Callable[[str], int]:
    """A whole number from ``least`` up."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            raise ArgumentTypeError(f"“{text}” is not a whole number from {least} up")
        return int(text)

    return number


def ulid(text: str) -> ULID:
    try:
        return parse_ulid(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
