"""Validators for polling: what an ``ETag`` stands for, and whether the caller's still holds."""

from __future__ import annotations

import hashlib
import re

import orjson

# Bumped whenever the same data would be written differently, so that no old answer is taken for a new one.
FORMAT_VERSION = 1

_VERSION = re.compile(r'"([0-9]{1,18})-')


def etag(*parts: object, version: int | None = None) -> str:
    """A strong validator that is equal exactly when all ``parts`` and the ``version`` are, as JSON or text.

    It tells nothing about the parts. :func:`newest_version` reads the version from it, where one is given.
    """
    digest = hashlib.blake2b(orjson.dumps((FORMAT_VERSION, *parts), default=str), digest_size=15).hexdigest()
    return f'"{digest}"' if version is None else f'"{version}-{digest}"'


def newest_version(if_none_match: str) -> int:
    """The newest version of a job that the caller has seen by ``If-None-Match``, 0 where it names none."""
    return max(map(int, _VERSION.findall(if_none_match)), default=0)


def holds(if_none_match: str, current: str) -> bool:
    """Whether ``If-None-Match`` names ``current``, by weak comparison as RFC 9110 asks of it."""
    if if_none_match == current or if_none_match.strip() == "*":
        return True
    return any(candidate.strip().removeprefix("W/") == current for candidate in if_none_match.split(","))
