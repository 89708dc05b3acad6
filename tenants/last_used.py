"""Writes ``ApiToken.last_used_at`` in a thread: at most once an hour for each token, best effort."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from queue import Full, Queue

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections
from django.db.models import Q
from django.utils import timezone

from tenants.models import ApiToken

logger = logging.getLogger(__name__)

PRECISION = timedelta(hours=1)


class LastUsed:
    """A queue of token ids, and a daemon thread that writes them. The thread starts with the first id."""

    def __init__(self) -> None:
        self._used: Queue[int] = Queue(maxsize=1000)
        self._writer: threading.Thread | None = None
        self._starting = threading.Lock()

    def note(self, token_id: int, last_used_at: datetime | None) -> None:
        """Records that ``token_id`` was used now. Never waits and never fails. If it is lost, the next use records
        it."""
        if not settings.RECORD_TOKEN_USE or (last_used_at and timezone.now() - last_used_at < PRECISION):
            return
        try:
            self._used.put_nowait(token_id)
        except Full:
            return
        with self._starting:
            if self._writer is None or not self._writer.is_alive():  # also after a fork, which threads do not survive
                self._writer = threading.Thread(target=self._write, name="token-last-used", daemon=True)
                self._writer.start()

    def wait(self) -> None:
        """Returns when everything recorded so far was written or discarded."""
        self._used.join()

    def _write(self) -> None:
        while True:
            token_id = self._used.get()
            try:
                now = timezone.now()
                # The condition on the hour is in the statement too, so that several processes together write once.
                stale = Q(last_used_at=None) | Q(last_used_at__lte=now - PRECISION)
                ApiToken.objects.using("default").filter(stale, pk=token_id).update(last_used_at=now)
            except (DatabaseError, InterfaceError) as error:
                logger.debug("The last use of token %s was not written: %s", token_id, error)
            finally:
                connections.close_all()
                self._used.task_done()


last_used = LastUsed()
