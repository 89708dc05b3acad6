"""How a worker of the server starts and stops, so that a reload loses no request.

On SIGHUP the server starts a new worker, and sends SIGTERM to the old one a fixed time later, ready or not. So the old
worker keeps answering until its successor does: each worker that is ready leaves a file in a folder that all share.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

# The environment variable that names the folder, which the server's main process makes.
FOLDER_VARIABLE = "JOBS_GATEWAY_WORKERS_DIR"
ANNOUNCEMENT = "announcement"  # the file with a line to print, and the address that it is about
STOPPING = "stopping"  # the file that says that no successor comes
# The longest that a worker waits for its successor, which may fail to start.
SUCCESSOR_SECONDS = 60.0
# Time for the successor to open its socket, and for requests on connections that were accepted a moment ago to arrive.
DRAIN_SECONDS = 0.5
# Time for the server to close its socket.
CLOSE_SECONDS = 0.2
# The longest that a worker which accepts no more requests may take to answer those it has.
STOP_SECONDS = 8.0

OnStop = Callable[[], Coroutine[Any, Any, None]]


def end_on_signals() -> None:
    """Until it serves, a worker ends at once when it is signalled: it has accepted nothing.

    The main process blocks these signals, and its workers inherit that together with its handlers.
    """
    if FOLDER_VARIABLE in os.environ:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


class Worker:
    """This process, as one of the server's workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stop: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None
        self._announced: asyncio.Task[None] | None = None

    def is_ready(self, on_stop: OnStop) -> None:
        """Called on the event loop, once requests can be answered.

        ``on_stop`` is awaited when the worker accepts no more: what would go on for ever has to end then.
        """
        # In place of the server's own handler, which stops at once. The server's handler of SIGINT stays.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop_soon, on_stop)
        (self.folder / str(os.getpid())).touch()
        with suppress(FileNotFoundError):
            # Renamed, so that one worker prints it, once.
            announcement = (self.folder / ANNOUNCEMENT).rename(self.folder / f"{ANNOUNCEMENT}-{os.getpid()}")
            self._announced = asyncio.get_running_loop().create_task(announce(*json.loads(announcement.read_text())))

    def _stop_soon(self, on_stop: OnStop) -> None:
        if self._stop is None:
            self._stop = asyncio.get_running_loop().create_task(self._stop_after_successor(on_stop))

    async def _stop_after_successor(self, on_stop: OnStop) -> None:
        signalled_at = time.time()
        while time.time() - signalled_at < SUCCESSOR_SECONDS and not self._has_successor(signalled_at):
            await asyncio.sleep(0.05)
        await asyncio.sleep(DRAIN_SECONDS)
        # The server waits for open requests without end.
        watchdog = threading.Timer(STOP_SECONDS, os._exit, [0])
        watchdog.daemon = True
        watchdog.start()
        os.kill(os.getpid(), signal.SIGINT)
        # A client whose stream ends connects again at once, and has to reach the successor.
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._end_soon, on_stop)

    def _end_soon(self, on_stop: OnStop) -> None:
        self._end = asyncio.get_running_loop().create_task(on_stop())

    def _has_successor(self, signalled_at: float) -> bool:
        """Whether a worker became ready that was started to replace this one, or none will.

        Workers are replaced one after another, each after the one before has ended: so every ready file of an earlier
        replacement is older than ``DRAIN_SECONDS``.
        """
        if (self.folder / STOPPING).exists():
            return True
        ready_at = [path.stat().st_mtime for path in self.folder.glob("[0-9]*") if path.name != str(os.getpid())]
        return any(moment > signalled_at - DRAIN_SECONDS / 2 for moment in ready_at)


async def announce(text: str, host: str, port: int) -> None:
    """Prints ``text`` once connections to the address are accepted."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            break
        await asyncio.sleep(0.02)
    print(text, flush=True)  # noqa: T201 - for the person at the terminal


def this_worker() -> Worker | None:
    """None under a server other than ``jobs_gateway.server``."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Worker(Path(folder)) if folder else None
