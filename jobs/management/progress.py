"""Progress of a command: a bar on a terminal, a line of JSON every few seconds elsewhere."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from django.core.management.base import OutputWrapper

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0
WIDTH = 30


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 job, 2 jobs, 1,000 jobs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class LogLines(OutputWrapper):
    """Standard error off a terminal. Each message is a line of JSON with the members of the gateway's log."""

    def __init__(self, out: Any, command: str) -> None:
        super().__init__(out)
        self.command = command

    def write(self, msg: str = "", style_func: Any = None, ending: str | None = None) -> None:  # type: ignore[override]
        self.log("INFO", msg)

    def log(self, level: str, message: str, **more: object) -> None:
        message = message.encode(errors="replace").decode()  # a file name in it may not be valid text
        line = {"time": datetime.now(UTC), "level": level, "logger": self.command, "message": message} | more
        super().write(orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE).decode())
        self.flush()


class Progress:
    """Shows ``done`` of ``total``, in any unit, with a note. Without a total it shows the note alone.

    The time left is estimated from the work since the first call, because a resumed run did not do the rest.
    """

    def __init__(self, out: OutputWrapper, total: float | None, command: str) -> None:
        self.out = out
        self.total = total
        self.log = out if isinstance(out, LogLines) else LogLines(out, command)
        self.is_terminal = out.isatty()
        self.shown = time.monotonic()
        self.first: tuple[float, float] | None = None  # when, and what was done by then

    def show(self, done: float, note: str) -> None:
        now = time.monotonic()
        self.first = self.first or (now, done)
        if now - self.shown < (REDRAW_SECONDS if self.is_terminal else LINE_SECONDS):
            return
        self.shown = now
        share = min(done / self.total, 1.0) if self.total else None
        left = self.seconds_left(now, done)
        if self.is_terminal:
            self.out.write(self.bar(note, share, left), ending="")
            self.out.flush()
        else:
            self.log.log("INFO", note, share=None if share is None else round(share, 4), seconds_left=left)

    def seconds_left(self, now: float, done: float) -> int | None:
        """The estimated time left; None while there is no estimate."""
        if not self.total or not self.first:
            return None
        begun, at_first = self.first
        missing = max(self.total - done, 0)
        if not missing:
            return 0
        return round((now - begun) * missing / (done - at_first)) if done > at_first else None

    def bar(self, note: str, share: float | None, left: int | None) -> str:
        if share is None:
            return f"\r\x1b[K{note}"
        bar = f"[{'#' * round(share * WIDTH):-<{WIDTH}}]"
        estimate = "" if left is None else f"  {timedelta(seconds=left)} left"
        return f"\r\x1b[K{bar} {share:4.0%}  {note}{estimate}"

    def clear(self) -> None:
        """Clears the line on a terminal."""
        if self.is_terminal:
            self.out.write("\r\x1b[K", ending="")
            self.out.flush()
