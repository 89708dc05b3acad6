"""A processor core for each worker, so that its threads pass the interpreter's lock on where they are.

Only one of them computes at a time. On the same core the turn goes over for next to nothing; from core to core it costs
several times a request what a part of the request costs: two threads bound to one core answer almost twice as much.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, suppress
from time import monotonic

# While other workers hold all cores: those of before a reload, or more workers than cores.
RETRY_SECONDS = 1.0


class OwnCore:
    """The core that this process holds, and no other gateway's worker on this machine with it.

    Held by a name in the abstract namespace of Unix sockets: the kernel gives it back when the process ends, however it
    does. Containers have a namespace each and would all take the first core, so there it is not for use.
    """

    def __init__(self) -> None:
        self._claim: socket.socket | None = None
        self._core: int | None = None
        self._retry_at = 0.0
        self._claiming = threading.Lock()
        self._bound = threading.local()

    def bind(self) -> None:
        """Binds the calling thread to the core, once there is one; after that it costs 0.1 µs."""
        if getattr(self._bound, "done", False) or (core := self._claimed()) is None:
            return
        self._bound.done = True
        with suppress(OSError):  # a sandbox forbids it, or the core has been taken away: no reason not to answer
            os.sched_setaffinity(0, {core})  # 0 is the thread, not the process

    def _claimed(self) -> int | None:
        with self._claiming:
            if self._core is None and monotonic() >= self._retry_at:
                self._retry_at = monotonic() + RETRY_SECONDS
                self._core = self._claim_one()
            return self._core

    def _claim_one(self) -> int | None:
        cores = sorted(os.sched_getaffinity(0))
        for core in cores if len(cores) > 1 else ():
            with suppress(OSError), ExitStack() as unless_claimed:  # somebody else's
                claim = unless_claimed.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                claim.bind(name_of(core))
                unless_claimed.pop_all()
                self._claim = claim
                return core
        return None


def name_of(core: int) -> str:
    """What a worker that holds ``core`` has bound a socket to."""
    return f"\0jobs-gateway/core/{core}"
