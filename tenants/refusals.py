"""Refused requests of each tenant, for the console: written in a thread, in batches, best effort.

Equal refusals are one row with a number and the time of the last, so that an attacker who knows the prefix of a token
adds a few rows at most, however many requests are sent. A refusal that belongs to no tenant is not kept.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import DatabaseError, IntegrityError, InterfaceError, connections
from django.db.models import F
from django.utils import timezone

from tenants.models import Refusal

logger = logging.getLogger(__name__)

# Between two writes of a process. What is not written when it ends is lost.
FLUSH_SECONDS = 5.0
# Different refusals that one process holds between two writes. Further ones are dropped.
MAX_HELD = 500
# Rows whose last refusal is older are removed.
KEPT = timedelta(days=30)
CLEAN_SECONDS = 3600.0


class RefusalKey(NamedTuple):
    """``route`` is the pattern of a route; ``reason`` and ``token_prefix`` can be empty."""

    tenant_id: int
    route: str
    status: int
    reason: str
    token_prefix: str


class RefusalLog:
    """Refusals since the last write, and a daemon thread that writes them. It starts with the first refusal."""

    def __init__(self) -> None:
        self._held: dict[RefusalKey, tuple[int, datetime]] = {}
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None

    def note(self, key: RefusalKey) -> None:
        """Counts a refusal of now. It never waits for the database and never fails. 1 µs."""
        with self._lock:
            if key not in self._held and len(self._held) >= MAX_HELD:
                return
            number, _ = self._held.get(key, (0, None))
            self._held[key] = (number + 1, timezone.now())
            if self._writer is None or not self._writer.is_alive():  # also after a fork, which threads do not survive
                self._writer = threading.Thread(target=self._write, name="refusals", daemon=True)
                self._writer.start()

    def flush(self) -> None:
        """Writes what is held. A row that cannot be written is dropped."""
        with self._lock:
            held, self._held = self._held, {}
        for key, (number, at) in held.items():
            try:
                _add(key, number, at)
            except (DatabaseError, InterfaceError) as error:  # the tenant can be erased meanwhile
                logger.debug("A refusal was not recorded: %s", error)

    def _write(self) -> None:
        clean_at = time.monotonic()
        while True:
            time.sleep(FLUSH_SECONDS)
            try:
                self.flush()
                if time.monotonic() >= clean_at:
                    Refusal.objects.filter(last_at__lt=timezone.now() - KEPT).delete()
                    clean_at = time.monotonic() + CLEAN_SECONDS
            except (DatabaseError, InterfaceError) as error:
                logger.debug("Old refusals were not removed: %s", error)
            finally:
                connections.close_all()


def _add(key: RefusalKey, number: int, at: datetime) -> None:
    rows = Refusal.objects.filter(**key._asdict())
    more = {"times": F("times") + number, "last_at": at}
    if rows.update(**more):
        return
    try:
        Refusal.objects.create(**key._asdict(), times=number, first_at=at, last_at=at)
    except IntegrityError:  # another process has made it meanwhile
        rows.update(**more)


refusal_log = RefusalLog()


def note_refusal(key: RefusalKey) -> None:
    if settings.RECORD_REFUSALS:
        refusal_log.note(key)
