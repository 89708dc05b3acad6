"""Ctrl-C and SIGTERM as a request: what is under way is finished first, and the command says how to go on."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

POLL_SECONDS = 0.2  # a stop is noticed that late while there is nothing else to do


class Stop:
    """Whether someone asked the command to stop. The second time, the signal does what it always does."""

    requested = False

    def pause(self, seconds: float) -> None:
        """Returns early where a stop is requested."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))


@contextmanager
def stoppable() -> Iterator[Stop]:
    stop = Stop()
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
    """What to type, quoted for a shell: options as ("--batch", 500), left out where the value is None or False."""
    words: list[str] = []
    for argument in arguments:
        if not isinstance(argument, tuple):
            words.append(str(argument))
        elif argument[1] is True:
            words.append(argument[0])
        elif argument[1] is not None and argument[1] is not False:
            words += [argument[0], str(argument[1])]
    return shlex.join(["python", "manage.py", command, *words])
