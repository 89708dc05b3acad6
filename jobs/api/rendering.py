"""JSON and nothing else: how an answer is negotiated and written."""

from __future__ import annotations

from typing import Any

import orjson
from django.http import HttpRequest
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer

# What nearly every client sends; anything else is read with Django's own parser.
_PLAIN_ACCEPTS = frozenset({"", "*/*", "application/json"})


def to_json(data: Any) -> bytes:
    """``data`` as the API writes it; times, which are in UTC, end in ``Z``."""
    return orjson.dumps(data, option=orjson.OPT_UTC_Z)


class JSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return b"" if data is None else to_json(data)


class JSONOnly(BaseContentNegotiation):
    """Picks JSON whenever the caller takes it, and raises NotAcceptable when it does not."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return None

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> tuple[Any, str]:
        require_json(request._request)
        return renderers[0], "application/json"


def require_json(request: HttpRequest) -> None:
    """Raises NotAcceptable unless the caller takes JSON."""
    if request.META.get("HTTP_ACCEPT", "") not in _PLAIN_ACCEPTS and not _accepts_json(request):
        raise NotAcceptable


def _accepts_json(request: HttpRequest) -> bool:
    """Whether the most specific entry of ``Accept`` that speaks of JSON, with or without a charset, wants it at all."""
    for entry in request.accepted_types_by_precedence:
        if f"{entry.main_type}/{entry.sub_type}" in ("application/json", "application/*", "*/*"):
            return bool(entry.quality > 0)
    return False
