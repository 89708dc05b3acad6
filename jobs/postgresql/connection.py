"""A connection that ends when its server hangs, or its machine is gone."""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

Value = TypeVar("Value")

# How long a server may take for an answer before it is asked whether it is there at all, and how often after that.
SILENCE_SECONDS = 5.0
PING_SECONDS = 2  # the least that psycopg takes


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
        """Makes another connection, for libpq's own ping would hold up every thread of the process meanwhile."""
        info = self.info
        try:
            psycopg.connect(info.dsn, password=info.password, connect_timeout=PING_SECONDS).close()
        except psycopg.errors.ConnectionTimeout as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server {info.host} port {info.port} does not answer") from error
        except psycopg.OperationalError:
            pass  # it answered: that it has no connection left, for example
