"""The worker of webhooks: leases endpoints, wakes their deliveries when something is new, writes what they did.

Any number of workers run side by side. Each takes its share of the endpoints. When one dies, the others take its
endpoints after ``LEASE_SECONDS``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, time
from typing import Any, TypeVar

from django.conf import settings
from django.db import Error as DatabaseFailure
from django.db import close_old_connections, connections

from jobs.database.positions import last_positions
from jobs.database.prepared import compile_queries
from jobs.database.readers import close_readers
from jobs.webhooks import leases, metrics, sender
from jobs.webhooks.delivery import Delivery
from jobs.webhooks.leases import Change, Lease
from jobs.webhooks.sender import Sender

logger = logging.getLogger("jobs.webhooks")

Value = TypeVar("Value")

POLL_SECONDS = 0.1  # between two looks at the tenants' positions
REFRESH_SECONDS = 1.0  # between two looks at the endpoints
RENEW_SECONDS = 2.0  # between two renewals of the leases
WRITE_SECONDS = 0.1  # between two writes of what was done; it bounds what is sent twice when a process is killed
MARGIN_SECONDS = 1.0  # of a lease that remains when an attempt ends
TRIM_EVERY = 500  # attempts of an endpoint, until the oldest are removed
DNS_THREADS = 64


class Worker:
    """One process of ``deliver_webhooks``.

    ``run`` delivers until it is cancelled or ``stop`` is called. Raises DatabaseFailure when the database has been away
    for ``DATABASE_WAIT_SECONDS``.
    """

    sender: Sender

    def __init__(self) -> None:
        self.name = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        self.requests = asyncio.Semaphore(settings.WEBHOOK_REQUESTS_PER_WORKER)
        self.requests_per_endpoint = settings.WEBHOOK_REQUESTS_PER_ENDPOINT
        self.deliveries: dict[int, Delivery] = {}
        self._runs: dict[int, asyncio.Task[None]] = {}
        self._ending: dict[int, asyncio.Task[None]] = {}  # deliveries that wait for their last answers
        self._leased_until = 0.0
        self._renewed_at = 0.0
        self._changed: dict[int, Delivery] = {}
        self._has_changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._logged: dict[int, int] = {}  # attempts by endpoint since they were trimmed
        self._problems: set[int] = set()
        self._stopping = asyncio.Event()
        self._database = ThreadPoolExecutor(1, "webhooks-database")

    # --- For deliveries ---

    def may_start(self) -> bool:
        return monotonic() + sender.ATTEMPT_SECONDS + MARGIN_SECONDS < self._leased_until

    def has_changes(self, delivery: Delivery) -> None:
        self._changed[delivery.config.pk] = delivery
        self._has_changed.set()

    # --- The process ---

    def stop(self) -> None:
        """Attempts under way are finished, their outcome is written, and the endpoints are given back."""
        self._stopping.set()

    async def run(self) -> None:
        compile_queries()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(DNS_THREADS, "webhooks-dns"))
        try:
            async with Sender() as self.sender:
                await self._until_written(leases.encrypt_secrets_again)
                writer = asyncio.create_task(self._write())
                try:
                    await self._work(writer)
                    await self._leave()
                finally:
                    writer.cancel()  # after the last deliveries have written what they did
        finally:
            # Where the worker is cancelled; else there are none.
            left = [*self._runs.values(), *self._ending.values()]
            left += [task for each in self.deliveries.values() for task in each.attempts]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await close_readers()
            await asyncio.get_running_loop().run_in_executor(self._database, connections.close_all)
            self._database.shutdown()

    async def _work(self, writer: asyncio.Task[None]) -> None:
        """Until the worker is to stop. Raises what one of its tasks raises."""
        tasks = [asyncio.create_task(each()) for each in (self._refresh, self._watch, self._stopping.wait)]
        try:
            done, _ = await asyncio.wait([writer, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _leave(self) -> None:
        self._end(set(self.deliveries))
        await asyncio.gather(*self._ending.values())
        try:
            await self._in_database(leases.leave, self.name)
        except DatabaseFailure as error:
            logger.warning("The leases end by themselves: %s", error)

    async def _refresh(self) -> None:
        answered_at = monotonic()
        while True:
            began = monotonic()
            renew = began - self._renewed_at >= RENEW_SECONDS
            try:
                held = self.deliveries.keys() | self._ending.keys()
                lease = await self._in_database(leases.refresh, self.name, held, renew)
            except DatabaseFailure as error:
                logger.warning("The leases of webhook endpoints cannot be renewed: %s", error)
                self._write_all_again()
                if monotonic() - answered_at >= settings.DATABASE_WAIT_SECONDS:
                    raise
            else:
                answered_at = monotonic()
                if renew:
                    self._renewed_at, self._leased_until = began, began + leases.LEASE_SECONDS
                self._apply(lease)
            await asyncio.sleep(REFRESH_SECONDS)

    def _apply(self, lease: Lease) -> None:
        self._end({pk for pk, run in self._runs.items() if run.done()})
        self._end(self.deliveries.keys() - lease.configs.keys())
        # Those that end are still counted as this worker's.
        surplus = max(0, lease.surplus - len(self._ending.keys() & lease.configs.keys()))
        self._end(set(sorted(self.deliveries)[:surplus]))
        for pk, config in lease.configs.items():
            if pk in self.deliveries:
                self.deliveries[pk].config = config
            elif pk in lease.claims and pk not in self._ending:
                self.deliveries[pk] = delivery = Delivery(self, config, lease.claims[pk])
                self._runs[pk] = asyncio.create_task(delivery.run())
            if config.problem and pk not in self._problems:
                logger.error("Nothing is delivered to webhook endpoint %d. %s", pk, config.problem)
        self._problems = {pk for pk, config in lease.configs.items() if config.problem}
        for pk, endpoint, job, seq in lease.redeliveries:
            if endpoint in self.deliveries:
                self.deliveries[endpoint].redeliver(pk, job, seq)
        self._measure(lease)

    def _end(self, endpoints: set[int]) -> None:
        """Ends deliveries, and gives their endpoints back when their last answers are written."""
        for pk in endpoints:
            delivery, run = self.deliveries.pop(pk), self._runs.pop(pk)
            self._ending[pk] = asyncio.create_task(self._end_one(delivery, run))

    async def _end_one(self, delivery: Delivery, run: asyncio.Task[None]) -> None:
        try:
            await self._finish(delivery, run)
        finally:
            del self._ending[delivery.config.pk]

    async def _finish(self, delivery: Delivery, run: asyncio.Task[None]) -> None:
        await delivery.stop()
        [failure] = await asyncio.gather(run, return_exceptions=True)
        if failure is not None:  # it is taken anew, and goes on from what is written
            logger.error("The delivery to webhook endpoint %d ended.", delivery.config.pk, exc_info=failure)
        await self._write_once([delivery])
        try:
            await self._in_database(leases.release, self.name, {delivery.config.pk})
        except DatabaseFailure as error:
            logger.warning("A lease ends by itself: %s", error)

    async def _watch(self) -> None:
        """Tells the deliveries of each tenant's newest position."""
        while True:
            if self.deliveries:
                # Before the question: what is read meanwhile may be newer than its answer.
                asked = [(each, each.read_up_to) for each in self.deliveries.values()]
                try:
                    tenants = {each.config.caller.tenant_id for each, _ in asked}
                    async with asyncio.timeout(settings.DATABASE_DEADLINE_SECONDS):
                        positions = await last_positions(tenants)
                except (DatabaseFailure, TimeoutError) as error:
                    logger.warning("The positions of tenants cannot be read: %s", error)
                    await asyncio.sleep(REFRESH_SECONDS)
                else:
                    for each, read_up_to in asked:
                        each.set_newest_position(positions.get(each.config.caller.tenant_id, 0), read_up_to)
                    ahead = {pk for pk, each in self.deliveries.items() if each.went_back_to is not None}
                    for pk in ahead:
                        logger.warning("The store lost events of webhook endpoint %d, which begins anew.", pk)
                    self._end(ahead)
            await asyncio.sleep(POLL_SECONDS)

    async def _write(self) -> None:
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            changed, self._changed = list(self._changed.values()), {}
            if not await self._write_once(changed):
                await asyncio.sleep(REFRESH_SECONDS)
            await asyncio.sleep(WRITE_SECONDS)

    async def _write_once(self, deliveries: list[Delivery]) -> bool:
        """Writes what the deliveries have done. What cannot be written now is written later; False then."""
        async with self._writing:  # what is put back is older than what is taken next
            return await self._write_taken(deliveries)

    async def _write_taken(self, deliveries: list[Delivery]) -> bool:
        taken = [(each, change) for each in deliveries if (change := each.take_change()) is not None]
        if not taken:
            return True
        changes = [change for _, change in taken]
        try:
            lost = await self._in_database(leases.record, self.name, changes)
        except DatabaseFailure as error:
            logger.warning("What was delivered cannot be written now: %s", error)
            for delivery, change in taken:
                delivery.put_back(change)
                self.has_changes(delivery)
            self._write_all_again()
            return False
        # Another worker has them, after this one was halted for longer than a lease.
        for pk in lost & self.deliveries.keys():
            logger.warning("The lease of webhook endpoint %d was lost.", pk)
            self.deliveries[pk].is_stopping = True
        try:
            for pk in self._to_be_trimmed(changes):
                await self._in_database(leases.trim_attempts, pk)
        except DatabaseFailure as error:
            logger.warning("Old attempts cannot be removed now: %s", error)
        return True

    def _write_all_again(self) -> None:
        """The database was away. The server that answers next may be a standby that lacks the last commits."""
        for delivery in self.deliveries.values():
            delivery.write_all_again()

    def _to_be_trimmed(self, changes: list[Change]) -> list[int]:
        for change in changes:
            self._logged[change.endpoint] = self._logged.get(change.endpoint, TRIM_EVERY - 1) + len(change.attempts)
        due = [change.endpoint for change in changes if self._logged[change.endpoint] >= TRIM_EVERY]
        self._logged |= dict.fromkeys(due, 0)
        return due

    async def _until_written(self, change: Callable[[], None]) -> None:
        give_up_at = monotonic() + settings.DATABASE_WAIT_SECONDS
        while True:
            try:
                return await self._in_database(change)
            except DatabaseFailure as error:
                logger.warning("The database does not answer: %s", error)
                if monotonic() >= give_up_at:
                    raise
                await asyncio.sleep(REFRESH_SECONDS)

    async def _in_database(self, function: Callable[..., Value], *args: Any) -> Value:
        """Runs ``function`` in the thread of the database."""

        def call() -> Value:
            close_old_connections()
            try:
                return function(*args)
            finally:
                close_old_connections()

        return await asyncio.get_running_loop().run_in_executor(self._database, call)

    def _measure(self, lease: Lease) -> None:
        deliveries = list(self.deliveries.values())
        metrics.LAG.set(sum(each.newest_position - each.position for each in deliveries))
        metrics.BLOCKED.set(sum(each.blocked_jobs for each in deliveries))
        metrics.OLDEST_WAITING.set(max((time() - each.waiting_since() for each in deliveries), default=0))
        metrics.DISABLED.set(lease.disabled)
