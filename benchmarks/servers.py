"""The servers that are measured: each on a port of 127.0.0.1, reading the same database."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

from benchmarks.store import ROOT
from tests.servers import STOP_SECONDS, free_ports, wait_until

PYTHON = [sys.executable, "-m"]
GRANIAN = [*PYTHON, "granian", "--workers", "{workers}", "--http", "1", "--no-ws", "--log-level", "warning"]
GRANIAN += ["--host", "127.0.0.1", "--port", "{port}"]
UVICORN = [*PYTHON, "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
UVICORN += ["--workers", "{workers}", "--host", "127.0.0.1", "--port", "{port}"]
LOOP = "uvloop"  # the gateway's: jobs_gateway/server.py
COMMANDS = {
    # It reads the port and the number of workers from its environment, and becomes its production server.
    "gateway": [sys.executable, "manage.py", "serve"],
    "fastapi": [*UVICORN, "benchmarks.peers.fastapi_app:app"],
    "drf": [*GRANIAN, "--interface", "wsgi", "--blocking-threads", "2", "benchmarks.peers.drf_app:application"],
    "limit": [*GRANIAN, "--interface", "asgi", "--loop", LOOP, "benchmarks.peers.limit:application"],
}
SETTINGS_MODULES = {"drf": "benchmarks.peers.drf_settings"}


@dataclass
class Server:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    start_seconds: float

    def resident_mb(self) -> float:
        """The resident memory of its largest process, which is a worker."""
        return max(each.memory_info().rss for each in process_tree(self.process.pid)) / 1024**2


def process_tree(pid: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU time of the process and all its descendants so far: user and system time as ``/proc/<pid>/stat`` has them.

    It is counted in ticks of 10 ms a process. Processes that have ended are not in it.
    """
    times = [each.cpu_times() for each in process_tree(pid)]
    return sum(each.user + each.system for each in times)


def get(port: int, path: str, token: str, etag: str = "") -> tuple[int, bytes, http.client.HTTPMessage]:
    """Status, body and headers of one response."""
    headers = {"Authorization": f"Bearer {token}"} | ({"If-None-Match": etag} if etag else {})
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers


def is_up(port: int, token: str, log: Path) -> bool:
    """Raises SystemExit, with the end of the server's log, when the first answer is not a page of jobs."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        status, body, _ = get(port, "/v1/jobs", token)
        if status == 503:  # the database is slow to accept connections on a busy machine
            return False
        if status != 200:
            end = log.read_text(errors="replace")[-4000:]
            raise SystemExit(f"The first answer is {status}: {body[:1000]!r}\n{end}")
        return True
    return False


@contextlib.contextmanager
def serving(name: str, environment: dict[str, str], token: str, folder: Path, workers: int = 1) -> Iterator[Server]:
    """The server while the block runs. It counts as started with its first answer to a page of jobs."""
    (port,) = free_ports(1)
    variables = environment | {"PORT": str(port), "WEB_WORKERS": str(workers)}
    variables["DJANGO_SETTINGS_MODULE"] = SETTINGS_MODULES.get(name, "jobs_gateway.settings")
    log = folder / f"{name}.log"
    began = perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(port=port, workers=workers) for part in COMMANDS[name]],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: is_up(port, token, log), process, log)
        yield Server(name, port, process, perf_counter() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own group, so the workers too
            process.wait()
