"""Who is calling, and the short memory of credentials that were checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, time
from typing import ClassVar, NamedTuple

from django.conf import settings

# The longest that a checked credential may be believed without asking the database again, in seconds.
LONGEST_BELIEF_SECONDS = 5
# About 5 MB. Only credentials that proved good get in, so it takes as many live ones to fill it.
MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant that a credential stands for; what ``request.user`` is on the API."""

    tenant_id: int
    slug: str
    storage_prefix: str
    token_prefix: str | None  # of the gateway token; None for a Shopify session token
    is_authenticated: ClassVar[bool] = True


class Checked(NamedTuple):
    """What a check found out: the caller, and the Unix time at which the credential expires."""

    caller: Caller
    expires_at: float = math.inf


class Memory:
    """Credentials that were checked a moment ago, by their hash; failures are never remembered.

    One of each process: what another process changes is seen after ``TOKEN_CACHE_SECONDS`` at the latest.
    """

    def __init__(self) -> None:
        self._believed: dict[bytes, tuple[Caller, float, float]] = {}
        self._generation = 0

    def caller(self, credential: str, check: Callable[[str, bytes], Checked | None]) -> Caller | None:
        """The caller behind an ASCII ``credential``; ``check`` gets it with its SHA-256 when it has to be looked up."""
        digest = hashlib.sha256(credential.encode("ascii")).digest()
        if remembered := self._believed.get(digest):
            caller, believed_until, expires_at = remembered
            if monotonic() < believed_until and time() < expires_at:
                return caller
        generation = self._generation
        checked = check(credential, digest)
        if checked is None:
            return None
        # What was forgotten while the check ran may be the very thing that it read.
        if settings.TOKEN_CACHE_SECONDS > 0 and generation == self._generation:
            if len(self._believed) >= MOST_REMEMBERED:
                self._believed.clear()
            belief_seconds = min(settings.TOKEN_CACHE_SECONDS, LONGEST_BELIEF_SECONDS)
            self._believed[digest] = (checked.caller, monotonic() + belief_seconds, checked.expires_at)
        return checked.caller

    def forget(self) -> None:
        """Every credential is looked up again at its next use."""
        self._generation += 1
        self._believed.clear()


memory = Memory()
