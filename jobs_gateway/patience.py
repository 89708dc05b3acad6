"""How long the thread that answers a request waits for the database, all its statements together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic


class Patience(threading.local):
    """``until`` is on the monotonic clock; None outside requests: commands and migrations take the time they need."""

    until: float | None = None

    @property
    def seconds_left(self) -> float | None:
        return None if self.until is None else max(0.0, self.until - monotonic())

    @contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Within the block no longer than ``seconds``, and no longer than was left before."""
        before, until = self.until, monotonic() + seconds
        self.until = until if before is None else min(before, until)
        try:
            yield
        finally:
            self.until = before


patience = Patience()
