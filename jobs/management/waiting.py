"""Waits while the database is away, as during a failover, and goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from django.conf import settings
from django.db import connection

from jobs.management.errors import DATABASE_ERRORS, reason
from jobs.management.stopping import Stop
from jobs.postgresql.base import ConnectionEnded

Value = TypeVar("Value")

RETRY_SECONDS = 1.0


class DatabaseWait:
    """Repeats what a lost connection has ended, for ``DATABASE_WAIT_SECONDS`` from the first failure on.

    Then, and when a stop is requested, it raises the error. ``say`` writes a line for people.
    """

    def __init__(self, stop: Stop, say: Callable[[str], None]) -> None:
        self.stop = stop
        self.say = say
        self._failed_at: float | None = None

    def run(self, work: Callable[[], Value]) -> Value:
        """The result of ``work``, which must be safe to repeat."""
        while True:
            try:
                value = work()
            except DATABASE_ERRORS as error:
                self._pause(error)
            else:
                self._succeeded()
                return value

    def iterate(self, remaining: Callable[[], Iterator[Value]]) -> Iterator[Value]:
        """The items of ``remaining()``, which is called again after a failure and begins after the last item."""
        items = remaining()
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except DATABASE_ERRORS as error:
                self._pause(error)
                items = remaining()
            else:
                self._succeeded()
                yield item

    def _pause(self, error: Exception) -> None:
        if not isinstance(error, ConnectionEnded):
            raise error
        connection.close()
        now = time.monotonic()
        if self._failed_at is None:
            self._failed_at = now
            self.say(f"The database is away, waiting {settings.DATABASE_WAIT_SECONDS:g} s for it: {reason(error)}")
        self.stop.pause(min(RETRY_SECONDS, self._failed_at + settings.DATABASE_WAIT_SECONDS - now))
        if self.stop.requested or time.monotonic() - self._failed_at >= settings.DATABASE_WAIT_SECONDS:
            raise error

    def _succeeded(self) -> None:
        if self._failed_at is not None:
            self.say(f"The database answers again, after {time.monotonic() - self._failed_at:.1f} s.")
            self._failed_at = None
