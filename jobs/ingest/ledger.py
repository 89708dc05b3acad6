"""The write API for a studio backend in the same process: open a job, append to its timeline, end it.

    job = ledger.open_job(tenant, "MODEL_GENERATOR", {"prompt": "studio, soft light"})
    ledger.append(job, "queued", "Queued")
    ledger.append(job, "stage", "Rendering", stage="render", extra={"step": 1})
    ledger.finish(job, "Done", artifacts=[{"storage_key": key, "kind": "on_model_render", "role": "final"}])

Each call is a transaction, or a part of the caller's transaction. It locks the job's row, assigns ``seq``, inserts the
event and its artifacts, and updates status and counts. Readers see all of it or nothing. A refused change raises a
LedgerError that names the rule, and writes nothing. To change several jobs in one transaction, use :func:`together`.

On PostgreSQL a process has up to 32 connections, or ``DATABASE_POOL_SIZE``, and a call waits up to 30 seconds for one:
a backend that writes from more threads raises the setting. (A worker of the server has 4, and waits 1 second.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NotRequired, TypedDict, TypeVar, Unpack

import orjson
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from ulid import ULID

from jobs.fold import AGENT_RANKS, GATEWAY, WORKFLOW_RANKS, WORKFLOW_TERMINAL, AgentCounts, agent_rank, count_agents
from jobs.ingest import counts, interchange
from jobs.ingest.interchange import MAX_EVENTS, MAX_FINAL_ARTIFACTS, MAX_SEQ, ArtifactLine, EventLine, Rejected
from jobs.ingest.merge import HEADER_COLUMNS, TERMINAL_STATUSES, agent_columns, check_keys, resolve_status
from jobs.ingest.row_writer import insert_artifacts, insert_events
from jobs.models import Artifact, Job, JobEvent, Role, Visibility
from jobs.ulid import parse_ulid
from tenants.models import Tenant

Value = TypeVar("Value")


class LedgerError(Exception):
    """A change was refused. Nothing was written."""


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
    """A job that was not named in :func:`together`, so that it was not locked in order."""


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
    with transaction.atomic():
        try:
            with transaction.atomic():
                job.save(force_insert=True)
        except IntegrityError as error:
            if not Job.all_tenants.filter(pk=job.pk).exists():
                raise
            raise JobExists(f"Job {job.pk} exists already.") from error
        if (group := _group.get()) is not None:
            group[job.pk] = None
        else:
            counts.apply(counts.status_change(tenant.pk, None, job.status))
    return job


def append(job: Job | ULID | str, event_type: str, message: str = "", **details: Unpack[Details]) -> JobEvent:
    """Appends an event to ``job``, a Job (which is not refreshed) or its public id, and returns the event.

    A workflow job's types are ``queued``, ``stage``, ``succeeded`` and ``failed``. An event that names its agent in
    ``hostname`` is ``submitted``, ``acknowledged``, ``started``, ``failed``, ``completed`` or ``skipped``, with its
    outcome in ``extra`` (``data``, ``changed``, ``error``). ``retried`` comes from the gateway itself, ``_api``.
    """
    with _changing(job) as row:
        members: dict[str, Any] = {"message": message, "created_at": timezone.now(), **details}
        members["artifacts"] = list(members.get("artifacts") or ())
        _check_number_of_events(row)
        line = _checked(interchange.event, members | {"event_type": event_type, "seq": row.last_seq + 1})
        _check_type(line)
        _check_open(row, line)
        _check_artifacts(row, line.artifacts)
        row.is_operation = row.is_operation or bool(line.hostname)
        _fold(row, line)  # while the row still has the last_seq of the event before
        row.updated_at = line.created_at
        row.last_seq = line.seq
        row.version += 1
        if line.visibility == Visibility.PUBLIC:
            row.last_public_seq = line.seq
        [event] = insert_events([(row.pk, row.tenant_id, line)])
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
    with _changing(job) as row:
        lines = tuple(_checked(interchange.artifact, artifact) for artifact in artifacts)
        _check_artifacts(row, lines)
        row.version += len(lines)
        start = Artifact.all_tenants.filter(job=row, event=None).count()
        insert_artifacts((row.pk, row.tenant_id, None, position, line) for position, line in enumerate(lines, start))


@contextmanager
def together(*jobs: Job | ULID | str) -> Iterator[None]:
    """One transaction for changes of several jobs. Name all of them, except those that are opened inside.

    The jobs are locked in ascending order of their ids, and the counts are written once at the end. So these
    transactions cannot deadlock with each other or with the bulk loader. (Two calls in a plain ``atomic`` block can.)
    """
    with transaction.atomic():
        group: dict[ULID, str | None] = dict.fromkeys(sorted(_public_id(job) for job in jobs))
        locked = Job.all_tenants.select_for_update(no_key=True).filter(pk__in=group).order_by("pk")
        before = dict(locked.values_list("pk", "status"))
        if missing := group.keys() - before.keys():
            raise JobNotFound(f"No job has the id {min(missing)}.")
        group.update(before)
        outer = _group.set(group)
        try:
            yield
        finally:
            _group.reset(outer)
        # Read again, because the block may have rolled back a part of its changes.
        moves: counts.Changes = Counter()
        for pk, tenant_id, status in Job.all_tenants.filter(pk__in=group).values_list("pk", "tenant_id", "status"):
            moves.update(counts.status_change(tenant_id, group[pk], status))
        counts.apply(moves)


# The jobs of the surrounding together(), by id, with the status that the counts have for each (None: not counted yet).
_group: ContextVar[dict[ULID, str | None] | None] = ContextVar("group", default=None)


@contextmanager
def _changing(job: Job | ULID | str) -> Iterator[Job]:
    """The job's row, locked. It is saved at the end of the block, and the counts are updated."""
    public_id, group = _public_id(job), _group.get()
    with transaction.atomic():
        if group is not None and public_id not in group:
            raise NotNamed(f"Name job {public_id} in together(), so that it is locked in order.")
        locked = Job.all_tenants.select_related("tenant").select_for_update(of=("self",), no_key=True)
        row = locked.filter(pk=public_id).first()
        if row is None:
            raise JobNotFound(f"No job has the id {public_id}.")
        before = row.status
        yield row
        row.save(update_fields=_MOVED_BY_EVENTS)
        if group is None:
            counts.apply(counts.status_change(row.tenant_id, before, row.status))


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
