"""Wakes readers that wait for news of a tenant or of a job.

One task a worker asks, while anybody waits, for the last positions of the tenants that are waited for: one statement,
however many wait. Nothing else finds out that a writer in another process has committed, behind PgBouncer too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, InterfaceError
from ulid import ULID

from jobs.database.positions import jobs_of_positions, last_positions

logger = logging.getLogger("jobs.following")

POLL_SECONDS = 0.1
# While the database does not answer.
RETRY_SECONDS = 1.0
# A tenant that moved further than this since the last poll wakes all who wait for one of its jobs.
MAX_POSITIONS_READ = 1_000


class Waiter:
    """Who waits. ``wake`` is set by news, by the end of the worker, and by what else its owner waits for."""

    __slots__ = ("job", "tenant_id", "tick", "wake")

    def __init__(self, tenant_id: int, job: ULID | None) -> None:
        self.tenant_id = tenant_id
        self.job = job
        self.wake = asyncio.Event()
        # The latest poll before it was registered or woken. Readers of the same may share what they read: none of them
        # waits for news that an earlier poll has found.
        self.tick = 0

    async def wait(self, until: float) -> bool:
        """Whether it was woken before the time ``until`` of the event loop; forgets that it was."""
        try:
            async with asyncio.timeout_at(until):
                await self.wake.wait()
        except TimeoutError:
            return False
        self.wake.clear()
        return True


class _Tenant:
    """The waiters of one tenant, and its position at the latest poll; None before the first."""

    def __init__(self) -> None:
        self.position: int | None = None
        self.waiters: set[Waiter] = set()
        self.of_job: defaultdict[str, set[Waiter]] = defaultdict(set)  # by the job's hexadecimal digits
        self.of_all: set[Waiter] = set()


class WakeUps:
    """Those who wait in this worker, and the task that wakes them."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._tenants: dict[int, _Tenant] = {}
        self._idle: set[Waiter] = set()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick = 0

    @contextmanager
    def waiter(self, tenant_id: int, job: ULID | None = None) -> Iterator[Waiter]:
        """Registers who waits for news of a job, or of all of the tenant's.

        Read only after that: what is committed between a read and a later registration is missed.
        """
        waiter = Waiter(tenant_id, job)
        waiter.tick = self._tick
        tenant = self._tenants.setdefault(tenant_id, _Tenant())
        group = tenant.of_all if job is None else tenant.of_job[job.hex]
        tenant.waiters.add(waiter)
        group.add(waiter)
        if self.is_stopping:
            waiter.wake.set()
        self._start()
        try:
            yield waiter
        finally:
            tenant.waiters.discard(waiter)
            group.discard(waiter)
            if job is not None and not group:
                tenant.of_job.pop(job.hex, None)
            if not tenant.waiters:
                self._tenants.pop(tenant_id, None)

    @contextmanager
    def idle_waiter(self) -> Iterator[Waiter]:
        """Registers a waiter that only the end of the worker wakes."""
        waiter = Waiter(0, None)
        self._idle.add(waiter)
        if self.is_stopping:
            waiter.wake.set()
        try:
            yield waiter
        finally:
            self._idle.discard(waiter)

    def stop(self) -> None:
        """Wakes everybody: the worker ends."""
        self.is_stopping = True
        self._wake(self._idle)
        for tenant in self._tenants.values():
            self._wake(tenant.waiters)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._loop is not loop:
            self._loop, self._task = loop, loop.create_task(self._poll_while_anybody_waits())

    async def _poll_while_anybody_waits(self) -> None:
        is_up = True
        while self._tenants:
            await asyncio.sleep(POLL_SECONDS if is_up else RETRY_SECONDS)
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._poll()
            except (DatabaseError, InterfaceError, TimeoutError) as error:
                # The positions are unknown from now on: the next poll that succeeds wakes everybody.
                for tenant in self._tenants.values():
                    tenant.position = None
                if is_up:
                    logger.error("Waiting readers are not woken until the database answers: %s", error)
                is_up = False
            else:
                if not is_up:
                    logger.warning("Waiting readers are woken again.")
                is_up = True

    async def _poll(self) -> None:
        positions = await last_positions(self._tenants)
        self._tick += 1
        for tenant_id, tenant in list(self._tenants.items()):
            before, now = tenant.position, positions.get(tenant_id, 0)
            if before == now:
                continue
            woken = tenant.waiters
            if before is not None and tenant.of_job and 0 < now - before <= MAX_POSITIONS_READ:
                jobs = await jobs_of_positions(tenant_id, before, now)
                # A position without an event is a change of some job, which is not known here.
                if len(jobs) == now - before:
                    woken = tenant.of_all.union(*(tenant.of_job.get(job.replace("-", ""), ()) for job in set(jobs)))
            # Only now: had the read failed, nobody would have been woken for this position.
            tenant.position = now
            self._wake(woken)

    def _wake(self, waiters: set[Waiter]) -> None:
        for waiter in waiters:
            waiter.tick = self._tick
            waiter.wake.set()


wake_ups = WakeUps()
