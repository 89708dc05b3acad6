"""How an answer is negotiated and written: as JSON or, where there is one, as a stream."""

from __future__ import annotations

from typing import Any

import orjson
from django.http import HttpRequest
from rest_framework.exceptions import NotAcceptable
from rest_framework.renderers import BaseRenderer

from jobs.api.request import ApiRequest

# What nearly every client sends; anything else is read with Django's own parser.
_PLAIN_ACCEPTS = frozenset({"", "*/*", "application/json"})


def to_json(data: Any) -> bytes:
    """``data`` as the API writes it; times, which are in UTC, end in ``Z``."""
    return orjson.dumps(data, option=orjson.OPT_UTC_Z)


class JSONRenderer(BaseRenderer):
    """For the OpenAPI document, which takes the API's media type from it; responses are written by ``to_json``."""

    media_type = "application/json"
    format = "json"


def require_json(request: ApiRequest) -> None:
    """Raises NotAcceptable unless the caller takes JSON."""
    if (request.header(b"accept") or "") not in _PLAIN_ACCEPTS and not _weight_of_json(request):
        raise NotAcceptable


def prefers_stream(request: ApiRequest) -> bool:
    """Whether ``Accept`` names ``text/event-stream`` with a higher weight than JSON."""
    accept = request.header(b"accept") or ""
    if "text/event-stream" not in accept.lower():
        return False
    weights = [
        each.quality for each in request.accepted_types if (each.main_type, each.sub_type) == ("text", "event-stream")
    ]
    return max(weights, default=0) > _weight_of_json(request)


def _weight_of_json(request: HttpRequest) -> float:
    """Of the most specific entry of ``Accept`` that speaks of JSON, with or without a charset; 0 for none."""
    for entry in request.accepted_types_by_precedence:
        if f"{entry.main_type}/{entry.sub_type}" in ("application/json", "application/*", "*/*"):
            return float(entry.quality)
    return 0.0
