"""Rate limits: requests a minute of a tenant, failed credentials a minute of an address. A limit of 0 costs nothing.

Requests are counted in fixed windows by atomic increments: of any number of parallel requests exactly the limit pass in
a window. A caller can send up to twice the limit in a short time around the border of two windows.
"""

from __future__ import annotations

import hmac
import logging
import math
from functools import lru_cache
from time import monotonic, time
from typing import NamedTuple

from django.core.cache import caches
from django.http import HttpRequest
from rest_framework import exceptions

from tenants.callers import Caller
from tenants.fast_settings import settings
from tenants.proxies import client_address
from tenants.shared_cache import SharedCache, shared_cache

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60
# After the cache failed, requests are rejected immediately for a while instead of each waiting for the time-out.
PAUSE_SECONDS = 1.0


class RateLimited(exceptions.APIException):
    """Over a limit; ``wait`` seconds until its window ends."""

    status_code = 429
    default_code = "RATE_LIMITED"

    def __init__(self, detail: str, wait: int) -> None:
        super().__init__(f"{detail} Try again in {wait} second{'' if wait == 1 else 's'}.")
        self.wait = wait


class LimitsUnavailable(exceptions.APIException):
    """The cache is down. Requests that cannot be counted are refused, not let through."""

    status_code = 503
    default_code = "UNAVAILABLE"
    default_detail = "The gateway cannot count requests right now. Try again in a few seconds."
    wait = math.ceil(PAUSE_SECONDS)


class Rate(NamedTuple):
    """A caller's count in the current window of one limit."""

    policy: str
    limit: int
    used: int
    seconds_left: int

    @property
    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers writes them."""
        return {
            "RateLimit-Policy": f'"{self.policy}";q={self.limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"{self.policy}";r={max(0, self.limit - self.used)};t={self.seconds_left}',
        }


async def count_request(request: HttpRequest, caller: Caller) -> None:
    """Counts a request of the caller's tenant. Raises RateLimited over the limit, LimitsUnavailable if the cache is
    down."""
    if settings.RATE_LIMIT_PER_TENANT:
        rate = await _count(request, "tenant", str(caller.tenant_id), settings.RATE_LIMIT_PER_TENANT)
        if rate.used > rate.limit:
            raise RateLimited(f"This tenant has used up its requests of this minute, {rate.limit}.", rate.seconds_left)


async def count_failure(request: HttpRequest) -> None:
    """Counts a failed credential of the client's address. Raises as :func:`count_request` does.

    Over the limit only failures are rejected: many clients may share an address, so a valid credential always works.
    """
    if settings.RATE_LIMIT_FAILED_PER_ADDRESS:
        rate = await _count(request, "failed", client_address(request), settings.RATE_LIMIT_FAILED_PER_ADDRESS)
        if rate.used > rate.limit:
            raise RateLimited(
                f"Too many credentials from here failed in this minute, over {rate.limit}.", rate.seconds_left
            )


@lru_cache(maxsize=10_000)
def _phase(secret_key: str, who: str) -> int:
    """The offset of the windows of ``who``, in seconds. It differs, so that waiting clients do not all return at once.
    It is a keyed hash, so that a tenant cannot find out the number of its row.
    """
    return int.from_bytes(hmac.digest(secret_key.encode(), f"rate:{who}".encode(), "sha256")[:4]) % WINDOW_SECONDS


async def _count(request: HttpRequest, policy: str, who: str, limit: int) -> Rate:
    window, seconds_in = divmod(time() + _phase(settings.SECRET_KEY, who), WINDOW_SECONDS)
    used = await _counter.increment(f"rate:{policy}:{who}:{int(window)}")
    rate = Rate(policy, limit, used, math.ceil(WINDOW_SECONDS - seconds_in))
    request.rate = rate  # type: ignore[attr-defined]  # the headers of the response, whatever its status
    return rate


class _Counter:
    """Counts in the cache that ``CACHE_URL`` names, or in this process."""

    def __init__(self, cache: SharedCache = shared_cache) -> None:
        self._paused_until = 0.0
        self._shared_cache = cache

    async def increment(self, key: str) -> int:
        """The count under ``key`` with this one. Raises LimitsUnavailable."""
        if monotonic() < self._paused_until:
            raise LimitsUnavailable
        cache = caches["default"]
        try:
            if self._shared_cache.is_shared():
                return await self._increment_redis(self._shared_cache.key(key))
            cache.add(key, 0, timeout=2 * WINDOW_SECONDS)  # in memory: nothing to wait for
            return cache.incr(key)
        except Exception as error:  # every cache has exceptions of its own
            self._paused_until = monotonic() + PAUSE_SECONDS
            logger.error("The cache that counts requests did not answer: %s", error)
            raise LimitsUnavailable from error

    async def _increment_redis(self, key: str) -> int:
        async with self._shared_cache.connection().pipeline(transaction=True) as pipeline:
            # The key outlives its window, so that it cannot expire while it is counted in.
            pipeline.incr(key).expire(key, 2 * WINDOW_SECONDS)
            used, _ = await pipeline.execute()
        return int(used)


_counter = _Counter()
