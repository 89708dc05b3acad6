"""How far a command is: a bar that redraws itself on a terminal, a line of JSON every few seconds elsewhere."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import orjson
from django.core.management.base import OutputWrapper

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0
WIDTH = 30


class Progress:
    """Shows ``done`` of ``total``, in any unit, beside a note; without a total, the note alone."""

    def __init__(self, out: OutputWrapper, total: float | None, command: str) -> None:
        self.out = out
        self.total = total
        self.command = command
        self.is_terminal = out.isatty()
        self.started = self.shown = time.monotonic()

    def show(self, done: float, note: str) -> None:
        now = time.monotonic()
        if now - self.shown < (REDRAW_SECONDS if self.is_terminal else LINE_SECONDS):
            return
        self.shown = now
        share = min(done / self.total, 1.0) if self.total else None
        left = round((now - self.started) * (1 - share) / share) if share else None
        self.out.write(self.bar(note, share, left) if self.is_terminal else self.line(note, share, left), ending="")
        self.out.flush()

    def bar(self, note: str, share: float | None, left: int | None) -> str:
        if share is None or left is None:
            return f"\r\x1b[K{note}"
        bar = f"[{'#' * round(share * WIDTH):-<{WIDTH}}]"
        return f"\r\x1b[K{bar} {share:4.0%}  {note}  {timedelta(seconds=left)} left"

    def line(self, note: str, share: float | None, left: int | None) -> str:
        """With the members that every line of the gateway's log has."""
        line = {
            "time": datetime.now(UTC),
            "level": "info",
            "logger": self.command,
            "message": note,
            "share": None if share is None else round(share, 4),
            "seconds_left": left,
        }
        return orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE).decode()

    def clear(self) -> None:
        """Leaves an empty line on a terminal."""
        if self.is_terminal:
            self.out.write("\r\x1b[K", ending="")
            self.out.flush()
