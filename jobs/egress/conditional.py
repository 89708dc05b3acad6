"""Validators for polling: what an ``ETag`` stands for, and whether the caller's still holds."""

from __future__ import annotations

import hashlib

import orjson

# Bumped whenever the same data would be written differently, so that no old answer is taken for a new one.
FORMAT_VERSION = 1


def etag(*parts: object) -> str:
    """A strong validator that is equal exactly when all ``parts`` are, as JSON or text; it tells nothing about them."""
    digest = hashlib.blake2b(orjson.dumps((FORMAT_VERSION, *parts), default=str), digest_size=15)
    return f'"{digest.hexdigest()}"'


def holds(if_none_match: str, current: str) -> bool:
    """Whether ``If-None-Match`` names ``current``, by weak comparison as RFC 9110 asks of it."""
    if if_none_match == current or if_none_match.strip() == "*":
        return True
    return any(candidate.strip().removeprefix("W/") == current for candidate in if_none_match.split(","))
