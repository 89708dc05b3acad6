"""Handles SIGINT (Ctrl-C) and SIGTERM: the current batch is finished first, then the command stops."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

POLL_SECONDS = 0.2  # how late a stop is noticed while the command waits


class Stop:
    """Whether a signal requested a stop. A second signal has its usual effect.

    With ``parent``, the id of the process that started this one, a stop is requested when that has ended, however it
    did. It is noticed by :meth:`pause`.
    """

    requested = False

    def __init__(self, parent: int | None = None) -> None:
        self.parent = parent

    def pause(self, seconds: float) -> None:
        """Waits. Returns early if a stop is requested."""
        until = time.monotonic() + seconds
        self._check_parent()
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
            self._check_parent()

    def _check_parent(self) -> None:
        if self.parent is not None and os.getppid() != self.parent:
            self.requested = True


@contextmanager
def stoppable(parent: int | None = None) -> Iterator[Stop]:
    stop = Stop(parent)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, _: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_line(command: str, *arguments: object) -> str:
    """A command line, quoted for a shell. Options are pairs such as ("--batch", 500); None and False leave them out."""
    words: list[str] = []
    for argument in arguments:
        if not isinstance(argument, tuple):
            words.append(str(argument))
        elif argument[1] is True:
            words.append(argument[0])
        elif argument[1] is not None and argument[1] is not False:
            words += [argument[0], str(argument[1])]
    return shlex.join(["python", "manage.py", command, *words])
