"""How many streams and waiting requests there may be: of a tenant, and in a worker.

Each worker counts its own, and with ``CACHE_URL`` writes its numbers there every few seconds, so that a tenant's bound
holds for all workers together. The numbers of a worker that was killed expire.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import time

import orjson
from django.conf import settings
from prometheus_client import Counter as Metric
from prometheus_client import Gauge
from rest_framework import exceptions

from tenants.shared_cache import shared_cache

logger = logging.getLogger("jobs.following")

SHARE_SECONDS = 5.0
EXPIRY_SECONDS = 15.0
RETRY_AFTER_SECONDS = 10
# What a worker that ends gives the cache to take its numbers back.
LEAVE_SECONDS = 0.5
# The cache's sorted set of the workers that have numbers there, by the time of the latest.
WORKERS = "following"

STREAMS = Gauge("gateway_streams", "Streams that are open.", multiprocess_mode="livesum")
WAITING = Gauge("gateway_waiting_requests", "Requests that wait because of Prefer: wait.", multiprocess_mode="livesum")
REFUSED = Metric(
    "gateway_following_refused",
    "Streams refused, and waits that were not granted, by the bound that was met.",
    ["bound"],
)


class TooManyStreams(exceptions.APIException):
    """The tenant has as many streams and waiting requests as it may have."""

    status_code = 429
    default_code = "TOO_MANY_STREAMS"
    wait = RETRY_AFTER_SECONDS

    def __init__(self) -> None:
        super().__init__(
            f"This tenant has {settings.STREAMS_PER_TENANT} streams and waiting requests open, the most it may have. "
            "Close one, or follow the feed /v1/events instead of each job."
        )


class WorkerIsFull(exceptions.APIException):
    """The worker has as many streams and waiting requests as it may have."""

    status_code = 503
    default_code = "UNAVAILABLE"
    default_detail = "This gateway holds as many streams as it can. Try again in a few seconds, or ask for pages."
    wait = RETRY_AFTER_SECONDS


class Places:
    """The places of this worker that are taken."""

    def __init__(self) -> None:
        self._own: Counter[int] = Counter()
        self._total = 0
        self._of_other_workers: Counter[int] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Under which this worker's numbers are in the cache.
        self._name = ""
        self._is_leaving = False

    async def leave(self) -> None:
        """Before the worker's streams end: their clients go to other workers, which must not count them twice."""
        self._is_leaving = True
        if self._task is not None and not self._task.done() and self._loop is asyncio.get_running_loop():
            self._task.cancel()
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._withdraw()
            except Exception as error:  # noqa: BLE001 - of every cache others; the numbers expire
                logger.warning("The streams of this worker are counted for a while: %s", error)

    @contextmanager
    def taken(self, tenant_id: int, metric: Gauge) -> Iterator[None]:
        """Takes a place at once, before anything is awaited. Raises TooManyStreams or WorkerIsFull."""
        if self._total >= settings.STREAMS_PER_WORKER:
            REFUSED.labels("worker").inc()
            raise WorkerIsFull
        if self._own[tenant_id] + self._of_other_workers[tenant_id] >= settings.STREAMS_PER_TENANT:
            REFUSED.labels("tenant").inc()
            raise TooManyStreams
        self._own[tenant_id] += 1
        self._total += 1
        metric.inc()
        self._share()
        try:
            yield
        finally:
            self._total -= 1
            self._own[tenant_id] -= 1
            if not self._own[tenant_id]:
                del self._own[tenant_id]
            metric.dec()

    def _share(self) -> None:
        if shared_cache.is_shared() and not self._is_leaving:
            loop = asyncio.get_running_loop()
            if self._task is None or self._task.done() or self._loop is not loop:
                self._loop, self._task = loop, loop.create_task(self._share_while_taken())

    async def _share_while_taken(self) -> None:
        while True:
            # As long as others hold places too: without a place of its own a worker still has to know theirs.
            is_needed = bool(self._total or self._of_other_workers)
            try:
                await (self._exchange() if is_needed else self._withdraw())
            except Exception as error:  # noqa: BLE001 - of every cache others; each worker's own bound still holds
                logger.warning("The streams of other workers are not counted: the cache did not answer: %s", error)
                self._of_other_workers.clear()
            if is_needed:
                await asyncio.sleep(SHARE_SECONDS)
            elif not self._total:
                return

    async def _withdraw(self) -> None:
        """Takes this worker's numbers back."""
        async with shared_cache.connection().pipeline(transaction=False) as pipe:
            pipe.delete(shared_cache.key(self._name))
            pipe.zrem(shared_cache.key(WORKERS), self._name)
            await pipe.execute()

    async def _exchange(self) -> None:
        """Writes this worker's numbers, and reads those of the others that are not older than ``EXPIRY_SECONDS``."""
        cache, now = shared_cache.connection(), time()
        workers = shared_cache.key(WORKERS)
        # Not before the first use: a process that was forked since would have the same name.
        self._name = name = self._name or f"following:{os.getpid()}:{os.urandom(4).hex()}"
        async with cache.pipeline(transaction=False) as pipe:
            pipe.set(
                shared_cache.key(name), orjson.dumps({str(k): v for k, v in self._own.items()}), ex=int(EXPIRY_SECONDS)
            )
            pipe.zadd(workers, {name: now})
            pipe.zremrangebyscore(workers, 0, now - EXPIRY_SECONDS)
            pipe.zrange(workers, 0, -1)
            *_, names = await pipe.execute()
        others = [each for each in (one.decode() for one in names) if each != name]
        found: Counter[int] = Counter()
        if others:
            for numbers in await cache.mget([shared_cache.key(each) for each in others]):
                if numbers is not None:
                    found.update({int(tenant): number for tenant, number in orjson.loads(numbers).items()})
        self._of_other_workers = found


places = Places()
