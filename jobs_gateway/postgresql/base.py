"""What Django imports for ``ENGINE``: its own PostgreSQL, with an end to every wait of a request.

libpq has no read timeout, and a server that hangs, unlike one that is gone, never ends a read. Time-outs of TCP do not
help: a stopped process's kernel goes on acknowledging, and a Unix socket has none.
"""

from __future__ import annotations

import select
from time import monotonic
from typing import Any

import psycopg
from django.conf import settings
from django.db.backends.postgresql import base
from psycopg.errors import _WaitTimeout
from psycopg_pool import PoolTimeout

from jobs_gateway.patience import patience

# How long a database that did not answer is left alone: of the requests of a second, one waits for it and not each.
REST_SECONDS = 1.0

_resting_until: dict[str, float] = {}


class Connection(psycopg.Connection[Any]):
    """Gives up waiting where its thread has run out of patience, and is closed then: what it was sent may still run."""

    gave_up_on_server = False

    def is_still_there(self) -> bool:
        """Whether nothing came while nobody used it: all that comes then is its end. Known without asking, in 2 µs."""
        end = select.poll()
        end.register(self.pgconn.socket, select.POLLIN)
        if end.poll(0):
            self.close()
        return not self.closed

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        seconds = patience.seconds_left if timeout is None else None
        if seconds is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, seconds)
        except _WaitTimeout:
            # The server itself would have cancelled a slow statement by then; less time left says nothing about it.
            self.gave_up_on_server = seconds * 1000 > settings.STATEMENT_TIMEOUT_MS
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer from the server in {seconds:.2f} s") from None


class DatabaseWrapper(base.DatabaseWrapper):
    # What has another server to ask waits shorter: ``tenants.replica``.
    patience = patience

    @property
    def pool(self) -> Any:
        if options := self.settings_dict["OPTIONS"].get("pool"):
            options["connection_class"] = Connection
        return super().pool

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        if patience.until is None:
            return super().get_new_connection(conn_params)
        if monotonic() < _resting_until.get(self.alias, 0.0):
            raise psycopg.OperationalError("the server did not answer a moment ago")
        try:
            connection = super().get_new_connection(conn_params)
            while not connection.is_still_there():
                self.pool.putconn(connection)  # which replaces it
                connection = super().get_new_connection(conn_params)
        except PoolTimeout:
            self._rest()
            raise
        return connection

    def connect(self) -> None:
        super().connect()
        if settings.KEEP_CONNECTIONS and patience.until is not None:
            self.close_at = None

    def close_if_unusable_or_obsolete(self) -> None:
        """Asked by Django before and after each request of this thread."""
        super().close_if_unusable_or_obsolete()
        kept: Any = self.connection
        if kept is not None and (kept.closed or not kept.is_still_there()):
            self.close()

    def is_usable(self) -> bool:
        with patience.of(1.0):  # asked after the request, in its thread
            return super().is_usable()

    def _close(self) -> None:
        if getattr(self.connection, "gave_up_on_server", False):
            self._rest()
        super()._close()  # type: ignore[misc]  # Django's own, which its stubs leave out

    def _rest(self) -> None:
        _resting_until[self.alias] = monotonic() + REST_SECONDS
