"""The gateway as `make serve` runs it, in a separate process, for tests that need a real server."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from django.db import connection

from jobs.management.commands.serve import server_command
from tests.leak_checks import watch
from tests.servers import START_SECONDS, STOP_SECONDS, ServerFailed, answers, free_ports, temporary_folder, wait_until

ROOT = Path(__file__).resolve().parent.parent


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    rest: bytes  # what came after the answer, on a connection that was to be closed


class ClosedUnread(ConnectionError):
    """The server closed the connection without a byte of a response."""


@dataclass
class Gateway:
    port: int
    log: Path
    pid: int

    def workers(self) -> set[str]:
        """The ids of the server's worker processes, whichever of its threads has started them."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        commands = {child: read_proc(f"/proc/{child}/cmdline") for task in tasks for child in read_proc(task).split()}
        return {child for child, command in commands.items() if command and "tracker" not in command}

    def reload(self) -> None:
        """As systemd does it; returns when each worker is a new one."""
        before = self.workers()
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + START_SECONDS
        while before & self.workers() or len(self.workers()) != len(before):
            if time.monotonic() > deadline:
                raise ServerFailed(f"It was not reloaded:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def send(self, request: bytes, timeout: float = 10) -> Answer:
        """The answer to raw bytes, read until the server closes: send ``Connection: close``."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(request)
            received = b""
            try:
                while chunk := connection.recv(65536):
                    received += chunk
            except ConnectionResetError:  # how a connection is closed with something in it that nobody has read
                if received:
                    raise
        if not received:
            raise ClosedUnread
        head, _, rest = received.partition(b"\r\n\r\n")
        status_line, _, fields = head.partition(b"\r\n")
        headers = http.client.HTTPMessage()
        for line in fields.split(b"\r\n"):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name] = value.strip()
        length = 0 if request.startswith(b"HEAD ") else int(headers.get("Content-Length", 0))
        return Answer(int(status_line.split(b" ")[1]), headers, rest[:length], rest[length:])

    def get(self, path: str | bytes, token: str = "", method: str = "GET", **headers: str | bytes) -> Answer:
        """One request on a new connection; ``If_None_Match="*"`` sends ``If-None-Match: *``."""
        given = {"Host": "localhost", "Connection": "close"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if token:
            given.setdefault("Authorization", f"Bearer {token}")
        lines = [b"%b %b HTTP/1.1" % (method.encode(), raw(path))]
        lines += [b"%b: %b" % (name.encode(), raw(value)) for name, value in given.items()]
        return self.send(b"\r\n".join([*lines, b"", b""]))


def read_proc(path: str | Path) -> str:
    """A file of ``/proc``; empty for a process that has just ended."""
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def raw(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def database_of_this_test() -> str:
    """What ``DATABASE_URL`` takes for the database that committed test data is in."""
    config = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{config['NAME']}"
    return f"postgres://{config['USER']}@/{config['NAME']}?host={config['HOST'] or config['OPTIONS']['host']}"


@contextlib.contextmanager
def serving(database_url: str, workers: int = 1, **environment: str) -> Iterator[Gateway]:
    """A gateway that answers from ``database_url``, which is migrated, while the block runs."""
    (port,) = free_ports(1)
    with temporary_folder("jgw-served-") as folder:
        log = folder / "log"
        given = os.environ | {"DATABASE_URL": database_url, "DATABASE_API_URL": "", "DATA_DIR": str(folder)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                server_command("127.0.0.1", port, workers),
                cwd=ROOT,
                env=given | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/livez"), process, log)
            yield Gateway(port, log, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its own group: the workers with it
                process.wait()
            watch.record("the log of a process", log.read_text(errors="replace"))
