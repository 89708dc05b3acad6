"""Which server answers a read where ``DATABASE_REPLICA_URL`` names a streaming replica beside the primary.

The API's reads go to the replica, and to the primary where the replica is away, too far behind, or has too little to
say. Credentials go to the primary, so that a revocation is seen at once, and to the replica while the primary is away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connections

logger = logging.getLogger("jobs.replica")

Answer = TypeVar("Answer")

# How long a server may take to answer before the other one is asked. With the second it takes to find out that there is
# no connection to be had, a caller waits less than two.
ATTEMPT_SECONDS = 0.7
# How often a process looks at both servers.
LOOK_SECONDS = 1.0
# Bytes of write-ahead log: what a primary has made durable, what a replica has replayed.
_POSITION = """
    SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END) - '0/0'
"""


def replica_first(read: Callable[[str], Answer], is_enough: Callable[[Answer], bool] | None = None) -> Answer:
    """What ``read`` returns for the alias of the server that can tell.

    The replica's answer counts where ``is_enough`` finds nothing missing in it, for the primary knows the same or more.
    Raises what the primary raises, so that a caller is never told less than they were told before.
    """
    order = [settings.API_REPLICA, settings.API_DATABASE]
    return _first(order[::-1] if watch.is_behind() else order, read, is_enough)


def primary_first(read: Callable[[str], Answer | None]) -> Answer | None:
    """What ``read`` returns for the alias of the primary, or while that is away, for the replica's.

    None is no answer of a replica: what was made a moment ago it may not have yet. Raises what the primary raises then.
    """
    if not settings.API_REPLICA:
        return read(settings.API_DATABASE)
    return _first([settings.API_DATABASE, settings.API_REPLICA], read, lambda answer: answer is not None)


def _first(aliases: list[str], read: Callable[[str], Answer], is_enough: Callable[[Answer], bool] | None) -> Answer:
    errors: dict[str, Exception] = {}
    for alias in aliases:
        is_last = alias == aliases[-1]
        try:
            answer = watch.ask(alias, read, None if is_last else ATTEMPT_SECONDS)
        except (DatabaseError, InterfaceError) as error:
            if _sqlstate(error) == "57014":  # the statement was too slow: there is no sense in another server's trying
                raise
            errors[alias] = error
            continue
        if alias == settings.API_DATABASE or is_enough is None or is_enough(answer):
            return answer
    raise errors[settings.API_DATABASE]


def _sqlstate(error: Exception) -> str | None:
    """PostgreSQL's code for ``error``; None where the server did not come to say one."""
    return getattr(error.__cause__, "sqlstate", None)


def _is_away(error: Exception) -> bool:
    """Whether ``error`` is the server's, who is gone, shuts down or has no room, and not the statement's."""
    state = _sqlstate(error)
    return state is None or (state[:2] in ("08", "53", "57") and state != "57014")


class Watch:
    """What this process knows of the servers. Requests notice who is away; a thread, who is back or falls behind."""

    def __init__(self) -> None:
        # What a server that was away is asked before it may answer again.
        self.may_answer: Callable[[str], bool] = lambda alias: True
        self._away: set[str] = set()
        self._behind = False
        # Where the primary was, and when: the replica has been there since, or is behind by the time that has passed.
        self._mark: tuple[float, int] | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._look_now = threading.Event()

    def is_behind(self) -> bool:
        """Whether the replica lacks what the primary had ``DATABASE_REPLICA_MAX_LAG_SECONDS`` ago."""
        return self._behind

    def ask(self, alias: str, read: Callable[[str], Answer], seconds: float | None) -> Answer:
        """``read(alias)``, within ``seconds`` where some are given; raises at once for a server known to be away."""
        self._start()
        if alias in self._away:
            raise OperationalError(f"the database {alias!r} did not answer a moment ago")
        try:
            return _within(seconds, alias, read)
        except (DatabaseError, InterfaceError) as error:
            if _is_away(error):
                self.leave(alias, error)
            elif alias == settings.API_REPLICA and _sqlstate(error) != "57014":
                logger.warning("The replica could not answer, the primary is asked: %s", error)
            raise

    def leave(self, alias: str, error: Exception) -> None:
        """From now on the server is not asked, until it has answered the watch."""
        connection: Any = connections[alias]
        connection.close()
        if alias in self._away:
            return
        self._away.add(alias)
        logger.warning("The database %r is left alone until it answers: %s", alias, error)
        connection.pool.drain()  # the others are as dead, and each would cost a request
        self._look_now.set()

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():  # after a fork it is not
            return
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look_for_ever, name="replica-watch", daemon=True)
                self._thread.start()

    def _look_for_ever(self) -> None:
        while True:
            # The primary first: what it has now, the replica cannot have replayed before.
            primary, replica = self._look(settings.API_DATABASE), self._look(settings.API_REPLICA)
            if primary is not None and replica is not None:
                self._compare(primary, replica)
            self._look_now.wait(LOOK_SECONDS)
            self._look_now.clear()

    def _look(self, alias: str) -> int | None:
        """How far the server is; None, and it is left alone, where it does not say."""
        try:
            position = _within(ATTEMPT_SECONDS, alias, _position)
            is_back = alias in self._away and _within(ATTEMPT_SECONDS, alias, self.may_answer)
        except (DatabaseError, InterfaceError) as error:
            self.leave(alias, error)
            return None
        connections[alias].close()
        if is_back:
            self._away.discard(alias)
            logger.warning("The database %r answers again.", alias)
        return position

    def _compare(self, primary: int, replica: int) -> None:
        now = monotonic()
        if self._mark is None or replica >= self._mark[1]:
            is_behind = False
            self._mark = None if replica >= primary else (now, primary)
        else:
            is_behind = now - self._mark[0] > settings.DATABASE_REPLICA_MAX_LAG_SECONDS
        if is_behind != self._behind:
            self._behind = is_behind
            logger.warning(
                "The replica %s.", "is too far behind, the primary answers" if is_behind else "has caught up"
            )


def _within(seconds: float | None, alias: str, read: Callable[[str], Answer]) -> Answer:
    if seconds is None:
        return read(alias)
    connection: Any = connections[alias]
    with connection.patience.of(seconds):
        return read(alias)


def _position(alias: str) -> int:
    with connections[alias].cursor() as cursor:
        cursor.execute(_POSITION)
        return int(cursor.fetchone()[0])


watch = Watch()
