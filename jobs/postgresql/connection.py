"""A connection that ends when its server hangs, or its machine is gone."""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Ready, Wait

Value = TypeVar("Value")

# How long a server may take for an answer before it is asked whether it is there at all, and how often after that.
SILENCE_SECONDS = 5.0
PING_SECONDS = 2


class ConnectionWithPing(psycopg.Connection[Any]):
    """Raises OperationalError if the server neither answers nor takes a new connection.

    A statement may take as long as it likes. But a server that is frozen keeps its connections open, and a caller would
    wait for its answer until it continues.
    """

    def wait(self, gen: PQGen[Value], *args: Any, **kwargs: Any) -> Value:
        return super().wait(self._with_ping(gen), *args, **kwargs)

    def _with_ping(self, gen: PQGen[Value]) -> Generator[Wait, Ready | int, Value]:
        try:
            wanted = next(gen)
            ask_at = monotonic() + SILENCE_SECONDS
            while True:
                ready = yield wanted
                if ready:
                    ask_at = monotonic() + SILENCE_SECONDS
                elif monotonic() > ask_at:
                    self._require_server()
                    ask_at = monotonic() + SILENCE_SECONDS
                wanted = gen.send(ready)
        except StopIteration as stop:
            return stop.value

    def _require_server(self) -> None:
        pgconn = self.pgconn
        server = make_conninfo(
            host=self.info.host, hostaddr=pgconn.hostaddr.decode(), port=self.info.port, connect_timeout=PING_SECONDS
        )
        if pq.PGconn.ping(server.encode()) == pq.Ping.NO_RESPONSE:
            pgconn.finish()
            raise psycopg.OperationalError(f"the server {self.info.host} port {self.info.port} does not answer")
