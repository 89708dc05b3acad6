"""Delivers a tenant's events to one endpoint: in order within a job, several jobs at a time.

The endpoint's position moves on as events are answered. An event that fails does not hold it back: its job is blocked,
which is a row of its own, and the job's later events are read from the store when their turn comes. So the position and
the blocked jobs together say what is still to be delivered, whenever the process ends.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from time import monotonic, time
from typing import Protocol

from django.db import Error as DatabaseFailure
from django.db.models import F, Value
from django.db.models.functions import Least

from jobs.artifacts.signing import CannotSign
from jobs.database.events import FeedRow
from jobs.webhooks import metrics
from jobs.webhooks.answer import Answer
from jobs.webhooks.attempts import attempt_of
from jobs.webhooks.leases import BlockedRow, Change, Claim, EndpointConfig, moment
from jobs.webhooks.models import Outcome
from jobs.webhooks.payload import event_id, job_of, payload
from jobs.webhooks.queries import read_next_event, read_page
from jobs.webhooks.sender import Sender
from jobs.webhooks.signing import signature_headers

logger = logging.getLogger("jobs.webhooks")

# Seconds from a failed attempt to the next; after the last one the event is given up.
RETRY_SECONDS: tuple[float, ...] = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
RETRY_JITTER = 0.2  # the part by which each is shorter or longer, so that receivers do not get all at once
# The longest pause of an endpoint that Retry-After can ask for. A single event may wait as long as for a retry.
LONGEST_PAUSE_SECONDS = 3_600.0
DISABLED_AFTER_SECONDS = 5 * 86_400.0  # of nothing but failures
# Jobs of an endpoint that may be blocked. Beyond that it reads no further.
MAX_BLOCKED = 1_000
# Events that are read and not answered yet. It bounds what is sent twice when a process is killed.
WINDOW = 200
PAGE_EVENTS = 100
# An event that takes longer no longer holds the position back.
SLOW_SECONDS = 1.0
# After so many failures in a row an endpoint gets few requests at a time, so that a thousand places are enough for all.
FAILURES_IN_A_ROW = 20
REQUESTS_WHILE_FAILING = 2
PAUSE_AFTER_ERROR_SECONDS = 1.0  # of the database or the artifact store


class Context(Protocol):
    """What a delivery needs of its worker."""

    sender: Sender
    requests: asyncio.Semaphore  # the places for requests of all endpoints
    requests_per_endpoint: int

    def may_start(self) -> bool:
        """Whether an attempt that begins now is over before the lease of an endpoint can end."""
        ...

    def has_changes(self, delivery: Delivery) -> None:
        """``delivery`` has something to be written."""
        ...


class Delivery:
    """The delivery to one endpoint whose lease this worker has. It belongs to the event loop."""

    def __init__(self, context: Context, config: EndpointConfig, claim: Claim) -> None:
        self.context = context
        self.config = config
        self.newest_position = claim.position  # of the tenant, as far as is known
        self.read_up_to = claim.position  # all events up to here are in the window, or of a blocked job, or done
        self.paused_until = claim.paused_until
        self.failing_since = claim.failing_since
        self.failures_in_a_row = 0
        self.is_stopping = False
        # The position that the store went back to, having lost what was read after it. Then all that is known here is
        # worth nothing, and the endpoint is claimed anew.
        self.went_back_to: int | None = None
        self.wake = asyncio.Event()
        # The window: events that were read and are not answered, by position, in ascending order, with their job.
        self._window: dict[int, str] = {}
        self._events: dict[str, deque[FeedRow]] = {}  # those of the window by job, each job's first one is next
        # Jobs of the window without a request, a heap: by the position of the next event, so that what is sent twice
        # after a kill is little.
        self._ready: list[tuple[int, str]] = []
        self._began: dict[str, float] = {}  # when the request of each job of the window began
        self._blocked: dict[str, BlockedRow] = {row.job: row for row in claim.blocked}
        self._due: list[tuple[float, str]] = [(row.next_attempt_at, row.job) for row in claim.blocked]  # a heap
        heapq.heapify(self._due)
        self._busy: set[str] = set()  # blocked jobs with a request
        self._redeliveries: deque[tuple[int, str, int]] = deque()
        self._known_redeliveries: set[int] = set()
        self._redelivered: set[int] = set()
        self.attempts: set[asyncio.Task[None]] = set()
        self._change = Change(config.pk)
        self._written_position: int | None = claim.position
        self._blocked_turn = False

    # --- What the worker sees and says ---

    @property
    def position(self) -> int:
        """Everything up to here is delivered, given up, or of a blocked job."""
        return next(iter(self._window)) - 1 if self._window else self.read_up_to

    @property
    def blocked_jobs(self) -> int:
        return len(self._blocked)

    @property
    def in_flight(self) -> int:
        return len(self.attempts)

    def waiting_since(self) -> float:
        """Unix time since when the event waits that has waited longest; now, where none waits."""
        return min((row.since for row in self._blocked.values()), default=time())

    def set_newest_position(self, position: int, read_up_to: int) -> None:
        """The tenant's last position, which was asked for when this delivery had read up to ``read_up_to``."""
        if position < read_up_to:
            self.went_back_to = position
        elif position > self.newest_position:
            self.newest_position = position
            self.wake.set()

    def redeliver(self, pk: int, job: str, seq: int) -> None:
        """Sends an event again, once. One that still waits for its turn gets its next attempt now."""
        if pk in self._known_redeliveries:
            return
        self._known_redeliveries.add(pk)
        row = self._blocked.get(job)
        if row is not None and seq >= row.next_seq:
            self._block(job, row._replace(next_attempt_at=time()))
            self._note_redelivered(pk)
        else:
            self._redeliveries.append((pk, job, seq))
        self.wake.set()

    def take_change(self) -> Change | None:
        """What is to be written since the last call; None for nothing."""
        change, self._change = self._change, Change(self.config.pk)
        if self.went_back_to is not None:
            # The position that is there goes with the blocked jobs that are there: it must not come later than both.
            position = Least(F("position"), Value(self.went_back_to))
            return Change(self.config.pk, {"position": position}, attempts=change.attempts)
        if self.position != self._written_position:
            change.fields["position"] = self._written_position = self.position
        has_content = change.fields or change.blocked or change.attempts or change.redelivered
        return change if has_content else None

    def put_back(self, change: Change) -> None:
        """A change that could not be written is written with the next one."""
        newer = self._change
        for attempt in change.attempts:
            attempt.pk = None  # it may have been written, although no answer came: then the log has it twice
        self._change = Change(
            change.endpoint,
            change.fields | newer.fields,
            change.blocked | newer.blocked,
            change.attempts + newer.attempts,
            change.redelivered + newer.redelivered,
        )

    def write_all_again(self) -> None:
        """What was written before is written once more, with the next change."""
        self._written_position = None
        self._change.blocked = {**self._blocked, **self._change.blocked}
        self._change.redelivered = sorted(self._redelivered)
        self._has_changes()

    async def stop(self) -> None:
        """Starts no more attempts, and waits for those under way. The next worker sends what follows.

        The jobs of the window get rows, so that what was delivered of others is not sent again.
        """
        self.is_stopping = True
        self.wake.set()
        if self.attempts:
            await asyncio.wait(self.attempts)
        for job in list(self._events):
            row = self._events[job][0]
            self._leave_window(job)
            self._block(job, BlockedRow(job, row.event[0], 0, time(), time()))

    # --- The loop ---

    async def run(self) -> None:
        while not self.is_stopping:
            self.wake.clear()
            try:
                await self._read_ahead()
            except DatabaseFailure as error:
                logger.warning("The events of tenant %s cannot be read: %s", self.config.caller.slug, error)
                await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
                continue
            self._detach_slow_jobs()
            self._start_attempts()
            try:
                async with asyncio.timeout(self._seconds_until_due()):
                    await self.wake.wait()
            except TimeoutError:
                pass

    async def _read_ahead(self) -> None:
        """Reads one page of the feed into the window."""
        room = WINDOW - len(self._window)
        if self.newest_position <= self.read_up_to or self._is_full() or not self._may_start():
            return
        if len(self._blocked) >= MAX_BLOCKED:
            return
        config = self.config
        page = await read_page(config.caller.tenant_id, config.event_types, self.read_up_to, min(room, PAGE_EVENTS))
        for row in page.rows:
            job = job_of(row)
            if job in self._blocked:  # it is read again when its turn comes
                continue
            self._window[row.position] = job
            if job not in self._events:
                self._events[job] = deque()
                heapq.heappush(self._ready, (row.position, job))
            self._events[job].append(row)
        self.read_up_to = page.up_to
        self.wake.set()  # there may be another page
        self._has_changes()

    def _detach_slow_jobs(self) -> None:
        """Jobs whose answer takes long become blocked ones, so that the position and the window can move on."""
        now = monotonic()
        slow = [job for job, began in self._began.items() if now - began > SLOW_SECONDS]
        if not slow and self._is_full() and not self._ready:
            # Many events of few jobs fill the window. The first of them goes on from the store.
            slow = [self._window[next(iter(self._window))]]
        for job in slow:
            if len(self._blocked) < MAX_BLOCKED:
                row = self._events[job][0]
                self._leave_window(job)
                self._busy.add(job)
                self._block(job, BlockedRow(job, row.event[0], 0, time(), time()))

    def _is_full(self) -> bool:
        """Whether another page would be a short one."""
        return len(self._window) > WINDOW * 3 // 4

    def _start_attempts(self) -> None:
        while self.in_flight < self._places() and self._may_start():
            attempt = self._next_attempt()
            if attempt is None:
                return
            task = asyncio.get_running_loop().create_task(self._in_place(attempt))
            self.attempts.add(task)
            task.add_done_callback(self._is_done)

    def _next_attempt(self) -> Callable[[], Awaitable[None]] | None:
        """The coroutine function of the next attempt; None where nothing can be sent now."""
        if self._redeliveries:
            pk, job, seq = self._redeliveries.popleft()
            return lambda: self._redeliver(pk, job, seq)
        # In turns, so that neither new events nor retries wait for all of the others.
        self._blocked_turn = not self._blocked_turn
        for blocked in (self._blocked_turn, not self._blocked_turn):
            if blocked and (due := self._next_due()):
                self._busy.add(due)
                return lambda: self._attempt_of_blocked(due)
            if not blocked and self._ready and len(self._blocked) < MAX_BLOCKED:
                _, job = heapq.heappop(self._ready)
                row = self._events[job][0]
                return lambda: self._attempt_of_window(job, row)
        return None

    def _next_due(self) -> str | None:
        while self._due and self._due[0][0] <= time():
            at, job = heapq.heappop(self._due)
            row = self._blocked.get(job)
            if row is not None and row.next_attempt_at == at and job not in self._busy:
                return job
        return None

    def _seconds_until_due(self) -> float | None:
        """Until something may have to be done without being woken; None where nothing has."""
        if not self._may_start():
            return 0.2
        seconds: list[float] = [SLOW_SECONDS / 2] if self._began else []
        if self._due and self.in_flight < self._places():
            seconds.append(max(0.0, self._due[0][0] - time()))
        return min(seconds, default=None)

    def _may_start(self) -> bool:
        return (
            not self.is_stopping
            and not self.config.problem
            and self.paused_until <= time()
            and self.context.may_start()
        )

    def _places(self) -> int:
        if self.failures_in_a_row >= FAILURES_IN_A_ROW:
            return min(REQUESTS_WHILE_FAILING, self.context.requests_per_endpoint)
        return self.context.requests_per_endpoint

    async def _in_place(self, attempt: Callable[[], Awaitable[None]]) -> None:
        async with self.context.requests:
            await attempt()

    def _is_done(self, task: asyncio.Task[None]) -> None:
        self.attempts.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("An attempt failed in a way that was not foreseen.", exc_info=error)
        self.wake.set()

    # --- Attempts ---

    async def _attempt_of_window(self, job: str, row: FeedRow) -> None:
        """Sends the first event of a job of the window. The job may be detached before or meanwhile."""
        if job in self._events:
            self._began[job] = monotonic()
        answer = await self._send(row)
        self._began.pop(job, None)
        if job in self._blocked:
            self._answered_blocked(job, row, answer)
            return
        if answer is None:
            heapq.heappush(self._ready, (row.position, job))
            return
        if answer.is_success:
            self._succeeded(row, answer, 1)
        elif failed := self._failed(row, answer, BlockedRow(job, row.event[0], 0, 0.0, time())):
            self._leave_window(job)
            self._block(job, failed)
            return
        del self._window[row.position]
        self._events[job].popleft()
        if self._events[job]:
            heapq.heappush(self._ready, (self._events[job][0].position, job))
        else:
            del self._events[job]

    async def _attempt_of_blocked(self, job: str) -> None:
        """Sends the event that a blocked job waits with; without one that was read by now, the job is free again."""
        config, blocked = self.config, self._blocked[job]
        try:
            while True:
                up_to = self.read_up_to
                row = await read_next_event(config.caller.tenant_id, config.event_types, job, blocked.next_seq)
                if row is not None and row.position <= up_to:
                    break
                if up_to == self.read_up_to:  # else a page was read meanwhile, which may have left out one of the job
                    self._busy.discard(job)
                    self._unblock(job)
                    return
        except DatabaseFailure as error:
            logger.warning("An event of tenant %s cannot be read: %s", config.caller.slug, error)
            self._answered_blocked(job, None, None)
            return
        if row.event[0] != blocked.next_seq:  # what was waited for is gone: this one has its first attempt
            self._blocked[job] = blocked._replace(next_seq=row.event[0], attempts=0)
        self._answered_blocked(job, row, await self._send(row))

    def _answered_blocked(self, job: str, row: FeedRow | None, answer: Answer | None) -> None:
        self._busy.discard(job)
        blocked = self._blocked[job]
        if row is None or answer is None:  # nothing was sent
            self._block(job, blocked._replace(next_attempt_at=time() + PAUSE_AFTER_ERROR_SECONDS))
            return
        if answer.is_success:
            self._succeeded(row, answer, blocked.attempts + 1)
        elif failed := self._failed(row, answer, blocked):
            self._block(job, failed)
            return
        # The job's next event follows at once. If there is none, the next attempt finds that out.
        self._block(job, BlockedRow(job, row.event[0] + 1, 0, time(), time()))

    async def _redeliver(self, pk: int, job: str, seq: int) -> None:
        try:
            row = await read_next_event(self.config.caller.tenant_id, (), job, seq)
        except DatabaseFailure as error:
            logger.warning("An event of tenant %s cannot be read: %s", self.config.caller.slug, error)
            self._known_redeliveries.discard(pk)  # the worker finds its row again
            return
        if row is not None and row.event[0] == seq:
            answer = await self._send(row)
            if answer is None:
                self._known_redeliveries.discard(pk)
                return
            if answer.is_success:
                self._succeeded(row, answer, 0)
            else:
                self._log(row, answer, 0, Outcome.FAILED)
                self._note_failure(answer)
        self._note_redelivered(pk)
        self._has_changes()

    async def _send(self, row: FeedRow) -> Answer | None:
        """One request; None where none could be made."""
        config = self.config
        try:
            body = await payload(row, config.caller)
        except (DatabaseFailure, CannotSign) as error:
            logger.warning("A webhook of tenant %s cannot be rendered: %s", config.caller.slug, error)
            await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
            return None
        except Exception:  # it must not hold up the job's other events for ever
            logger.exception("Event %s of tenant %s cannot be rendered.", event_id(row), config.caller.slug)
            return Answer(None, "", "the event could not be rendered", 0.0, None)
        now = time()
        keys = [key.key for key in config.keys if key.expires_at > now]
        # Last, with nothing awaited in between: the lease may have ended, or the endpoint been disabled.
        if not self._may_start():
            return None
        try:
            return await self.context.sender.post(
                config.url, body, signature_headers(keys, event_id(row), int(now), body)
            )
        except Exception:  # likewise
            logger.exception("Event %s of tenant %s cannot be sent.", event_id(row), config.caller.slug)
            return Answer(None, "", "the request could not be made", 0.0, None)

    # --- What comes of an attempt ---

    def _succeeded(self, row: FeedRow, answer: Answer, number: int) -> None:
        self._log(row, answer, number, Outcome.DELIVERED)
        if number == 1:
            metrics.LATENCY.observe(max(0.0, time() - datetime.fromisoformat(row.event[6]).timestamp()))
        self.failures_in_a_row = 0
        self.failing_since = None
        self._change.fields |= {"last_success_at": moment(time()), "failing_since": None}
        self._has_changes()

    def _failed(self, row: FeedRow, answer: Answer, blocked: BlockedRow) -> BlockedRow | None:
        """The job as it is blocked after a failed attempt at ``row``; None where the event is given up."""
        attempts = blocked.attempts + 1
        is_given_up = attempts > len(RETRY_SECONDS) and answer.status != 410
        self._log(row, answer, attempts, Outcome.GIVEN_UP if is_given_up else Outcome.FAILED)
        self._note_failure(answer)
        if is_given_up:
            logger.warning(
                "Event %s of tenant %s was given up after %d attempts to deliver it to %s.",
                *(event_id(row), self.config.caller.slug, attempts, f"webhook endpoint {self.config.pk}"),
            )
            return None
        if answer.status == 410:  # no fault of the event: when the endpoint is enabled again, it begins anew
            return blocked._replace(attempts=0, next_attempt_at=time())
        delay = RETRY_SECONDS[attempts - 1] * random.uniform(1 - RETRY_JITTER, 1 + RETRY_JITTER)  # noqa: S311
        delay = max(delay, min(answer.retry_after or 0, RETRY_SECONDS[-1]))
        return blocked._replace(attempts=attempts, next_attempt_at=time() + delay)

    def _note_failure(self, answer: Answer) -> None:
        now = time()
        self.failures_in_a_row += 1
        self._change.fields["last_failure_at"] = moment(now)
        if self.failing_since is None:
            self.failing_since = now
            self._change.fields["failing_since"] = moment(now)
        if answer.retry_after:
            self.paused_until = max(self.paused_until, now + min(answer.retry_after, LONGEST_PAUSE_SECONDS))
            self._change.fields["paused_until"] = moment(self.paused_until)
        if answer.status == 410:
            self._disable("The receiver answered 410: it wants no more events.")
        elif now - self.failing_since >= DISABLED_AFTER_SECONDS:
            self._disable("Every attempt failed for five days.")
        self._has_changes()

    def _disable(self, reason: str) -> None:
        if not self.is_stopping:
            logger.warning(
                "Webhook endpoint %d of tenant %s is disabled. %s", self.config.pk, self.config.caller.slug, reason
            )
        self._change.fields |= {"is_enabled": False, "disabled_reason": reason}
        self.is_stopping = True

    def _log(self, row: FeedRow, answer: Answer, number: int, outcome: Outcome) -> None:
        metrics.DELIVERIES.labels(outcome.value).inc()
        metrics.SECONDS.observe(answer.seconds)
        self._change.attempts.append(attempt_of(self.config.pk, answer, number, outcome, row))

    # --- The window and the blocked jobs ---

    def _leave_window(self, job: str) -> None:
        """The job's events are no part of the window any more."""
        self._began.pop(job, None)
        for row in self._events.pop(job):
            del self._window[row.position]

    def _block(self, job: str, row: BlockedRow) -> None:
        self._blocked[job] = self._change.blocked[job] = row
        if job not in self._busy:
            heapq.heappush(self._due, (row.next_attempt_at, job))
        self._has_changes()

    def _note_redelivered(self, pk: int) -> None:
        self._redelivered.add(pk)
        self._change.redelivered.append(pk)

    def _unblock(self, job: str) -> None:
        del self._blocked[job]
        self._change.blocked[job] = None
        self._has_changes()

    def _has_changes(self) -> None:
        self.context.has_changes(self)
