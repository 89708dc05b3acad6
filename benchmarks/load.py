"""The load generator: prepared requests, sent in turn over connections that stay open, from one process and thread.

It uses raw sockets and parses only status and length of a response, so that it needs little CPU. Its CPU time is
measured and reported with each figure.
"""

from __future__ import annotations

import re
import selectors
import socket
from time import perf_counter, process_time
from typing import NamedTuple

CONNECTIONS = 8
DRAIN_SECONDS = 30  # that outstanding responses are waited for at the end
MAX_ERRORS = 1_000  # after that many the run is given up
RECEIVE_BYTES = 1 << 18

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Request(NamedTuple):
    path: str
    token: str
    etag: str = ""  # sent as If-None-Match

    def encoded(self, port: int) -> bytes:
        condition = f"If-None-Match: {self.etag}\r\n" if self.etag else ""
        return (
            f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {self.token}\r\n"
            f"{condition}\r\n"
        ).encode()


class Result(NamedTuple):
    """The figures of one run. ``cpu_us``
    is the generator's own CPU time, user and system, in microseconds a request."""

    requests: int  # answered with 200 or 304
    not_modified: int  # of these, with 304
    errors: int  # other statuses, closed connections and missing responses
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


class Connection:
    """One connection with at most one outstanding request."""

    __slots__ = ("head", "remaining", "sent_at", "socket", "status")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DRAIN_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.status = 0
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        self.head = b""
        self.remaining = -1
        self.sent_at = perf_counter()
        if self.socket.send(request) != len(request):
            raise ConnectionError("a request did not fit into the socket's buffer")

    def receive(self) -> bool:
        """Reads what has come; True when the response is complete. Raises ConnectionError when it cannot be."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("closed by the server")
        if self.remaining < 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return False
            self.status = int(self.head[9:12])
            length = _CONTENT_LENGTH.search(self.head, 0, end + 2)
            if length is None and self.status != 304:
                raise ConnectionError("a response without Content-Length")
            body = int(length[1]) if length and self.status != 304 else 0
            self.remaining = body - (len(self.head) - end - 4)
        else:
            self.remaining -= len(data)
        if self.remaining < 0:
            raise ConnectionError("more than the response")
        return self.remaining == 0


class Generator:
    """Sends ``requests`` in turn, over and over, from as many connections, until ``deadline``."""

    def __init__(self, port: int, requests: list[bytes], deadline: float) -> None:
        self.port = port
        self.requests = requests
        self.deadline = deadline
        self.selector = selectors.DefaultSelector()
        self.sent = 0
        self.errors = 0
        self.not_modified = 0
        self.took: list[float] = []  # seconds of each response with 200 or 304
        self.ended_at = perf_counter()  # when the last response was complete

    def connect(self) -> None:
        connection = Connection(self.port)
        self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        self.send(connection)

    def send(self, connection: Connection) -> None:
        connection.send(self.requests[self.sent % len(self.requests)])
        self.sent += 1

    def close(self, connection: Connection) -> None:
        self.selector.unregister(connection.socket)
        connection.socket.close()

    def run(self) -> None:
        """Returns when the deadline has passed and no response is outstanding, or after too many errors."""
        while connections := self.selector.get_map():
            ready = self.selector.select(DRAIN_SECONDS)
            if not ready:
                self.errors += len(connections)
                break
            for key, _ in ready:
                self.serve(key.data)
            if self.errors > MAX_ERRORS:
                break
        for key in list(self.selector.get_map().values()):
            self.close(key.data)
        self.selector.close()

    def serve(self, connection: Connection) -> None:
        """Reads from a connection that can be read, and sends its next request when the response is complete."""
        try:
            if connection.receive():
                self.record(connection)
                if self.ended_at < self.deadline:
                    self.send(connection)
                else:
                    self.close(connection)
        except OSError:
            self.errors += 1
            self.close(connection)
            if perf_counter() < self.deadline:
                self.connect()

    def record(self, connection: Connection) -> None:
        self.ended_at = perf_counter()
        if connection.status in (200, 304):
            self.took.append(self.ended_at - connection.sent_at)
            self.not_modified += connection.status == 304
        else:
            self.errors += 1


def drive(port: int, requests: list[Request], seconds: float, connections: int = CONNECTIONS) -> Result:
    """Load for ``seconds``, and until the outstanding responses have come.

    Raises SystemExit after ``MAX_ERRORS`` errors or when nothing was answered, OSError where nothing listens.
    """
    texts = [request.encoded(port) for request in requests]
    cpu_before, began = process_time(), perf_counter()
    generator = Generator(port, texts, began + seconds)
    for _ in range(connections):
        generator.connect()
    generator.run()
    took = sorted(generator.took)
    if not took or generator.errors > MAX_ERRORS:
        raise SystemExit(f"port {port}, {requests[0].path}: {generator.errors} errors, {len(took)} responses")
    return Result(
        requests=len(took),
        not_modified=generator.not_modified,
        errors=generator.errors,
        rps=len(took) / (generator.ended_at - began),
        p50_ms=took[len(took) // 2] * 1000,
        p99_ms=took[len(took) * 99 // 100] * 1000,
        cpu_us=(process_time() - cpu_before) / len(took) * 1e6,
    )
