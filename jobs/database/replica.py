"""Chooses the server of a read if ``DATABASE_REPLICA_URL`` names a streaming replica.

The API's reads go to the replica, and to the primary where the replica is down, too far behind, or lacks the answer.
Credentials go to the primary, so that a revocation is seen at once, and to the replica while the primary is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError

from jobs.database import readers
from tenants.fast_settings import settings

logger = logging.getLogger("jobs.replica")

Value = TypeVar("Value")
Read = Callable[[str], Awaitable[Value]]

# How long a server may take before the other one is read. A client waits less than two seconds in all.
ATTEMPT_SECONDS = 0.7
# How often each worker checks a server, and one that is down.
CHECK_SECONDS = 1.0
RECHECK_SECONDS = 0.25
# How long the primary may take to show what a synchronous standby shows already, and how often it is asked.
CATCH_UP_SECONDS = 0.3
CATCH_UP_INTERVAL_SECONDS = 0.03


async def replica_first(read: Read[Value], is_enough: Callable[[Value], bool] | None = None) -> Value:
    """Reads from the replica, or from the primary if that fails or ``is_enough`` rejects the replica's result.

    ``read`` gets the alias of the server. Raises what the primary raises: the primary never has less than the replica.
    """
    order = [settings.API_REPLICA, settings.API_DATABASE]
    return await _first(order[::-1] if monitor.is_behind() else order, read, is_enough)


def _is_some(value: object) -> bool:
    return value is not None


async def primary_first(read: Read[Value], is_enough: Callable[[Value], bool] = _is_some) -> Value:
    """Reads from the primary or, while that is down, from the replica.

    If ``is_enough`` rejects the replica's result, which may lack the newest rows, the error of the primary is raised.
    """
    if not settings.API_REPLICA:
        return await read(settings.API_DATABASE)
    return await _first([settings.API_DATABASE, settings.API_REPLICA], read, is_enough)


async def primary_caught_up(
    read: Read[Value], has_caught_up: Callable[[Value], bool], seconds: float = CATCH_UP_SECONDS
) -> Value:
    """The primary's value for a caller who has seen more than the primary has.

    A synchronous standby shows a commit a moment before its primary does, which waits for the standby's answer. So the
    primary is asked again for so many seconds. If the replica has then what the primary lacks, nothing is lost,
    and OperationalError is raised: the caller asks again later.
    """
    give_up_at = monotonic() + seconds
    while True:
        await asyncio.sleep(CATCH_UP_INTERVAL_SECONDS)
        value = await monitor.ask(settings.API_DATABASE, read, None)
        if has_caught_up(value):
            return value
        if monotonic() > give_up_at:
            break
    try:
        replicas = await monitor.ask(settings.API_REPLICA, read, ATTEMPT_SECONDS)
    except (DatabaseError, InterfaceError):
        return value
    if has_caught_up(replicas):
        raise OperationalError("the primary does not show yet what its replica has")
    return value


async def _first(aliases: list[str], read: Read[Value], is_enough: Callable[[Value], bool] | None) -> Value:
    errors: dict[str, Exception] = {}
    for alias in aliases:
        is_last = alias == aliases[-1]
        try:
            value = await monitor.ask(alias, read, None if is_last else ATTEMPT_SECONDS)
        except (DatabaseError, InterfaceError) as error:
            if _sqlstate(error) == "57014":  # the statement was too slow, and would be so on the other server
                raise
            errors[alias] = error
            continue
        if alias == settings.API_DATABASE or is_enough is None or is_enough(value):
            return value
    raise errors[settings.API_DATABASE]


def _sqlstate(error: Exception) -> str | None:
    """PostgreSQL's code for ``error``; None where the server sent none."""
    return getattr(error.__cause__, "sqlstate", None)


def _server_is_down(error: Exception) -> bool:
    """Whether ``error`` is about the server (unreachable, shutting down, out of connections) and not about the
    statement."""
    state = _sqlstate(error)
    return state is None or (state[:2] in ("08", "53", "57") and state != "57014")


async def _always(alias: str) -> bool:
    return True


class ReplicaMonitor:
    """The state of both servers, or of the only one, in this worker. Requests detect that a server is down; a task a
    server detects that it is up again, or behind, or that the primary was demoted behind a pooler."""

    def __init__(self) -> None:
        # The check that a server has to pass after it was down, before it is used again.
        self.is_ready: Callable[[str], Awaitable[bool]] = _always
        self._down: set[str] = set()
        self._behind = False
        # Where the primary was in its write-ahead log when it was last checked.
        self._primary: int | None = None
        # A time, and the primary's position at that time. If the replica has not reached it, it is behind by at least
        # the time since then.
        self._mark: tuple[float, int] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._check_now: dict[str, asyncio.Event] = {}

    def start(self) -> None:
        """Starts the tasks unless they run."""
        for alias in readers.api_aliases():
            task = self._tasks.get(alias)
            if task is None or task.done():
                self._check_now[alias] = asyncio.Event()
                self._tasks[alias] = asyncio.get_running_loop().create_task(self._check_for_ever(alias))

    def is_behind(self) -> bool:
        """Whether the replica lacks what the primary had ``DATABASE_REPLICA_MAX_LAG_SECONDS`` ago."""
        return self._behind

    async def ask(self, alias: str, read: Read[Value], seconds: float | None) -> Value:
        """``read(alias)``, within ``seconds`` if given. Raises immediately for a server that is marked as down."""
        self.start()
        if alias in self._down:
            raise OperationalError(f"the database {alias!r} did not answer a moment ago")
        try:
            return await _within(seconds, alias, read)
        except (DatabaseError, InterfaceError) as error:
            if _server_is_down(error):
                await self._leave(alias, error)
            elif alias == settings.API_REPLICA and _sqlstate(error) != "57014":
                logger.warning("The replica could not answer, the primary is asked: %s", error)
            raise

    def mark_down(self, alias: str, error: Exception) -> None:
        """The server is not used until it has answered the monitor."""
        self._down.add(alias)
        logger.warning("The database %r is marked as down: %s", alias, error)
        if alias in self._check_now:
            self._check_now[alias].set()

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _leave(self, alias: str, error: Exception) -> None:
        """Marks the server as down, and replaces its connections: a server that hangs keeps them all open."""
        if alias not in self._down:
            self.mark_down(alias, error)
            await readers.drain(alias)

    async def _check_for_ever(self, alias: str) -> None:
        check_now = self._check_now[alias]
        while True:
            await self._check(alias)
            try:
                async with asyncio.timeout(RECHECK_SECONDS if alias in self._down else CHECK_SECONDS):
                    await check_now.wait()
            except TimeoutError:
                pass
            check_now.clear()

    async def _check(self, alias: str) -> None:
        """Marks the server as down if it does not answer, else notes its position."""
        try:
            position = await _within(ATTEMPT_SECONDS, alias, readers.wal_position)
            is_back = alias in self._down and await _within(ATTEMPT_SECONDS, alias, self.is_ready)
        except (DatabaseError, InterfaceError) as error:
            await self._leave(alias, error)
            return
        if is_back:
            self._down.discard(alias)
            logger.warning("The database %r answers again.", alias)
        if alias == settings.API_DATABASE:
            self._primary = position
        elif self._primary is not None and settings.API_DATABASE not in self._down:
            self._compare(self._primary, position)

    def _compare(self, primary: int, replica: int) -> None:
        now = monotonic()
        # A primary before the mark is another one, and lacks what the one before it had.
        if self._mark is None or replica >= self._mark[1] or primary < self._mark[1]:
            is_behind = False
            self._mark = None if replica >= primary else (now, primary)
        else:
            is_behind = now - self._mark[0] > settings.DATABASE_REPLICA_MAX_LAG_SECONDS
        if is_behind != self._behind:
            self._behind = is_behind
            logger.warning(
                "The replica %s.", "is too far behind, the primary answers" if is_behind else "has caught up"
            )


async def _within(seconds: float | None, alias: str, read: Read[Value]) -> Value:
    if seconds is None:
        return await read(alias)
    try:
        async with asyncio.timeout(seconds):
            return await read(alias)
    except TimeoutError as error:
        raise OperationalError(f"no answer from the database {alias!r} in {seconds} s") from error


monitor = ReplicaMonitor()
