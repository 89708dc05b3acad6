"""The production server: granian, one event loop a worker.

``manage.py serve`` becomes this process. Nothing of the application is imported here: each worker imports it for
itself, so that a reload takes up new code.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
from pathlib import Path

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels

from jobs_gateway.worker import ANNOUNCEMENT, FOLDER_VARIABLE, STOPPING, SUCCESSOR_SECONDS

LOG_LINES = Path(__file__).with_name("granian_logs.json")
STOP, RELOAD = {signal.SIGINT, signal.SIGTERM}, {signal.SIGHUP}
# Connections of one worker at a time, idle ones included: streams, waiting requests and a proxy's kept connections.
MAX_CONNECTIONS = 16_384
# Open files of a process: connections, and what else it has open.
MAX_OPEN_FILES = 65_536


def raise_open_files_limit() -> None:
    """Raises the soft limit of open files, as far as the hard limit allows; each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def handle_signals(server: Granian, folder: Path) -> None:
    """Passes signals of this process on to the server: to stop, or to renew its workers.

    In a thread of its own. A handler would interrupt the main thread while that holds a lock which the handler needs,
    and two signals at once would stop the server from ever ending.
    """
    while True:
        if signal.sigwait(STOP | RELOAD) in STOP:
            (folder / STOPPING).touch()
            server.signal_handler_interrupt()
        else:
            server.signal_handler_reload()


def make_server(host: str, port: int, workers: int) -> Granian:
    return Granian(
        "jobs_gateway.asgi:application",
        host,
        port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        workers=workers,
        respawn_failed_workers=True,
        # Seconds from the start of a new worker to the signal for the old one, which waits for the new one to be ready.
        respawn_interval=0.1,
        # Seconds that a worker which is to stop is given to wait for its successor and to answer what it has accepted.
        workers_kill_timeout=int(SUCCESSOR_SECONDS) + 10,
        # HTTP/1 only, as a proxy in front or a client beside speaks it.
        http=HTTPModes.http1,
        websockets=False,
        backlog=4096,
        backpressure=MAX_CONNECTIONS,
        http1_settings=HTTP1Settings(
            # Milliseconds for the header of a request to arrive.
            header_read_timeout=10_000,
            # Bytes that a request line and its headers may have together: four times what callers may count on.
            max_buffer_size=32_768,
        ),
        log_level=LogLevels.warning,
        log_dictconfig=None if sys.stderr.isatty() else json.loads(LOG_LINES.read_text()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs_gateway.server", description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--announce", default="", help="A line to print once connections are accepted.")
    given = parser.parse_args()
    raise_open_files_limit()
    # "spawn" starts a helper process, and unblocks the signals below as it does. A fork is safe here: the one other
    # thread of this process only waits for signals, and holds no lock.
    multiprocessing.set_start_method("fork")
    server = make_server(given.host, given.port, given.workers)
    # Workers start with these blocked too, and unblock them themselves.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP | RELOAD)
    with tempfile.TemporaryDirectory(prefix="jobs-gateway-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        if given.announce:
            (Path(folder) / ANNOUNCEMENT).write_text(json.dumps([given.announce, given.host, given.port]))
        threading.Thread(target=handle_signals, args=(server, Path(folder)), daemon=True).start()
        server.serve()


if __name__ == "__main__":
    main()
