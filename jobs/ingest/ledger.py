"""The way in for a studio backend that runs in the same process: open a job, append to its timeline, end it.

    job = ledger.open_job(tenant, "MODEL_GENERATOR", {"prompt": "studio, soft light"})
    ledger.append(job, "queued", "Queued")
    ledger.append(job, "stage", "Rendering", stage="render", extra={"step": 1})
    ledger.finish(job, "Done", artifacts=[{"storage_key": key, "kind": "on_model_render", "role": "final"}])

Each call is a transaction of its own, or a part of the caller's: the job's row is locked, ``seq`` handed out, event and
artifacts are inserted, status and counts follow, and readers see all of it or nothing. A mistake raises a LedgerError
that names the rule, and writes nothing. Who changes several jobs in one transaction does it in :func:`together`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NotRequired, TypedDict, TypeVar, Unpack

import orjson
from django.db import IntegrityError, transaction
from django.utils import timezone
from ulid import ULID

from jobs.fold import AGENT_RANKS, GATEWAY, WORKFLOW_RANKS, WORKFLOW_TERMINAL, fold_status
from jobs.ingest import counts, interchange
from jobs.ingest.interchange import MAX_SEQ, ArtifactLine, EventLine, Rejected
from jobs.ingest.merge import TERMINAL_STATUSES, check_keys, resolve_status
from jobs.ingest.row_writer import insert_artifacts, insert_events
from jobs.models import Artifact, Job, JobEvent, Visibility
from jobs.ulid import parse_ulid
from tenants.models import Tenant

Value = TypeVar("Value")


class LedgerError(Exception):
    """A change that was refused; nothing of it was written."""


class ValueRefused(LedgerError):
    """A value that the store would not keep faithfully, or a storage key that may not be the tenant's."""


class JobNotFound(LedgerError):
    pass


class JobExists(LedgerError):
    pass


class JobEnded(LedgerError):
    """A workflow job that has ended takes internal notes and nothing else."""


class WrongEventType(LedgerError):
    """An event type that jobs of this kind do not have."""


class NotNamed(LedgerError):
    """A job that :func:`together` was not told of, so that it was not locked in order."""


class NewArtifact(TypedDict):
    """A file that the job made. ``storage_key`` is a path in the artifact store under the tenant's storage prefix."""

    storage_key: str
    kind: str
    role: str
    label: NotRequired[str | None]
    meta: NotRequired[dict[str, Any]]


class Details(TypedDict, total=False):
    """What else an event may say. ``created_at`` is aware, and now unless it is given."""

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
    """A new job, not started and without events. ``public_id`` may be chosen, so that a retry opens it once."""
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
            raise JobExists(f"There is a job {job.pk} already.") from error
        if (group := _group.get()) is not None:
            group[job.pk] = None
        else:
            counts.apply(counts.status_change(tenant.pk, None, job.status))
    return job


def append(job: Job | ULID | str, event_type: str, message: str = "", **details: Unpack[Details]) -> JobEvent:
    """The event that was appended to ``job``: a Job (which is not refreshed) or its public id.

    A workflow job's types are ``queued``, ``stage``, ``succeeded`` and ``failed``. An event that names its agent in
    ``hostname`` is ``submitted``, ``acknowledged``, ``started``, ``failed`` or ``completed``, its outcome in ``extra``
    (``data``, ``changed``, ``error``); ``retried`` comes from the gateway itself, ``_api``.
    """
    with _changing(job) as row:
        members: dict[str, Any] = {"message": message, "created_at": timezone.now(), **details}
        members["artifacts"] = list(members.get("artifacts", ()))
        if row.last_seq == MAX_SEQ:
            raise ValueRefused(f"Job {row.pk} has as many events as a job can have.")
        line = _checked(interchange.event, members | {"event_type": event_type, "seq": row.last_seq + 1})
        _check_type(line)
        _check_open(row, line)
        _check_artifacts(row, line.artifacts)
        row.is_operation = row.is_operation or bool(line.hostname)
        row.status = _status(row, line)
        row.updated_at = line.created_at
        row.last_seq = line.seq
        row.version += 1
        if line.visibility == Visibility.PUBLIC:
            row.last_public_seq = line.seq
        [event] = insert_events([(row.pk, row.tenant_id, line)])
    return event


def finish(job: Job | ULID | str, message: str = "", **details: Unpack[Details]) -> JobEvent:
    """Ends a workflow job with ``succeeded``; its result are its artifacts whose role is ``final``."""
    return append(job, "succeeded", message, **details)


def fail(job: Job | ULID | str, message: str = "", **details: Unpack[Details]) -> JobEvent:
    """Ends a workflow job with ``failed``; ``message`` is shown as its error."""
    return append(job, "failed", message, **details)


def note(job: Job | ULID | str, message: str, **details: Unpack[Details]) -> JobEvent:
    """An internal remark, which never leaves the gateway; the one event that a job takes after its end."""
    return append(job, "stage", message, **details | {"visibility": Visibility.INTERNAL.value})


def attach(job: Job | ULID | str, artifacts: Iterable[NewArtifact]) -> None:
    """Records artifacts with no event; those with role ``final`` are part of the job's result."""
    with _changing(job) as row:
        lines = tuple(_checked(interchange.artifact, artifact) for artifact in artifacts)
        _check_artifacts(row, lines)
        row.version += len(lines)
        start = Artifact.all_tenants.filter(job=row, event=None).count()
        insert_artifacts((row.pk, row.tenant_id, None, position, line) for position, line in enumerate(lines, start))


@contextmanager
def together(*jobs: Job | ULID | str) -> Iterator[None]:
    """One transaction for changes of several jobs, all of them named here; jobs opened inside need no name.

    Locked in ascending order of their ids, and with the counts written once at the end, such transactions cannot
    deadlock with each other, nor with the bulk loader. (Two calls for two jobs in a bare ``atomic`` block can.)
    """
    with transaction.atomic():
        group: dict[ULID, str | None] = dict.fromkeys(sorted(_public_id(job) for job in jobs))
        locked = Job.all_tenants.select_for_update(no_key=True).filter(pk__in=group).order_by("pk")
        before = dict(locked.values_list("pk", "status"))
        if missing := group.keys() - before.keys():
            raise JobNotFound(f"There is no job {min(missing)}.")
        group.update(before)
        outer = _group.set(group)
        try:
            yield
        finally:
            _group.reset(outer)
        # What is there now, for the block may have rolled a part of itself back.
        moves: counts.Changes = Counter()
        for pk, tenant_id, status in Job.all_tenants.filter(pk__in=group).values_list("pk", "tenant_id", "status"):
            moves.update(counts.status_change(tenant_id, group[pk], status))
        counts.apply(moves)


# The jobs of the surrounding together(), by id, with the status that the counts have for each (None: not counted yet).
_group: ContextVar[dict[ULID, str | None] | None] = ContextVar("group", default=None)


@contextmanager
def _changing(job: Job | ULID | str) -> Iterator[Job]:
    """The job's row, locked; saved when the block ends, and then counted."""
    public_id, group = _public_id(job), _group.get()
    with transaction.atomic():
        if group is not None and public_id not in group:
            raise NotNamed(f"Name job {public_id} in together(), so that it is locked in order.")
        locked = Job.all_tenants.select_related("tenant").select_for_update(of=("self",), no_key=True)
        row = locked.filter(pk=public_id).first()
        if row is None:
            raise JobNotFound(f"There is no job {public_id}.")
        before = row.status
        yield row
        row.save(update_fields=_MOVED_BY_EVENTS)
        if group is None:
            counts.apply(counts.status_change(row.tenant_id, before, row.status))


_MOVED_BY_EVENTS = ("status", "updated_at", "last_seq", "last_public_seq", "is_operation", "version")


def _public_id(job: Job | ULID | str) -> ULID:
    if isinstance(job, ULID):
        return job
    if isinstance(job, Job):
        return job.public_id
    try:
        return parse_ulid(job)
    except ValueError as error:
        raise JobNotFound(f"There is no such job: {error}.") from None


def _checked(read: Callable[[Any], Value], members: Mapping[str, Any]) -> Value:
    try:
        return read(members)
    except Rejected as error:
        raise ValueRefused(f"{error} ({error.reason})") from None


def _check_artifacts(row: Job, artifacts: Iterable[ArtifactLine]) -> None:
    try:
        check_keys(artifacts, row.tenant.storage_prefix)
    except Rejected as error:
        raise ValueRefused(str(error)) from None


def _check_type(line: EventLine) -> None:
    if not line.hostname:
        kind, known = "a workflow job", set(WORKFLOW_RANKS)
    elif line.hostname == GATEWAY:
        kind, known = "the gateway itself", {*AGENT_RANKS, "retried"}
    else:
        kind, known = "an agent", set(AGENT_RANKS)
    if line.event_type not in known:
        raise WrongEventType(f"Events of {kind} are {', '.join(sorted(known))}; not {line.event_type!r}.")


def _check_open(row: Job, line: EventLine) -> None:
    is_note = not line.hostname and line.event_type not in WORKFLOW_TERMINAL and line.visibility == Visibility.INTERNAL
    if row.is_operation and not line.hostname and not is_note:
        raise WrongEventType(f"Job {row.pk} is an operation: its events name their agent, internal notes aside.")
    if not row.is_operation and row.status in TERMINAL_STATUSES and not is_note:
        raise JobEnded(f"Job {row.pk} has ended with {row.status}: it takes internal notes and nothing else.")


def _status(row: Job, line: EventLine) -> str:
    if not row.is_operation:
        return resolve_status(
            [line], None, row.status
        )  # the highest of its events: what it is, or what this one makes it
    events = JobEvent.all_tenants.filter(job=row).values_list("event_type", "hostname", named=True)
    return fold_status([*events, line])
