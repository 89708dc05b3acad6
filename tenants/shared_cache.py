"""The cache that all workers share, which ``CACHE_URL`` names, on the event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache

MAX_CONNECTIONS = 8
WAIT_SECONDS = 1.0  # for a connection


class SharedCache:
    """Connections to a Redis or Valkey server, which belong to the event loop that uses them."""

    def __init__(self) -> None:
        self._redis: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def is_shared(self) -> bool:
        """False where ``CACHE_URL`` is empty: each process has a cache of its own."""
        return isinstance(caches["default"], RedisCache)

    def key(self, key: str) -> str:
        """``key`` with the prefix of this installation."""
        return caches["default"].make_key(key)

    def connection(self) -> Any:
        """A client of redis.asyncio, where :meth:`is_shared`."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            config = settings.CACHES["default"]
            # A second try, for a connection that was closed while it was idle.
            options = {"retry": Retry(NoBackoff(), 1), **config.get("OPTIONS", {})}
            # A burst of requests shares a few connections, instead of making one each within their time-out.
            limits = {"max_connections": MAX_CONNECTIONS, "timeout": WAIT_SECONDS}
            pool = BlockingConnectionPool.from_url(config["LOCATION"], **limits, **options)
            self._redis = Redis.from_pool(pool)
            self._loop = loop
        return self._redis

    async def close(self) -> None:
        """A server that does not answer any more keeps nobody from stopping."""
        if self._redis is not None:
            from redis.exceptions import RedisError

            with suppress(RedisError, OSError):
                await self._redis.aclose()
            self._redis = self._loop = None


shared_cache = SharedCache()
