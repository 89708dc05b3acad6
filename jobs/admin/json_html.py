"""JSON as collapsible, highlighted HTML. All names and values are escaped."""

from __future__ import annotations

import json
from typing import Any

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

# Levels of nesting that are open at first.
OPEN_LEVELS = 2


def render_json(value: Any, open_levels: int = OPEN_LEVELS) -> SafeString:
    """HTML of ``value``, any JSON value. Objects and lists are ``<details>``; the outer ``open_levels`` are open."""
    return mark_safe(f'<div class="json">{_render(value, open_levels)}</div>')  # noqa: S308 - _render escapes


def _render(value: Any, open_levels: int) -> str:
    if isinstance(value, dict) and value:
        members = "".join(
            f'<li><span class="json-name">{escape(json.dumps(name, ensure_ascii=False))}</span>: '
            f"{_render(member, open_levels - 1)}</li>"
            for name, member in value.items()
        )
        return _render_details("{", "}", members, len(value), open_levels)
    if isinstance(value, list) and value:
        items = "".join(f"<li>{_render(item, open_levels - 1)}</li>" for item in value)
        return _render_details("[", "]", items, len(value), open_levels)
    return f'<span class="json-{_css_class(value)}">{escape(json.dumps(value, ensure_ascii=False))}</span>'


def _render_details(opening: str, closing: str, inner: str, count: int, open_levels: int) -> str:
    is_open = " open" if open_levels > 0 else ""
    return (
        f"<details{is_open}><summary>{opening}<span> {count} … {closing}</span></summary>"
        f"<ul>{inner}</ul>{closing}</details>"
    )


def _css_class(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if value is None or isinstance(value, bool):
        return "word"
    return "number" if isinstance(value, (int, float)) else "empty"
