"""Simulates a studio at work: opens jobs through the ledger, and moves each through its events until it ends."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime

from django.utils import timezone
from ulid import ULID

from jobs.artifacts.signing import artifact_store
from jobs.demo.pictures import store_picture
from jobs.demo.records import SIMULATED, Picture, RecordBuilder, simulated_record
from jobs.fold import GATEWAY
from jobs.ingest import ledger, removal
from jobs.ingest.artifacts import referenced_keys
from jobs.models import Job, JobEvent, JobStatus
from tenants.models import Tenant

# Jobs in progress at a time. Until one ends no further job is opened.
MAX_IN_PROGRESS = 50
# The first jobs of a run follow each other faster, so that there is something to see: how many, and how much faster.
FIRST_JOBS, FIRST_JOBS_SPEED = 4, 5
# Jobs that are removed in one transaction.
MAX_REMOVED = 100
# The second job of so many is an operation: at regular intervals, so that the newest few jobs always include one.
OPERATION_EVERY = 5
# The time that a job takes, as a multiple of what its record says: at random between these two.
WORKFLOW_PACE, OPERATION_PACE = (0.8, 1.6), (0.2, 0.4)


@dataclass
class Totals:
    opened: int = 0
    succeeded: int = 0
    failed: int = 0
    pruned: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{number:,} {name}" for name, number in asdict(self).items())


@dataclass(order=True)
class SimulatedJob:
    """A job in progress. They are ordered by ``due``, the time of the next event (:func:`time.monotonic`)."""

    due: float
    number: int
    public_id: ULID = field(compare=False)
    builder: RecordBuilder = field(compare=False)
    created_at: datetime = field(compare=False)
    opened_at: float = field(compare=False)  # as ``due``
    pace: float = field(compare=False)  # seconds for a second of the record
    fails: bool = field(compare=False)
    recorded: int = field(compare=False, default=0)  # events
    is_repeated: bool = field(compare=False, default=False)  # an attempt to record the next event has failed

    @property
    def pictures(self) -> dict[str, Picture]:
        return {picture.storage_key: picture for picture in self.builder.pictures}

    def schedule(self) -> bool:
        """Sets ``due`` to the time of the next event. False if there is none."""
        events = self.builder.record["events"]
        if self.recorded == len(events):
            return False
        after = datetime.fromisoformat(events[self.recorded]["created_at"]) - self.created_at
        self.due = self.opened_at + after.total_seconds() * self.pace
        return True


class Simulator:
    """Simulates the jobs of a tenant. Call :meth:`step` at :meth:`next_step_at`, again and again.

    A job is opened every ``every`` seconds, the first few of a run faster. ``speed`` divides the time that a job takes.
    ``fail_share`` of the jobs fail (0 to 1). Of the jobs that were ever simulated, the oldest beyond ``keep`` are
    removed with their pictures. ``chance`` decides what is random.

    Any method raises the errors of the database and the artifact store, and LedgerBusy. The same call can be repeated
    then: it continues where it was, and records nothing twice.
    """

    def __init__(
        self,
        tenant: Tenant,
        *,
        every: float,
        speed: float,
        fail_share: float,
        keep: int,
        chance: random.Random | None = None,
    ) -> None:
        self.tenant = tenant
        self.every = every
        self.speed = speed
        self.fail_share = fail_share
        self.keep = keep
        self.totals = Totals()
        self._chance = chance or random.Random()
        self._numbers = itertools.count()
        self._opens_at = time.monotonic()
        self._opening: SimulatedJob | None = None
        self._in_progress: list[SimulatedJob] = []  # a heap
        self._own: dict[ULID, None] = {}  # the ids of all simulated jobs, the oldest first
        self._unneeded_keys: set[str] = set()  # storage keys of jobs that are being removed

    @property
    def in_progress(self) -> int:
        return len(self._in_progress)

    def start(self) -> None:
        """Finds the jobs of earlier runs, and ends those that are not over as failed."""
        own = Job.all_tenants.filter(tenant=self.tenant, **{f"request__{SIMULATED}": True})
        self._own = dict.fromkeys(own.order_by("created_at", "public_id").values_list("pk", flat=True))
        for job in own.filter(status__in=(JobStatus.NOT_STARTED, JobStatus.IN_PROGRESS)):
            _abandon(job)

    def next_step_at(self) -> float:
        """The time (:func:`time.monotonic`) of the next step."""
        if self._surplus() or self._unneeded_keys:
            return time.monotonic()
        due = self._in_progress[0].due if self._in_progress else self._opens_at
        return min(due, self._opens_at) if self.in_progress < MAX_IN_PROGRESS else due

    def step(self) -> None:
        """Removes old jobs, records one event with its pictures, or opens a job."""
        if self._surplus() or self._unneeded_keys:
            self._prune()
        elif self.in_progress and (self._in_progress[0].due <= self._opens_at or self.in_progress >= MAX_IN_PROGRESS):
            self._record(self._in_progress[0])
        else:
            self._open()

    def _open(self) -> None:
        job = self._opening = self._opening or self._new_job()
        record = job.builder.record
        with suppress(ledger.JobExists):  # by an attempt whose connection broke after the commit
            ledger.open_job(
                self.tenant, record["job_type"], record["request"], public_id=job.public_id, created_at=job.created_at
            )
        self._opening = None
        self._own[job.public_id] = None
        self.totals.opened += 1
        heapq.heappush(self._in_progress, job)
        every = self.every / FIRST_JOBS_SPEED if self.totals.opened <= FIRST_JOBS else self.every
        self._opens_at = max(self._opens_at + every, time.monotonic())  # after an outage nothing is made up for

    def _new_job(self) -> SimulatedJob:
        now, opened_at = timezone.now(), time.monotonic()
        public_id = ULID.from_datetime(now)
        fails = self._chance.random() < self.fail_share
        number = next(self._numbers)
        is_operation = number % OPERATION_EVERY == 1
        builder = simulated_record(self.tenant, public_id, now, self._chance, fails, is_operation)
        pace = self._chance.uniform(*(OPERATION_PACE if is_operation else WORKFLOW_PACE)) / self.speed
        job = SimulatedJob(opened_at, number, public_id, builder, now, opened_at, pace, fails)
        job.schedule()
        return job

    def _record(self, job: SimulatedJob) -> None:
        """Stores the pictures of the job's next event, and then records the event."""
        event = {**job.builder.record["events"][job.recorded]}
        seq = event.pop("seq")
        del event["created_at"]  # it is recorded with the time of the clock
        for artifact in event["artifacts"]:
            store_picture(job.pictures[artifact["storage_key"]])
        # The attempt before may have recorded it, if its connection broke after the commit.
        is_recorded = job.is_repeated and Job.all_tenants.filter(pk=job.public_id, last_seq__gte=seq).exists()
        job.is_repeated = True
        if not is_recorded:
            try:
                ledger.append(job.public_id, **event)
            except (ledger.JobNotFound, ledger.JobEnded):  # by somebody else
                heapq.heappop(self._in_progress)
                return
        job.is_repeated = False
        job.recorded += 1
        if job.schedule():
            heapq.heapreplace(self._in_progress, job)
            return
        heapq.heappop(self._in_progress)
        self.totals.failed += job.fails
        self.totals.succeeded += not job.fails

    def _surplus(self) -> list[ULID]:
        """The oldest simulated jobs that are over, beyond ``keep``."""
        number = len(self._own) - self.keep
        if number <= 0:
            return []
        busy = {job.public_id for job in self._in_progress}
        return list(itertools.islice((each for each in self._own if each not in busy), number))

    def _prune(self) -> None:
        if surplus := self._surplus()[:MAX_REMOVED]:
            for keys in removal.storage_keys_by_job(surplus).values():
                self._unneeded_keys.update(keys)
            removed = removal.remove(Job.all_tenants.filter(tenant=self.tenant, pk__in=surplus).order_by("pk"))
            self.totals.pruned += len(removed.jobs)
            for public_id in surplus:
                del self._own[public_id]
        if self._unneeded_keys:
            free = self._unneeded_keys - referenced_keys(self._unneeded_keys)
            artifact_store().delete_objects(sorted(free))
            self._unneeded_keys.clear()


def _abandon(job: Job) -> None:
    """Ends a job as failed: the run that simulated it has ended."""
    events = JobEvent.all_tenants.filter(job=job).order_by("seq").values_list("hostname", "event_type")
    last = {hostname: event_type for hostname, event_type in events if hostname and hostname != GATEWAY}
    if not last:
        ledger.fail(job, "The renderer was restarted while the job ran", extra={"retryable": True})
    for hostname, event_type in last.items():
        if event_type not in ("completed", "failed", "skipped"):
            ledger.append(
                job, "failed", "Failed", hostname=hostname, extra={"error": "the agent was restarted meanwhile"}
            )
