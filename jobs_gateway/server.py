"""The production server: granian, so that nobody who connects while workers are renewed is turned away.

``manage.py serve`` becomes this process. Nothing of the application is imported here: each worker is forked from it and
imports for itself, so that a reload takes up new code.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from granian._granian import ListenerSpec
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

LOG_LINES = Path(__file__).with_name("granian_logs.json")
STOP, RELOAD = {signal.SIGINT, signal.SIGTERM}, {signal.SIGHUP}
DRAIN_SECONDS = 0.3  # to read what was sent on a connection that was just accepted: unread, it would be closed


class Server(MPServer):
    """Workers whose queues outlive them.

    By itself each worker of granian's makes the socket it listens on, and the kernel resets who waits there when the
    worker ends. Here the sockets are this process's, one for each worker and its successors.
    """

    def _init_shared_socket(self) -> None:
        spec = ListenerSpec(self.bind_addr, self.bind_port, self.backlog)
        holders: list[Any] = [spec.build() for _ in range(self.workers)]
        self.listeners = [(holder, socket.socket(fileno=holder.get_fd())) for holder in holders]

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]  # as MPServer
        self._shd, self._sso = self.listeners[idx]
        return super()._spawn_worker(idx, target, callback_loader)

    def _drop_shared_socket(self) -> None:
        for _, listener in self.listeners:
            listener.close()


def heed(server: Server) -> None:
    """Tells the server what its process is told, to stop or to reload.

    From a thread of its own: a handler would run in the midst of the main thread, wait for a lock that this holds, and
    hang for ever when it is told twice.
    """
    while True:
        if signal.sigwait(STOP | RELOAD) in STOP:
            server.signal_handler_interrupt()
        else:
            server.signal_handler_reload()


def work(number: int, name: str, loader: Any, sockets: Any, *options: Any) -> None:
    """A worker's process: granian's, but for what it does when it is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it serves: it answers nobody yet, so it just ends
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=drain, args=(sockets[1].fileno(),), daemon=True).start()
    MPServer._spawn_wsgi_worker(number, name, loader, sockets, *options)


def drain(listening: int) -> None:
    """Waits for the word to stop; then this worker accepts no more, reads what it has accepted, and stops."""
    signal.sigwait({signal.SIGTERM})
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind("")  # a name that nobody is told
        nobody.listen()
        nobody.setblocking(False)
        os.dup2(nobody.fileno(), listening)  # in this process: the others' stays as it is
    time.sleep(DRAIN_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs_gateway.server", description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    given = parser.parse_args()
    multiprocessing.set_start_method("fork")  # workers inherit the socket; from Python 3.14 on they would not
    server = Server(
        "jobs_gateway.wsgi:application",
        given.host,
        given.port,
        interface=Interfaces.WSGI,
        workers=given.workers,
        respawn_failed_workers=True,
        # On one core (WEB_PIN_WORKERS) a third faster than one: it computes while the other waits for the database.
        # What a caller can make take long is in one of them at most (tenants/side_lane.py).
        blocking_threads=2,
        # Seconds that a worker which is told to stop is given to answer: who never ends a request does not hold it up.
        workers_kill_timeout=10,
        # HTTP/1 only, as a proxy in front or a client beside speaks it.
        http=HTTPModes.http1,
        websockets=False,
        # Bytes that a request line and its headers may have together: four times what callers may count on.
        http1_settings=HTTP1Settings(max_buffer_size=32_768),
        log_level=LogLevels.warning,
        log_dictconfig=None if sys.stderr.isatty() else json.loads(LOG_LINES.read_text()),
    )
    # Also for workers, which are born deaf: what they are told waits until there is somebody to take it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP | RELOAD)
    threading.Thread(target=heed, args=(server,), daemon=True).start()
    server.serve(work)


if __name__ == "__main__":
    main()
