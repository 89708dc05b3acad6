"""The servers that are measured: each with one worker process, on a port of 127.0.0.1, reading the same database."""

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

from benchmarks.store import ROOT
from tests.servers import STOP_SECONDS, free_ports, wait_until

PYTHON = [sys.executable, "-m"]
# For the peers of WSGI the server and the options that measured best for the gateway: docs/performance.md.
GRANIAN = [*PYTHON, "granian", "--interface", "wsgi", "--workers", "1", "--blocking-threads", "2", "--http", "1"]
GRANIAN += ["--no-ws", "--log-level", "warning", "--host", "127.0.0.1", "--port"]
UVICORN = [*PYTHON, "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
UVICORN += ["--host", "127.0.0.1", "--port"]
COMMANDS = {
    "gateway": [sys.executable, "manage.py", "serve"],  # the port is in its environment
    "fastapi": [*UVICORN, "{port}", "benchmarks.peers.fastapi_app:app"],
    "drf": [*GRANIAN, "{port}", "benchmarks.peers.drf_app:application"],
    "limit": [*GRANIAN, "{port}", "benchmarks.peers.limit:application"],
}
SETTINGS_MODULES = {"drf": "benchmarks.peers.drf_settings"}


@dataclass
class Server:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    start_seconds: float

    def resident_mb(self) -> float:
        """Of its largest process, which is the worker."""
        told = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True).stdout
        family, largest = {self.process.pid}, 0
        for pid, parent, resident in sorted(tuple(map(int, line.split())) for line in told.splitlines()):
            if pid in family or parent in family:
                family.add(pid)
                largest = max(largest, resident)
        return largest / 1024


def get(port: int, path: str, token: str, etag: str = "") -> tuple[int, bytes, str]:
    """Status, body and ETag of one answer."""
    headers = {"Authorization": f"Bearer {token}"} | ({"If-None-Match": etag} if etag else {})
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("ETag", "")


def is_up(port: int, token: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        status, body, _ = get(port, "/v1/jobs", token)
        if status != 200:
            raise SystemExit(f"The first answer is {status}: {body[:1000]!r}")
        return True
    return False


@contextlib.contextmanager
def serving(name: str, environment: dict[str, str], token: str, folder: Path) -> Iterator[Server]:
    """The server while the block runs. It counts as started with its first answer to a page of jobs."""
    (port,) = free_ports(1)
    given = environment | {"PORT": str(port), "WEB_WORKERS": "1"}
    given["DJANGO_SETTINGS_MODULE"] = SETTINGS_MODULES.get(name, "jobs_gateway.settings")
    log = folder / f"{name}.log"
    began = perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(port=port) for part in COMMANDS[name]],
            cwd=ROOT,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: is_up(port, token), process, log)
        yield Server(name, port, process, perf_counter() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own group: the worker with it
            process.wait()
