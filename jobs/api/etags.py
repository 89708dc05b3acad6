"""``ETag``: how it is computed, and how it is compared with ``If-None-Match``."""

from __future__ import annotations

import hashlib
import re
from functools import cache

import orjson
from rest_framework import serializers

from jobs.api.keys import current_key

# Raise it when the same row is written differently in the same fields; a test fails until then. When the declared
# fields change, every ETag changes by itself: see shape_of.
FORMAT_VERSION = 2

_VERSION = re.compile(r'"([0-9]{1,18})-')
# What compressing proxies and servers make of "validator": W/"validator" (nginx, RFC 9110), "validator-gzip" (Apache,
# Caddy), "validator--gzip" (Jetty), "validator;gzip" and "validator"-gzip (others).
_COMPRESSED = re.compile(r'(?:W/)?("[^"]*?)(?:[-;]{1,2}(?:gzip|x-gzip|deflate|df|br|zstd))?"(?:[-;](?:gzip|br|zstd))?')


def etag(*parts: object, version: int | None = None) -> str:
    """A strong ``ETag``. Two are equal exactly when all ``parts`` and the ``version`` are equal, as JSON or text.

    It is a keyed hash, so that nobody can find a part by trying values.
    :func:`newest_version` reads the version from it, where one is given.
    """
    written = orjson.dumps((FORMAT_VERSION, *parts), default=str)
    digest = hashlib.blake2b(written, key=current_key("validators"), digest_size=15).hexdigest()
    return f'"{digest}"' if version is None else f'"{version}-{digest}"'


@cache
def shape_of(serializer: type[serializers.BaseSerializer]) -> str:
    """A fingerprint of the declared fields, those of nested serializers included."""
    return hashlib.blake2b(orjson.dumps(_shape(serializer())), digest_size=8).hexdigest()


def _shape(field: serializers.Field) -> list[object]:
    inner = getattr(field, "fields", None)
    nested = getattr(field, "child", None)
    members = {name: _shape(member) for name, member in inner.items()} if inner is not None else None
    return [type(field).__name__, field.allow_null, members, _shape(nested) if nested is not None else None]


def newest_version(if_none_match: str) -> int:
    """The newest version of a job that the caller has seen by ``If-None-Match``, 0 where it names none."""
    return max(map(int, _VERSION.findall(if_none_match)), default=0)


def holds(if_none_match: str, current: str) -> bool:
    """Whether ``If-None-Match`` names ``current``, by weak comparison as RFC 9110 requires.

    An ``ETag`` that a proxy changed when it compressed the response matches the original one.
    """
    if if_none_match == current or if_none_match.strip() == "*":
        return True
    return any(
        (named := _COMPRESSED.fullmatch(candidate.strip())) is not None and f'{named[1]}"' == current
        for candidate in if_none_match.split(",")
    )
