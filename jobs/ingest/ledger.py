"""The write API for a studio backend in the same process: open a job, append to its timeline, end it.

    job = ledger.open_job(tenant, "MODEL_GENERATOR", {"prompt": "studio, soft light"})
    ledger.append(job, "queued", "Queued")
    ledger.append(job, "stage", "Rendering", stage="render", extra={"step": 1})
    ledger.finish(job, "Done", artifacts=[{"storage_key": key, "kind": "on_model_render", "role": "final"}])

Each call is a transaction, or a part of the caller's transaction. It locks the job's row, assigns ``seq``, updates
status and counts, takes the tenant's next position, and inserts the event and its artifacts. Readers see all of it or
nothing. A refused change raises a LedgerError that names the rule, and writes nothing. To change several jobs in one
transaction, use :func:`together`.

Every public event has a position, and so has every other change of a job that /v1 shows. A position is taken under the
lock of the tenant's counter, which is held until the transaction ends. So a caller's long transaction makes all other
writers of the tenant wait. On PostgreSQL they wait ``LEDGER_LOCK_SECONDS`` at most, and then raise LedgerBusy. On
SQLite, where any transaction makes all other writers wait, the ``timeout`` of the database is the limit.

On PostgreSQL a process has up to 32 connections, or ``DATABASE_POOL_SIZE``, and a call waits up to 30 seconds for one:
a backend that writes from more threads raises the setting. (A worker of the server has 4, and waits 1 second.)

A call that loses its connection, as in a failover, raises ConnectionLost, which says whether the change was committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from sqlite3 import SQLITE_BUSY
from typing import Any, Literal, NotRequired, ParamSpec, TypedDict, TypeVar, Unpack

import orjson
from django.conf import settings
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from ulid import ULID

from jobs.fold import AGENT_RANKS, GATEWAY, WORKFLOW_RANKS, WORKFLOW_TERMINAL, AgentCounts, agent_rank, count_agents
from jobs.ingest import counts, interchange
from jobs.ingest.interchange import MAX_EVENTS, MAX_FINAL_ARTIFACTS, MAX_SEQ, ArtifactLine, EventLine, Rejected
from jobs.ingest.merge import HEADER_COLUMNS, TERMINAL_STATUSES, agent_columns, check_keys, resolve_status
from jobs.ingest.row_writer import insert_artifacts, insert_events
from jobs.models import Artifact, Job, JobEvent, Role, Visibility
from jobs.postgresql.base import CommitOutcomeUnknown, ConnectionEnded
from jobs.ulid import parse_ulid
from tenants.models import Tenant

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")
ATTEMPTS = 5  # at a change that PostgreSQL cancels because of a deadlock
DEADLOCK, LOCK_TIMEOUT = "40P01", "55P03"  # SQLSTATE


class LedgerError(Exception):
    """A change was refused. Nothing was written, unless it is ConnectionLost."""


class ValueRefused(LedgerError):
    """A value that the store would change or that is too large, or a storage key outside the tenant's prefix."""


class JobNotFound(LedgerError):
    pass


class JobExists(LedgerError):
    pass


class JobEnded(LedgerError):
    """A workflow job that has ended accepts internal notes only."""


class WrongEventType(LedgerError):
    """An event type that this kind of job does not have."""


class NotNamed(LedgerError):
    """A job or a tenant that was not named in :func:`together`, so that it was not locked in order."""


class LedgerBusy(LedgerError):
    """Another transaction held a lock for too long. The same call may succeed later."""


class ConnectionLost(LedgerError, OperationalError):
    """The connection to the database was lost, or the server takes no writes any more: a failover, for example.

    ``committed`` is False if nothing was written, and None if the connection was lost during COMMIT, when only the
    store can say. The next call finds the new primary. A call is safe to repeat: ``open_job`` with the same
    ``public_id`` raises JobExists if the first one was committed. Compare ``last_seq`` of the job before an ``append``
    is repeated.
    """

    def __init__(self, committed: Literal[False] | None) -> None:
        outcome = "Nothing was written" if committed is False else "It is not known whether the change was committed"
        super().__init__(f"The connection to the database was lost. {outcome}.")
        self.committed = committed


class NewArtifact(TypedDict):
    """A file that the job made. ``storage_key`` is a path in the artifact store under the tenant's storage prefix."""

    storage_key: str
    kind: str
    role: str
    label: NotRequired[str | None]
    meta: NotRequired[dict[str, Any]]


class Details(TypedDict, total=False):
    """Optional members of an event. ``created_at`` is an aware datetime; the default is now."""

    stage: str | None
    visibility: str
    hostname: str | None
    extra: dict[str, Any]
    artifacts: Iterable[NewArtifact]
    created_at: datetime


def _retried(change: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
    """Repeats ``change`` after a deadlock, unless it is a part of the caller's transaction."""

    @wraps(change)
    def attempt(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        remaining = ATTEMPTS if _callers_transaction() is None else 1
        while True:
            remaining -= 1
            try:
                with _connection_errors(), _lock_errors():
                    return change(*args, **kwargs)
            except OperationalError as error:
                if _sqlstate(error) != DEADLOCK or not remaining:
                    raise

    return attempt


@contextmanager
def _lock_errors() -> Iterator[None]:
    """Raises LedgerBusy where the database gave up the wait for a lock."""
    try:
        yield
    except OperationalError as error:
        # The lower byte of SQLite's code is the error, the others are its details.
        is_busy = (getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF) == SQLITE_BUSY
        if not is_busy and _sqlstate(error) != LOCK_TIMEOUT:
            raise
        raise LedgerBusy(
            "Another transaction held the lock of the job or of its tenant's counter for too long. Keep transactions "
            "around ledger calls short."
        ) from error


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Raises ConnectionLost where PostgreSQL's connection is gone."""
    try:
        yield
    except LedgerError:
        raise
    except ConnectionEnded as error:
        raise ConnectionLost(None if isinstance(error, CommitOutcomeUnknown) else False) from error


def _sqlstate(error: OperationalError) -> str | None:
    return getattr(error.__cause__, "sqlstate", None)


@_retried
def open_job(
    tenant: Tenant,
    job_type: str,
    request: dict[str, Any] | None = None,
    *,
    public_id: ULID | str | None = None,
    created_at: datetime | None = None,
) -> Job:
    """Opens a job without events. Choose ``public_id`` to make a retry safe: the second call raises JobExists."""
    created_at = created_at or timezone.now()
    line = _checked(
        interchange.record,
        {
            "public_id": str(public_id or ULID.from_datetime(created_at)),
            "tenant": tenant.slug,
            "job_type": job_type,
            "created_at": created_at,
            "request": request,
        },
    )
    job = Job(
        public_id=line.public_id,
        tenant=tenant,
        job_type=line.job_type,
        created_at=line.created_at,
        updated_at=line.created_at,
        request=line.request and orjson.loads(line.request),
    )
    group, caller = _group.get(), _callers_transaction()
    with transaction.atomic():
        if group is not None:
            group.check((), [tenant.pk])
        else:
            _check_locked(caller, (), [tenant.pk])
        try:
            with transaction.atomic():
                job.save(force_insert=True)
        except IntegrityError as error:
            if not Job.all_tenants.filter(pk=job.pk).exists():
                raise
            raise JobExists(f"Job {job.pk} exists already.") from error
        _remember(caller, [job.pk], [tenant.pk])
        if group is not None:
            group.statuses[job.pk] = None
        else:
            # No position: nobody can have followed a job that did not exist.
            _update_counter(counts.status_change(tenant.pk, None, job.status), {})
    return job


def append(job: Job | ULID | str, event_type: str, message: str = "", **details: Unpack[Details]) -> JobEvent:
    """Appends an event to ``job``, a Job (which is not refreshed) or its public id, and returns the event.

    A workflow job's types are ``queued``, ``stage``, ``succeeded`` and ``failed``. An event that names its agent in
    ``hostname`` is ``submitted``, ``acknowledged``, ``started``, ``failed``, ``completed`` or ``skipped``, with its
    outcome in ``extra`` (``data``, ``changed``, ``error``). ``retried`` comes from the gateway itself, ``_api``.
    """
    members: dict[str, Any] = {"message": message, **details, "event_type": event_type}
    members["artifacts"] = list(members.get("artifacts") or ())  # an iterator gives them once
    return _append(_public_id(job), members)


@_retried
def _append(public_id: ULID, members: Mapping[str, Any]) -> JobEvent:
    with _locked(public_id) as row:
        _check_number_of_events(row)
        line = _checked(interchange.event, {"created_at": timezone.now(), **members, "seq": row.last_seq + 1})
        _check_type(line)
        _check_open(row, line)
        _check_artifacts(row, line.artifacts)
        before, is_public = row.status, line.visibility == Visibility.PUBLIC
        row.is_operation = row.is_operation or bool(line.hostname)
        _fold(row, line)  # while the row still has the last_seq of the event before
        row.updated_at = line.created_at
        row.last_seq = line.seq
        row.version += 1
        if is_public:
            row.last_public_seq = line.seq
        position = _save(row, before, is_shown=is_public or row.status != before)
        [event] = insert_events([(row.pk, row.tenant_id, position if is_public else None, line)])
    return event


def finish(job: Job | ULID | str, message: str = "", **details: Unpack[Details]) -> JobEvent:
    """Ends a workflow job with ``succeeded``. Its result is its artifacts with role ``final``."""
    return append(job, "succeeded", message, **details)


def fail(job: Job | ULID | str, message: str = "", **details: Unpack[Details]) -> JobEvent:
    """Ends a workflow job with ``failed``; ``message`` is shown as its error."""
    return append(job, "failed", message, **details)


def note(job: Job | ULID | str, message: str, **details: Unpack[Details]) -> JobEvent:
    """Appends an internal note, which the API never shows. A job accepts notes after its end too."""
    return append(job, "stage", message, **details | {"visibility": Visibility.INTERNAL.value})


def attach(job: Job | ULID | str, artifacts: Iterable[NewArtifact]) -> None:
    """Records artifacts without an event. Those with role ``final`` are part of the job's result."""
    _attach(_public_id(job), tuple(_checked(interchange.artifact, artifact) for artifact in artifacts))


@_retried
def _attach(public_id: ULID, lines: Sequence[ArtifactLine]) -> None:
    with _locked(public_id) as row:
        _check_artifacts(row, lines)
        row.version += len(lines)
        start = Artifact.all_tenants.filter(job=row, event=None).count()
        insert_artifacts((row.pk, row.tenant_id, None, position, line) for position, line in enumerate(lines, start))
        _save(row, row.status, is_shown=bool(lines))


@contextmanager
def together(*jobs: Job | ULID | str, tenants: Iterable[Tenant] = ()) -> Iterator[None]:
    """One transaction for changes of several jobs. Name all of them, except those that are opened inside.

    Name in ``tenants`` each tenant that a job is opened for, unless one of the named jobs is the tenant's. The jobs are
    locked first, then the counters of their tenants, each in ascending order of the ids, and the counters are written
    once at the end. So these transactions cannot deadlock with each other, with single calls or with the bulk loader.
    Anything that was not named raises NotNamed. A ``together`` inside another one is a part of it.
    """
    public_ids = {_public_id(job) for job in jobs}
    tenant_ids = {tenant.pk for tenant in tenants}
    if (outer := _group.get()) is not None:
        outer.check(public_ids, tenant_ids)
        yield
        return
    caller = _callers_transaction()
    with _connection_errors(), ExitStack() as stack:
        with _lock_errors():
            stack.enter_context(transaction.atomic())
            group = _lock_group(caller, public_ids, tenant_ids)
        surrounding = _group.set(group)
        try:
            yield
        finally:
            _group.reset(surrounding)
        # Read again, because the block may have rolled back a part of its changes.
        moves: counts.Changes = Counter()
        changed = Job.all_tenants.filter(pk__in=group.statuses)
        for pk, tenant_id, status in changed.values_list("pk", "tenant_id", "status"):
            moves.update(counts.status_change(tenant_id, group.statuses[pk], status))
        counts.apply(moves, group.taken)


@dataclass(slots=True)
class _Group:
    """What a :func:`together` has locked, and what it has to write to the counters."""

    statuses: dict[ULID, str | None]  # of each job, as the counts have it; None: not counted yet
    positions: dict[int, int]  # the last position of each tenant, by tenant id
    taken: Counter[int] = field(default_factory=Counter)  # the number of positions, by tenant id

    def check(self, jobs: Collection[ULID], tenants: Collection[int]) -> None:
        for public_id in jobs:
            if public_id not in self.statuses:
                raise NotNamed(f"Name job {public_id} in together(), so that it is locked in order.")
        if not self.positions.keys() >= set(tenants):
            raise NotNamed("Name the tenant in together(*jobs, tenants=[…]), so that its counter is locked in order.")

    def next_position(self, tenant_id: int) -> int:
        self.taken[tenant_id] += 1
        return self.positions[tenant_id] + self.taken[tenant_id]


_group: ContextVar[_Group | None] = ContextVar("group", default=None)


def _lock_group(caller: str | None, public_ids: Collection[ULID], tenant_ids: Collection[int]) -> _Group:
    locked = Job.all_tenants.select_for_update(no_key=True).filter(pk__in=public_ids).order_by("pk")
    _check_locked(caller, public_ids, tenant_ids)
    rows = list(locked.values_list("pk", "status", "tenant_id"))
    if missing := set(public_ids) - {pk for pk, _, _ in rows}:
        raise JobNotFound(f"No job has the id {min(missing)}.")
    tenants = {*tenant_ids, *(tenant_id for _, _, tenant_id in rows)}
    _remember(caller, public_ids, tenants)
    return _Group({pk: status for pk, status, _ in rows}, _update_counter(Counter(), dict.fromkeys(tenants, 0)))


@dataclass(frozen=True, slots=True)
class _Locked:
    """Jobs and tenants that a caller's transaction has locked through the ledger.

    It is registered with ``on_commit``, because Django drops what is registered there when the transaction ends, and
    when it rolls back to a savepoint from before, as the database drops the locks. It does nothing at the commit.
    """

    transaction: str
    jobs: frozenset[ULID]
    tenants: frozenset[int]

    def __call__(self) -> None:
        pass


def _callers_transaction() -> str | None:
    """Identifies the transaction that the caller has opened on this connection. None if there is none.

    Django's TestCase, and pytest-django with it, runs a test in transactions, which are not the caller's. There the
    savepoint of the caller's outermost block is the transaction.
    """
    blocks = connection.atomic_blocks
    of_tests = sum(block._from_testcase for block in blocks)  # type: ignore[attr-defined]  # no public name for it
    if len(blocks) == of_tests:
        return None
    return str(connection.savepoint_ids[of_tests - 1]) if of_tests else ""


def _remember(caller: str | None, jobs: Iterable[ULID], tenants: Iterable[int]) -> None:
    if caller is not None:
        transaction.on_commit(_Locked(caller, frozenset(jobs), frozenset(tenants)))


def _check_locked(caller: str | None, jobs: Collection[ULID], tenants: Collection[int]) -> bool:
    """Whether the caller's transaction has locked something. Raises NotNamed if it has, but not all of these.

    It may hold a counter already. Another lock after that, or another job's in any order, could end in a deadlock.
    """
    registered = [entry[1] for entry in connection.run_on_commit]
    locked = [each for each in registered if isinstance(each, _Locked) and each.transaction == caller]
    if not locked:
        return False
    if not set(jobs) <= frozenset().union(*(each.jobs for each in locked)):
        raise NotNamed(
            "This transaction has already changed another job through the ledger. Name all its jobs in one together(), "
            "so that they are locked in order."
        )
    if not set(tenants) <= frozenset().union(*(each.tenants for each in locked)):
        raise NotNamed(
            "This transaction has already changed a job of another tenant through the ledger. Name its jobs and its "
            "tenants in one together(), so that they are locked in order."
        )
    return True


@contextmanager
def _locked(public_id: ULID) -> Iterator[Job]:
    """The job's row, locked."""
    group, caller = _group.get(), _callers_transaction()
    with transaction.atomic():
        if group is not None:
            group.check([public_id], ())
            is_known = True
        else:
            is_known = _check_locked(caller, [public_id], ())
        locked = Job.all_tenants.select_related("tenant").select_for_update(of=("self",), no_key=True)
        row = locked.filter(pk=public_id).first()
        if row is None:
            raise JobNotFound(f"No job has the id {public_id}.")
        if not is_known:
            _remember(caller, [row.pk], [row.tenant_id])
        yield row


def _save(row: Job, before: str, is_shown: bool) -> int | None:
    """Writes the row, and the counts if its status was another ``before``. Returns a new position if /v1 shows it."""
    row.save(update_fields=_MOVED_BY_EVENTS)
    if not is_shown:
        return None
    if (group := _group.get()) is not None:
        return group.next_position(row.tenant_id)
    last = _update_counter(counts.status_change(row.tenant_id, before, row.status), {row.tenant_id: 1})
    return last[row.tenant_id]


def _update_counter(changes: counts.Changes, positions: Mapping[int, int]) -> dict[int, int]:
    return counts.apply(changes, positions, wait_seconds=settings.LEDGER_LOCK_SECONDS)


_MOVED_BY_EVENTS = ("version", *HEADER_COLUMNS)


def _public_id(job: Job | ULID | str) -> ULID:
    if isinstance(job, ULID):
        return job
    if isinstance(job, Job):
        return job.public_id
    try:
        return parse_ulid(job)
    except ValueError as error:
        raise JobNotFound(f"No such job: {error}.") from None


def _checked(read: Callable[[Any], Value], members: Mapping[str, Any]) -> Value:
    try:
        return read(members)
    except Rejected as error:
        raise ValueRefused(f"{error} ({error.reason})") from None


def _check_artifacts(row: Job, artifacts: Sequence[ArtifactLine]) -> None:
    try:
        check_keys(artifacts, row.tenant.storage_prefix)
    except Rejected as error:
        raise ValueRefused(str(error)) from None
    new = sum(artifact.role == Role.FINAL for artifact in artifacts)
    if not new:
        return
    number = new + Artifact.all_tenants.filter(job=row, role=Role.FINAL)[: MAX_FINAL_ARTIFACTS + 1].count()
    if number > MAX_FINAL_ARTIFACTS:
        raise ValueRefused(
            f"Job {row.pk} would have more than {MAX_FINAL_ARTIFACTS:,} artifacts with role final, the most that a job "
            "may have."
        )


def _check_number_of_events(row: Job) -> None:
    # seq may have holes, in jobs that were loaded. Where it is low, no event has to be counted.
    is_full = row.last_seq >= MAX_EVENTS and JobEvent.all_tenants.filter(job=row)[:MAX_EVENTS].count() == MAX_EVENTS
    if is_full:
        raise ValueRefused(f"Job {row.pk} has {MAX_EVENTS:,} events, the most that a job may have.")
    if row.last_seq == MAX_SEQ:
        raise ValueRefused(f"Job {row.pk} has an event with seq {MAX_SEQ}, the highest there is.")


def _check_type(line: EventLine) -> None:
    if not line.hostname:
        kind, known = "a workflow job", set(WORKFLOW_RANKS)
    elif line.hostname == GATEWAY:
        kind, known = "the gateway itself", {*AGENT_RANKS, "retried"}
    else:
        kind, known = "an agent", set(AGENT_RANKS)
    if line.event_type not in known:
        raise WrongEventType(f"Events of {kind} are {', '.join(sorted(known))}; not “{line.event_type}”.")


def _check_open(row: Job, line: EventLine) -> None:
    is_note = not line.hostname and line.event_type not in WORKFLOW_TERMINAL and line.visibility == Visibility.INTERNAL
    if row.is_operation and not line.hostname and not is_note:
        raise WrongEventType(f"Job {row.pk} is an operation: its events name their agent, except internal notes.")
    if not row.is_operation and row.status in TERMINAL_STATUSES and not is_note:
        raise JobEnded(f"Job {row.pk} has ended with {row.status}: it accepts internal notes only.")


def _fold(row: Job, line: EventLine) -> None:
    """Sets the row's status, and the counts of its agents, to what they are with ``line``.

    The kept counts make this one statement over a few index entries, whatever the number of agents and their events.
    """
    if not row.is_operation:
        row.status = resolve_status([line], None, row.status)  # the highest of its events, ``line`` included
        return
    agents, rank = _agents(row), agent_rank(line)
    if rank is not None:
        before = _rank_of_agent(row, line.hostname)
        if before is None or before < rank:
            agents = agents.moved(before, rank)
    for name, number in agent_columns(agents, line.seq).items():
        setattr(row, name, number)
    row.status = agents.status


def _agents(row: Job) -> AgentCounts:
    """The agents of the job's events so far."""
    if row.agents_seq == row.last_seq:
        return AgentCounts(**{state: getattr(row, f"agents_{state}") for state in AgentCounts._fields})
    # The last event was written before there were counts, or when the job was no operation yet: this happens once.
    return count_agents(JobEvent.all_tenants.filter(job=row).values_list("event_type", "hostname", named=True))


def _rank_of_agent(row: Job, hostname: str | None) -> int | None:
    """The rank of the agent's highest event; None for an agent that the job does not have yet."""
    said = JobEvent.all_tenants.filter(job=OuterRef("pk"), hostname=hostname)
    # One look at the index for each type of event: an agent may have any number of events.
    found = Job.all_tenants.filter(pk=row.pk).values_list(
        *(Exists(said.filter(event_type=event_type)) for event_type in AGENT_RANKS)
    )
    ranks = [rank for rank, exists in zip(AGENT_RANKS.values(), found.get(), strict=True) if exists]
    return max(ranks, default=None)
