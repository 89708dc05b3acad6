"""The caller of a request, and the cache of verified credentials."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic, time
from typing import ClassVar, NamedTuple

from tenants.fast_settings import settings

# The maximum of ``TOKEN_CACHE_SECONDS``.
MAX_CACHE_SECONDS = 5
# About 5 MB. Only valid credentials are cached, so an attacker cannot fill it.
MAX_CACHED_CREDENTIALS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant that a credential stands for; ``request.user`` of the API."""

    tenant_id: int
    slug: str
    storage_prefix: str
    token_prefix: str | None  # of the gateway token; None for a Shopify session token
    is_authenticated: ClassVar[bool] = True


class RejectedToken(NamedTuple):
    """Whose token was rejected: that of a prefix that exists. No response contains it."""

    tenant_id: int
    token_prefix: str


class CredentialRejected(Exception):
    """The credential is not valid. ``reason`` is one or two words for the operator. No response contains it."""

    def __init__(self, reason: str, token: RejectedToken | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.token = token


class VerifiedCredential(NamedTuple):
    """A credential's caller, and the Unix time at which it expires."""

    caller: Caller
    expires_at: float = math.inf


LookUp = Callable[[str, bytes], Awaitable[VerifiedCredential]]
# The result of a look-up that is shared: the caller, a rejection, or None if it failed and each waiting request tries
# again.
Outcome = Caller | CredentialRejected | None


class CredentialCache:
    """Verified credentials by their hash; rejections are not cached. One cache a process.

    A change by another process is noticed after ``TOKEN_CACHE_SECONDS`` at the latest. Concurrent look-ups of one
    credential share one statement.
    """

    def __init__(self) -> None:
        self._cached: dict[bytes, tuple[Caller, float, float]] = {}
        self._pending: dict[bytes, asyncio.Future[Outcome]] = {}
        self._generation = 0

    async def caller(self, credential: str, look_up: LookUp, max_age: float = MAX_CACHE_SECONDS) -> Caller:
        """The caller of an ASCII ``credential``; ``look_up`` gets it with its SHA-256 if it is not cached.

        A look-up that is older than ``max_age`` seconds is made again. Raises CredentialRejected, and what ``look_up``
        raises.
        """
        digest = hashlib.sha256(credential.encode("ascii")).digest()
        if cached := self._cached.get(digest):
            caller, cached_at, expires_at = cached
            if monotonic() - cached_at < min(settings.TOKEN_CACHE_SECONDS, max_age) and time() < expires_at:
                return caller
        while pending := self._pending.get(digest):
            outcome = await asyncio.shield(pending)
            if isinstance(outcome, CredentialRejected):
                raise CredentialRejected(outcome.reason, outcome.token)
            if outcome is not None:
                return outcome
        return await self._look_up(credential, digest, look_up)

    async def _look_up(self, credential: str, digest: bytes, look_up: LookUp) -> Caller:
        generation = self._generation
        self._pending[digest] = pending = asyncio.get_running_loop().create_future()
        outcome: Outcome = None
        try:
            verified = await look_up(credential, digest)
            outcome = verified.caller
        except CredentialRejected as rejection:
            outcome = rejection
            raise
        finally:
            # Removed first, so that requests which see the failure start a look-up of their own.
            if self._pending.get(digest) is pending:
                del self._pending[digest]
            pending.set_result(outcome)
        # The look-up may have read the row before a change that was made meanwhile.
        if settings.TOKEN_CACHE_SECONDS > 0 and generation == self._generation:
            if len(self._cached) >= MAX_CACHED_CREDENTIALS:
                self._cached.clear()
            self._cached[digest] = (verified.caller, monotonic(), verified.expires_at)
        return verified.caller

    def clear(self) -> None:
        """Every credential is looked up again at its next use. May be called from any thread."""
        self._generation += 1
        self._cached.clear()
        # Later requests must not share a look-up that began before the change.
        self._pending.clear()


credential_cache = CredentialCache()
