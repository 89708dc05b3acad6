"""Runs the API's statements: on a small pool of connections to each PostgreSQL server, or on one SQLite connection.

Everything here belongs to the event loop of its worker. Callers limit their wait with ``asyncio.timeout``. A connection
whose read was cancelled is closed, and the pool opens another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import sqlite3
from collections.abc import Mapping
from time import monotonic, perf_counter
from typing import Any, Protocol

import psycopg
from django.conf import settings
from django.db import DatabaseError, OperationalError, connections
from prometheus_client import Histogram
from psycopg.waiting import wait_async
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from jobs.database import pipeline
from jobs.database.pipeline import Statement

logger = logging.getLogger("jobs.database")

SECONDS = Histogram(
    "gateway_database_seconds",
    "Time that reads of the API wait for a database, by its alias.",
    ["database"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)

POOL_WAIT_SECONDS = 1.0  # for a connection
# After a read waited this long without success, further reads fail immediately for a while instead of queueing.
PAUSE_SECONDS = 1.0
# How often psycopg looks for signals while it waits; a read that is cancelled does not wait for it.
WAIT_INTERVAL_SECONDS = 60.0

Row = tuple[Any, ...]


class SQLiteStatement:
    """A read with SQLite's placeholders. ``params`` are its parameters by position, ``Param``\\ s among them."""

    __slots__ = ("_params", "_wrapper", "sql")

    def __init__(self, sql: str, params: list[Any], wrapper: Any) -> None:
        self.sql = re.sub("%[s%]", lambda found: "%" if found[0] == "%%" else "?", sql)
        self._params = params
        self._wrapper = wrapper

    def bound(self, values: Mapping[str, Any]) -> list[Any]:
        return [
            part.output_field.get_db_prep_value(values[part.name], self._wrapper) if hasattr(part, "name") else part
            for part in self._params
        ]


class Reader(Protocol):
    """Runs compiled statements on one database. Raises Django's DatabaseError and its subclasses."""

    async def open(self) -> None: ...

    async def read(self, statement: Statement | SQLiteStatement, values: Mapping[str, Any]) -> list[Row]: ...

    async def close(self) -> None: ...


class PostgreSQLReader:
    """A pool of at most ``DATABASE_POOL_SIZE`` connections of this worker."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        wrapper: Any = connections.create_connection(alias)
        self._wrap_errors = wrapper.wrap_database_errors
        options = wrapper.settings_dict["OPTIONS"]["pool"]
        params = wrapper.get_connection_params()
        # These two are for cursors, which the API does not use.
        params = {name: value for name, value in params.items() if name not in ("cursor_factory", "context")}
        self._pool = AsyncConnectionPool(
            kwargs=params | {"autocommit": True},
            min_size=1,
            max_size=options["max_size"],
            timeout=POOL_WAIT_SECONDS,
            reconnect_timeout=options["reconnect_timeout"],
            name=alias,
            open=False,
        )
        # Reads wait here for a connection: a future each, where the pool itself starts a task and a timer.
        self._places = asyncio.Semaphore(options["max_size"])
        self._paused_until = 0.0
        self._observe = SECONDS.labels(alias).observe

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def drain(self) -> None:
        """Replaces every connection, those in use when they are returned."""
        await self._pool.drain()

    async def read(self, statement: Any, values: Mapping[str, Any]) -> list[Row]:
        """The rows; each column is text or None. ``values["tenant"]`` is the tenant of row security, if there is one.

        Costs one round trip. Raises OperationalError without a connection in ``POOL_WAIT_SECONDS``.
        """
        params = statement.bound(values)
        began = perf_counter()
        async with self._places:
            return await self._read(statement, params, values.get("tenant"), began)

    async def _read(
        self, statement: Statement, params: list[bytes | None], tenant: int | None, began: float
    ) -> list[Row]:
        with self._wrap_errors:
            connection = await self._connection()
            try:
                generator = pipeline.read(connection, statement, params, tenant)
                return await wait_async(generator, connection.pgconn.socket, WAIT_INTERVAL_SECONDS)
            except BaseException:
                # Unless the server itself answered with an error, its answer may still be on its way.
                if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    connection.pgconn.finish()
                raise
            finally:
                await self._pool.putconn(connection)
                self._observe(perf_counter() - began)

    async def _connection(self) -> psycopg.AsyncConnection[Any]:
        if monotonic() < self._paused_until:
            raise psycopg.OperationalError("no connection could be made a moment ago")
        try:
            while True:
                connection = await self._pool.getconn()
                if not _server_has_closed(connection):
                    return connection
                await connection.close()
                await self._pool.putconn(connection)  # the pool opens another
        except PoolTimeout:
            self._paused_until = monotonic() + PAUSE_SECONDS
            raise


def _server_has_closed(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether the server closed an idle connection: only then does it have data to read. 2 µs, without a round trip."""
    ready = select.poll()
    ready.register(connection.pgconn.socket, select.POLLIN)
    return bool(ready.poll(0))


class SQLiteReader:
    """One connection, read on the event loop: a read takes 70 to 160 µs, less than a hop to a thread and back."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._wrapper: Any = None
        self._file: tuple[int, int] | None = None
        self._deadline = 0.0
        self._observe = SECONDS.labels(alias).observe

    async def open(self) -> None:
        # Django refuses to connect on an event loop, because connecting may wait for the disk.
        await asyncio.to_thread(self._connect)

    async def close(self) -> None:
        if self._wrapper is not None:
            self._wrapper.connection.close()
            self._wrapper = None

    async def read(self, statement: Statement | SQLiteStatement, values: Mapping[str, Any]) -> list[Row]:
        """The rows. Raises OperationalError where the database's file is missing, replaced or damaged."""
        began = perf_counter()
        try:
            if self._wrapper is None or self._file != self._file_now():
                await self.close()
                await self.open()
            self._deadline = monotonic() + settings.STATEMENT_TIMEOUT_MS / 1000
            with self._wrapper.wrap_database_errors:
                return self._wrapper.connection.execute(statement.sql, statement.bound(values)).fetchall()
        except (DatabaseError, sqlite3.DatabaseError) as error:
            await self.close()
            if isinstance(error, OperationalError):
                raise
            raise OperationalError(str(error)) from error
        finally:
            self._observe(perf_counter() - began)

    def _connect(self) -> None:
        wrapper: Any = connections.create_connection(self.alias)
        file = self._file_now()
        if file is None and not wrapper.is_in_memory_db():
            raise OperationalError(f"there is no database file {wrapper.settings_dict['NAME']}")
        wrapper.inc_thread_sharing()
        wrapper.connect()
        # A read that takes too long is interrupted, as PostgreSQL does it.
        wrapper.connection.set_progress_handler(self._is_late, 10_000)
        self._wrapper, self._file = wrapper, file

    def _file_now(self) -> tuple[int, int] | None:
        """The identity of the file (device and inode), which differs for another file of this name. 2 µs."""
        try:
            found = os.stat(connections.settings[self.alias]["NAME"])  # noqa: PTH116 - the name may be Path or str
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _is_late(self) -> bool:
        return monotonic() > self._deadline


def make_reader(alias: str) -> Reader:
    engine = settings.DATABASES[alias]["ENGINE"]
    return SQLiteReader(alias) if engine.endswith("sqlite3") else PostgreSQLReader(alias)


# The readers of this process by alias. Tests put in their own, which read inside the transaction of a test.
readers: dict[str, Reader] = {}


async def reader(alias: str) -> Reader:
    """The reader of ``alias``; opened at its first use where the server does not run the lifespan protocol."""
    try:
        return readers[alias]
    except KeyError:
        readers[alias] = opened = make_reader(alias)
        await opened.open()
        return opened


def api_aliases() -> list[str]:
    """The aliases of the databases that the API reads: the primary and, if there is one, the replica."""
    return [alias for alias in (settings.API_DATABASE, settings.API_REPLICA) if alias]


async def open_readers() -> None:
    """Connects to the API's databases before the first request. A server that is down is tried again later."""
    for alias in api_aliases():
        try:
            await reader(alias)
        except DatabaseError as error:
            logger.warning("The database %r cannot be opened yet: %s", alias, error)


async def close_readers() -> None:
    while readers:
        _, each = readers.popitem()
        await each.close()


async def ping(alias: str) -> bool:
    """True if the database answers one statement. Raises DatabaseError otherwise."""
    select_1: Any = PING if settings.DATABASES[alias]["ENGINE"].endswith("postgresql") else SQLITE_PING
    await (await reader(alias)).read(select_1, {})
    return True


PING = Statement("SELECT '1'", [], {})
SQLITE_PING = SQLiteStatement("SELECT 1 FROM sqlite_master", [], None)
