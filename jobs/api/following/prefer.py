"""``Prefer: wait=N`` (RFC 7240): how long a caller would wait for news."""

from __future__ import annotations

import re

MAX_WAIT_SECONDS = 60

# One preference, with parameters that are not read: token, and = token or = quoted string. It never goes back (+), as a
# header full of spaces would take seconds.
_WAIT = re.compile(r'\s*+wait\s*+=\s*+(?:"([^"]*)"|([^\s;]*+))\s*+(?:;.*)?', re.IGNORECASE | re.DOTALL)
_SECONDS = re.compile(r"[0-9]+", re.ASCII)
# A comma inside a quoted string separates nothing.
_PREFERENCE = re.compile(r'(?:[^,"]|"[^"]*"?)+')


def preferred_wait(prefer: str) -> int | None:
    """The seconds of the first ``wait`` in ``Prefer``, at most MAX_WAIT_SECONDS; None for none, or a malformed one."""
    for preference in _PREFERENCE.findall(prefer):
        if found := _WAIT.fullmatch(preference):
            text = found[1] if found[1] is not None else found[2]
            if not _SECONDS.fullmatch(text):
                return None
            # int() refuses thousands of digits.
            digits = text.lstrip("0")
            seconds = int(digits) if 0 < len(digits) <= 3 else MAX_WAIT_SECONDS if digits else 0
            return min(seconds, MAX_WAIT_SECONDS) or None
    return None
