"""How far a command is: a bar that redraws itself on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta

from django.core.management.base import OutputWrapper

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0
WIDTH = 30


class Progress:
    """Shows ``done`` of ``total``, in any unit, beside a note; without a total, the note alone."""

    def __init__(self, out: OutputWrapper, total: float | None) -> None:
        self.out = out
        self.total = total
        self.is_terminal = out.isatty()
        self.started = self.shown = time.monotonic()

    def show(self, done: float, note: str) -> None:
        now = time.monotonic()
        if now - self.shown < (REDRAW_SECONDS if self.is_terminal else LINE_SECONDS):
            return
        self.shown = now
        share = min(done / self.total, 1.0) if self.total else None
        if share:
            left = timedelta(seconds=round((now - self.started) * (1 - share) / share))
            note = f"{share:4.0%}  {note}  {left} left"
        if self.is_terminal:
            bar = "" if share is None else f"[{'#' * round(share * WIDTH):-<{WIDTH}}] "
            self.out.write(f"\r\x1b[K{bar}{note}", ending="")
        else:
            self.out.write(note)
        self.out.flush()

    def clear(self) -> None:
        """Leaves an empty line on a terminal."""
        if self.is_terminal:
            self.out.write("\r\x1b[K", ending="")
            self.out.flush()
