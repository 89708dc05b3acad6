"""The credentials that URLs are signed with. Temporary ones are renewed before they expire."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from jobs.artifacts.signing import CannotSign
from jobs.artifacts.sigv4 import Credentials

logger = logging.getLogger("jobs.artifacts")

# The longest that the first call waits for credentials.
FIRST_SECONDS = 10.0
# How long before their end temporary credentials are renewed, as botocore does it, and how often that is checked.
RENEW_SECONDS = 15 * 60
CHECK_SECONDS = 5.0


class Found(NamedTuple):
    """``expires_at`` is in seconds since 1970; None for credentials that do not expire."""

    credentials: Credentials
    expires_at: float | None


class SigningCredentials:
    """The credentials that ``find`` finds, by botocore's chain: found, and renewed before they expire, in a thread.

    Both may take many seconds: a metadata service, STS or a program is asked. Only the first call of :meth:`now` waits
    for that, which a worker makes before it serves.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find
        self._source: Any = None  # botocore's credentials, which renew themselves when they are read
        self._found: Found | None = None
        self._problem = "The credentials of the artifact store have not been found yet."
        self._has_waited = False
        self._was_read = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def now(self) -> Found:
        """Raises CannotSign where there are none. Those that could not be renewed are returned even if they expired."""
        if not self._has_waited:
            self._wait_for_first()
        if self._found is None:
            raise CannotSign(self._problem)
        return self._found

    def _wait_for_first(self) -> None:
        with self._lock:
            if self._thread is None:
                # A weak reference: the thread ends when the storage is gone.
                self._thread = threading.Thread(
                    target=_keep_fresh, args=(weakref.ref(self),), name="credentials", daemon=True
                )
                self._thread.start()
        self._was_read.wait(FIRST_SECONDS)
        self._has_waited = True

    @property
    def is_permanent(self) -> bool:
        return self._found is not None and self._found.expires_at is None

    def is_due(self) -> bool:
        """Whether they are to be read again."""
        if self._found is None:
            return True
        return self._found.expires_at is not None and time.time() > self._found.expires_at - RENEW_SECONDS

    def read(self) -> None:
        """Reads them, or logs once why they cannot be read."""
        problem = ""
        try:
            if self._source is None:
                self._source = self._find()
            frozen = self._source and self._source.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001 - of programs, files, services, and of credentials that expired
            problem = f"The credentials of the artifact store cannot be loaded or refreshed ({type(error).__name__})."
        else:
            if frozen and frozen.access_key and frozen.secret_key:
                # botocore has no public name for the expiry; permanent credentials do not have the attribute.
                expiry = getattr(self._source, "_expiry_time", None)
                credentials = Credentials(frozen.access_key, frozen.secret_key, frozen.token)
                self._found = Found(credentials, expiry and expiry.timestamp())
            else:
                problem = (
                    "There are no credentials for the artifact store. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                    "or give this machine an IAM role."
                )
        if problem and problem != self._problem:
            logger.error("%s", problem)
        self._problem = problem
        self._was_read.set()


def _keep_fresh(owner: weakref.ref[SigningCredentials]) -> None:
    """Compares times of day: a timer stands still while a machine is suspended."""
    while (credentials := owner()) is not None:
        if credentials.is_due():
            credentials.read()
        if credentials.is_permanent:
            return
        del credentials  # while this thread sleeps
        time.sleep(CHECK_SECONDS)
