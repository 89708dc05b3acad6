"""The backend of console, commands and ledger: leaves a server that takes no writes, and says what a lost COMMIT means.

Django keeps a connection on which a statement has failed as long as it answers ``SELECT 1``. A server that was demoted
answers that, and refuses every write.
"""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Any

import psycopg
from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.backends.postgresql import base
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property
from psycopg_pool import PoolTimeout

from jobs.postgresql.connection import ConnectionWithPing

# How long a caller waits for a connection of the pool, or for a server to connect to.
POOL_WAIT_SECONDS = 30.0
READ_ONLY = "25006"
# SQLSTATEs by which a server says that it takes no writes, stops, has crashed, or takes no connections yet.
SERVER_LEFT = (READ_ONLY, "57P01", "57P02", "57P03")


class ConnectionEnded(OperationalError):
    """The connection is lost, or could not be made. What was not committed before is not in the store."""


class CommitOutcomeUnknown(ConnectionEnded):
    """The connection was lost while the server committed: it may have committed or not."""


class LeavingErrorWrapper(DatabaseErrorWrapper):
    """Django's translation of errors. An error that says that this server takes no writes also closes the
    connections to it."""

    wrapper: DatabaseWrapper

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc_value, psycopg.Error):
            if exc_value.sqlstate in SERVER_LEFT:
                self.wrapper.leave_server(is_read_only=exc_value.sqlstate == READ_ONLY)
            elif self.wrapper.connection is not None and self.wrapper.connection.closed:
                self.wrapper.drain_pool()
            if self.wrapper.is_without_connection():
                self.wrapper.errors_occurred = True
                raise ConnectionEnded(*exc_value.args) from exc_value
        super().__exit__(exc_type, exc_value, traceback)


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, settings_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(settings_dict, *args, **kwargs)
        if options := settings_dict["OPTIONS"].get("pool"):
            options.setdefault("connection_class", ConnectionWithPing)

    @cached_property
    def wrap_database_errors(self) -> DatabaseErrorWrapper:
        return LeavingErrorWrapper(self)

    def is_without_connection(self) -> bool:
        return self.connection is None or bool(self.connection.closed)

    def leave_server(self, is_read_only: bool) -> None:
        """Closes this connection and those that wait in the pool; the pool makes others.

        A primary on which only this transaction is read-only keeps them: PostgreSQL reports that it is no standby. A
        pooler in between reports nothing.
        """
        if self.is_without_connection():
            return
        if is_read_only and self.connection.pgconn.parameter_status(b"in_hot_standby") == b"off":
            return
        self.connection.close()
        self.drain_pool()

    def drain_pool(self) -> None:
        """Replaces the connections that wait in the pool: they lead to the same server."""
        if self.pool:
            self.pool.drain()

    def get_new_connection(self, conn_params: Any) -> Any:
        """Waits ``POOL_WAIT_SECONDS`` at most, of the database's settings if they have it.

        The pool stops trying after a few seconds without a server. Asking it again makes it try again.
        """
        give_up_at = monotonic() + float(self.settings_dict.get("POOL_WAIT_SECONDS", POOL_WAIT_SECONDS))
        while True:
            try:
                return super().get_new_connection(conn_params)
            except PoolTimeout:
                if monotonic() >= give_up_at:
                    raise

    def set_autocommit(self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False) -> None:
        """Makes no connection where there is none, as Django would after a transaction that lost it: a new one has the
        mode of the settings."""
        if self.connection is None and autocommit == self.settings_dict["AUTOCOMMIT"]:
            self.autocommit = autocommit
        else:
            super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)

    def commit(self) -> None:
        """Raises CommitOutcomeUnknown if the connection was lost on the way."""
        try:
            super().commit()
        except (DatabaseError, InterfaceError) as error:
            if self.is_without_connection():
                raise CommitOutcomeUnknown(
                    "The connection was lost during COMMIT: the transaction may be committed or not."
                ) from error
            raise
