"""JSON: content negotiation and serialization. The API has no other media type."""

from __future__ import annotations

from typing import Any

import orjson
from django.http import HttpRequest
from rest_framework.exceptions import NotAcceptable
from rest_framework.renderers import BaseRenderer

# What nearly every client sends. Django's parser reads all other values.
_PLAIN_ACCEPTS = frozenset({"", "*/*", "application/json"})


def to_json(data: Any) -> bytes:
    """``data`` as the API writes it; times, which are in UTC, end in ``Z``."""
    return orjson.dumps(data, option=orjson.OPT_UTC_Z)


class JSONRenderer(BaseRenderer):
    """For the OpenAPI document, which takes the API's media type from it; responses are written by ``to_json``."""

    media_type = "application/json"
    format = "json"


def require_json(request: HttpRequest) -> None:
    """Raises NotAcceptable unless the client accepts JSON."""
    if request.META.get("HTTP_ACCEPT", "") not in _PLAIN_ACCEPTS and not _accepts_json(request):
        raise NotAcceptable


def _accepts_json(request: HttpRequest) -> bool:
    """Whether the most specific entry of ``Accept`` that matches JSON, with or without a charset, has a q above 0."""
    for entry in request.accepted_types_by_precedence:
        if f"{entry.main_type}/{entry.sub_type}" in ("application/json", "application/*", "*/*"):
            return bool(entry.quality > 0)
    return False
