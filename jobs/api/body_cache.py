"""Bodies of responses, kept by all that they were rendered from.

The statement runs for every request, so a response is never older than what the database has. What is saved is
decoding, redaction, signing and encoding, where the database returned the same text as before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

MAX_BODY_BYTES = 64 * 2**10  # a larger one is rendered each time
MAX_CACHE_BYTES = 16 * 2**20
ENTRY_BYTES = 1_000  # of an entry, beside its body and what it was rendered from


class Rendered(NamedTuple):
    """A body, and what the view needs beside it."""

    body: bytes
    facts: Any = None


class Entry(NamedTuple):
    rendered: Rendered
    presigned: int
    size: int


class BodyCache:
    """The bodies that were used last, up to ``max_bytes``. For one event loop."""

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()

    def get(self, key: Hashable) -> Entry | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: Hashable, rendered: Rendered, presigned: int, source_bytes: int) -> None:
        """``presigned`` URLs are in the body, ``source_bytes`` of text in ``key``."""
        if len(rendered.body) > MAX_BODY_BYTES or key in self._entries:
            return
        size = len(rendered.body) + source_bytes + ENTRY_BYTES
        self._entries[key] = Entry(rendered, presigned, size)
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.size


bodies = BodyCache()
