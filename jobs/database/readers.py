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
from collections import deque
from collections.abc import Mapping
from time import monotonic, perf_counter
from typing import Any, Protocol

import psycopg
from django.conf import settings
from django.db import DatabaseError, OperationalError, connections
from django.db.utils import DatabaseErrorWrapper
from prometheus_client import Histogram
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from jobs.database import pipeline
from jobs.database.pipeline import Statement
from jobs.postgresql.base import SERVER_LEFT

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
# How long a reader keeps a connection before it returns it to the pool, which then decides whether it is kept.
KEEP_SECONDS = 60.0
# How long a replica's reader stays connected to a primary before it looks for a standby.
LOOK_FOR_STANDBY_SECONDS = 10.0

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


class WatchedConnection:
    """A connection that the event loop watches from its first read to its last.

    psycopg's own wait adds the socket to the loop and removes it at each read: 146 µs of CPU for a short read, here 85.
    """

    __slots__ = ("_loop", "_poll", "_ready", "_socket", "connection", "taken_at")

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self.taken_at = monotonic()
        self._ready: asyncio.Future[Ready] | None = None
        self._socket = connection.pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._is_ready, Ready.R)

    async def run(self, generator: PQGen[list[pipeline.Row]]) -> list[pipeline.Row]:
        """What a ``generator`` of psycopg's kind returns."""
        try:
            wanted = next(generator)
            while True:
                self._ready = self._loop.create_future()
                if wanted is not Wait.R:
                    self._loop.add_writer(self._socket, self._is_ready, Ready.W)
                try:
                    ready = await self._ready
                finally:
                    self._ready = None
                    if wanted is not Wait.R:
                        self._loop.remove_writer(self._socket)
                wanted = generator.send(ready)
        except StopIteration as stop:
            rows: list[pipeline.Row] = stop.value
            return rows
        finally:
            generator.close()

    def server_has_closed(self) -> bool:
        """Whether an idle connection has something to read, which is always its end. Takes 1 µs and asks nobody."""
        return bool(self._poll.poll(0))

    def is_to_primary(self) -> bool:
        """As the server said after its latest read."""
        return self.connection.pgconn.parameter_status(b"in_hot_standby") == b"off"

    def end_watch(self) -> None:
        """Before the connection is closed, for its socket's number may be another's then. May be called again."""
        self._loop.remove_reader(self._socket)

    def _is_ready(self, ready: Ready) -> None:
        if self._ready is None:
            # It is idle. Mostly this is a late call for what a read has taken already, a moment before; else the server
            # has closed it, and it stays readable.
            if self.server_has_closed():
                self.end_watch()
        elif not self._ready.done():
            self._ready.set_result(ready)


class PostgreSQLReader:
    """A pool of at most ``DATABASE_POOL_SIZE`` connections of this worker.

    Connections are psycopg_pool's, which opens and replaces them. Between two reads they stay here for up to
    ``KEEP_SECONDS``, because taking one from the pool and returning it costs as much as a tenth of a read.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        wrapper: Any = connections.create_connection(alias)
        self._wrap_errors = DatabaseErrorWrapper(wrapper)
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
        self._idle: deque[WatchedConnection] = deque()  # the one that was used last is at the right end
        self._waiting = 0  # reads that wait for the pool
        self._drained_at = 0.0
        self._paused_until = 0.0
        self._look_at = 0.0  # when a standby is looked for, where the server is a primary
        self._observe = SECONDS.labels(alias).observe

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        while self._idle:
            await self._give_back(self._idle.popleft())
        await self._pool.close()

    async def drain(self) -> None:
        """Replaces every connection, those in use when they are returned."""
        self._drained_at = monotonic()
        await self._pool.drain()
        while self._idle:
            await self._give_back(self._idle.popleft())

    async def look_for_standby(self, is_primary: bool) -> None:
        """Replaces every connection of a replica's reader, if one of them leads to a primary, as ``is_primary`` says or
        the server itself has said.

        Not at once: it was promoted because another server hangs or is gone, and this one answers. And not often, for
        there may be no standby.
        """
        now = monotonic()
        if not is_primary and not any(watched.is_to_primary() for watched in self._idle):
            self._look_at = now + LOOK_FOR_STANDBY_SECONDS
        elif now >= self._look_at:
            self._look_at = now + LOOK_FOR_STANDBY_SECONDS
            await self.drain()

    async def read(self, statement: Any, values: Mapping[str, Any]) -> list[Row]:
        """The rows; each column is text or None. ``values["tenant"]`` is the tenant of row security, if there is one.

        Costs one round trip. A read whose connection the server ends is repeated once, on another one. Raises
        OperationalError without a connection in ``POOL_WAIT_SECONDS``.
        """
        params = statement.bound(values)
        began = perf_counter()
        is_repeated = False
        async with self._places:
            with self._wrap_errors:
                while True:
                    watched = await self._connection()
                    try:
                        return await watched.run(
                            pipeline.read(watched.connection, statement, params, values.get("tenant"))
                        )
                    except psycopg.OperationalError as error:
                        if error.sqlstate in SERVER_LEFT:
                            await self.drain()
                        if is_repeated or not watched.connection.closed:
                            raise
                        # To read again changes nothing, and the next connection may be to a server that answers.
                        is_repeated = True
                    finally:
                        await self._release(watched)
                        self._observe(perf_counter() - began)

    async def _connection(self) -> WatchedConnection:
        if monotonic() < self._paused_until:
            raise psycopg.OperationalError("no connection could be made a moment ago")
        try:
            while True:
                watched = self._idle.pop() if self._idle else await self._take()
                if not watched.server_has_closed():
                    return watched
                watched.end_watch()
                await watched.connection.close()
                await self._pool.putconn(watched.connection)  # which opens another
        except PoolTimeout:
            self._paused_until = monotonic() + PAUSE_SECONDS
            raise

    async def _take(self) -> WatchedConnection:
        self._waiting += 1
        try:
            connection = await self._pool.getconn()
        finally:
            self._waiting -= 1
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # asyncio.wait_for, with which the pool waits, loses a cancellation that comes together with the result, up
            # to Python 3.11. The task would go on, past its deadline or for ever.
            await self._pool.putconn(connection)
            raise asyncio.CancelledError
        return WatchedConnection(connection)

    async def _release(self, watched: WatchedConnection) -> None:
        """After a read. Unless the server itself answered, its answer may still be on its way: it is closed."""
        if watched.connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            await self._give_back(watched)
            return
        self._idle.append(watched)
        # The one that was idle for longest, so that the pool can close those that nobody needs.
        oldest = self._idle[0]
        if self._waiting or monotonic() > oldest.taken_at + KEEP_SECONDS or oldest.taken_at <= self._drained_at:
            await self._give_back(self._idle.popleft())

    async def _give_back(self, watched: WatchedConnection) -> None:
        watched.end_watch()
        if watched.connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            watched.connection.pgconn.finish()
        await self._pool.putconn(watched.connection)


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


async def drain(alias: str) -> None:
    """Replaces every connection to the database ``alias``."""
    found = await reader(alias)
    if isinstance(found, PostgreSQLReader):
        await found.drain()


async def ping(alias: str) -> bool:
    """True if the database answers one statement, and is no replica where it should be the primary.

    Raises DatabaseError otherwise.
    """
    if settings.DATABASES[alias]["ENGINE"].endswith("postgresql"):
        await wal_position(alias)
    else:
        await (await reader(alias)).read(SQLITE_PING, {})
    return True


class InRecovery(OperationalError):
    """What should be the primary takes no writes: it was demoted, or not promoted yet."""


async def wal_position(alias: str) -> int:
    """The server's position in the write-ahead log, in bytes: flushed by a primary, replayed by a replica.

    A replica that was promoted is left for another standby. If what should be the primary is in recovery, its
    connections are closed, and InRecovery is raised. New ones are not made to such a server (``target_session_attrs``),
    but a pooler may keep one while the server behind it changes.
    """
    found = await reader(alias)
    [(position, in_recovery)] = await found.read(WAL_POSITION, {})
    if in_recovery == "true" and alias == settings.API_DATABASE:
        await drain(alias)
        raise InRecovery(f"the server of the database {alias!r} is in recovery, so it is not the primary")
    if alias == settings.API_REPLICA and isinstance(found, PostgreSQLReader):
        await found.look_for_standby(in_recovery == "false")
    return int(position)


WAL_POSITION = Statement(
    "SELECT ((CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)"
    " - '0/0')::text, pg_is_in_recovery()::text",
    [],
    {},
)
SQLITE_PING = SQLiteStatement("SELECT 1 FROM sqlite_master", [], None)
