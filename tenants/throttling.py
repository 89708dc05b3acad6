"""Rate limits: requests a minute of a tenant, failed credentials a minute of an address. A limit of 0 costs nothing.

Counted in Django's cache by ``add`` and ``incr``, which are one step each, in fixed windows: of any number of parallel
requests exactly the limit pass in a window. Whoever fills two windows from both sides of their border has twice the
limit in a short time, and no more.
"""

from __future__ import annotations

import logging
import math
from time import monotonic, time
from typing import NamedTuple
from zlib import crc32

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from rest_framework import exceptions

from tenants.callers import Caller
from tenants.proxies import client_address

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60
# How long a cache that failed is left alone: one request in a second pays for its time-out, not each.
REST_SECONDS = 1.0


class RateLimited(exceptions.APIException):
    """Over a limit; ``wait`` seconds until its window ends."""

    status_code = 429
    default_code = "RATE_LIMITED"

    def __init__(self, detail: str, wait: int) -> None:
        super().__init__(f"{detail} Try again in {wait} seconds.")
        self.wait = wait


class LimitsUnavailable(exceptions.APIException):
    """The cache is away, so nobody can say whether the caller is within the limits: no open door."""

    status_code = 503
    default_code = "UNAVAILABLE"
    default_detail = "The gateway cannot count requests right now. Try again in a few seconds."
    wait = math.ceil(REST_SECONDS)


class Rate(NamedTuple):
    """Where a caller stands in the window of one limit."""

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


def count_request(request: HttpRequest, caller: Caller) -> None:
    """One more request of the caller's tenant. Raises RateLimited over its limit, LimitsUnavailable without a cache."""
    if settings.RATE_LIMIT_PER_TENANT:
        rate = _count(request, "tenant", str(caller.tenant_id), settings.RATE_LIMIT_PER_TENANT)
        if rate.used > rate.limit:
            raise RateLimited(f"This tenant has used up its requests of this minute, {rate.limit}.", rate.seconds_left)


def count_failure(request: HttpRequest) -> None:
    """One more failed credential from the client's address. Raises as :func:`count_request` does.

    Only failures are refused over the limit: a good credential opens from any address, for many may share one.
    """
    if settings.RATE_LIMIT_FAILED_PER_ADDRESS:
        rate = _count(request, "failed", client_address(request), settings.RATE_LIMIT_FAILED_PER_ADDRESS)
        if rate.used > rate.limit:
            raise RateLimited(
                f"Too many credentials from here failed in this minute, over {rate.limit}.", rate.seconds_left
            )


def _count(request: HttpRequest, policy: str, who: str, limit: int) -> Rate:
    # Windows start at another second for each, so that not all who wait come back at once.
    now = time() + crc32(who.encode()) % WINDOW_SECONDS
    window, seconds_in = divmod(now, WINDOW_SECONDS)
    used = _counter.increment(f"rate:{policy}:{who}:{int(window)}")
    rate = Rate(policy, limit, used, math.ceil(WINDOW_SECONDS - seconds_in))
    request.rate = rate  # type: ignore[attr-defined]  # the headers of the answer, whatever it becomes
    return rate


class _Counter:
    """Django's cache, left alone for a moment after it failed."""

    def __init__(self) -> None:
        self._resting_until = 0.0

    def increment(self, key: str) -> int:
        if monotonic() < self._resting_until:
            raise LimitsUnavailable
        try:
            try:
                return cache.incr(key)
            except ValueError:  # the first of its window; the key outlives it, so that it cannot run out in between
                cache.add(key, 0, timeout=2 * WINDOW_SECONDS)
                return cache.incr(key)
        except Exception as error:  # every cache has exceptions of its own
            self._resting_until = monotonic() + REST_SECONDS
            logger.error("The cache that counts requests did not answer: %s", error)
            raise LimitsUnavailable from error


_counter = _Counter()
