"""JSON as HTML: a collapsible, highlighted tree, or text where a tree would be too large. Everything is escaped."""

from __future__ import annotations

import json
from typing import Any

from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

# Levels of nesting that are open at first.
OPEN_LEVELS = 2
# Values in the trees of one page. Each takes about 130 bytes of HTML, and can take two of JSON.
MAX_VALUES = 5_000
# Text is not indented where that would make it longer than this, or so many times as long: deep nesting is mostly
# indentation.
MAX_INDENTED_CHARACTERS = 2**20
MAX_INDENTATION = 4


class JSONTrees:
    """The trees of one page, of ``MAX_VALUES`` values together."""

    def __init__(self) -> None:
        self._values_left = MAX_VALUES

    def tree(self, value: Any, open_levels: int = OPEN_LEVELS) -> SafeString | None:
        """``value``, any JSON value, as HTML; None where the page's trees would have too many values.

        Objects and lists are ``<details>``; the outer ``open_levels`` are open.
        """
        count = count_values(value, up_to=self._values_left + 1)
        if count > self._values_left:
            return None
        self._values_left -= count
        return mark_safe(f'<div class="json">{_render(value, open_levels)}</div>')  # noqa: S308 - _render escapes

    def tree_or_text(self, value: Any, open_levels: int = OPEN_LEVELS) -> SafeString:
        """The tree, or the text where there is no tree."""
        return self.tree(value, open_levels) or format_html('<pre class="json">{}</pre>', json_text(value))


def json_text(value: Any) -> str:
    """``value`` as JSON, indented unless that makes it too long."""
    text = json.dumps(value, ensure_ascii=False)
    indented = json.dumps(value, indent=2, ensure_ascii=False)
    return indented if len(indented) <= min(MAX_INDENTED_CHARACTERS, MAX_INDENTATION * len(text)) else text


def count_values(value: Any, up_to: int) -> int:
    """The number of values in ``value``, itself included. It stops at ``up_to``."""
    count, found = 0, [value]
    while found and count < up_to:
        each = found.pop()
        count += 1
        if isinstance(each, dict):
            found += each.values()
        elif isinstance(each, list):
            found += each
    return count


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
