"""What a record makes of the job that the store has: the rules of the interchange that need both to be known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn, Protocol

from jobs.artifacts.storage_keys import check_storage_key
from jobs.fold import WORKFLOW_TERMINAL, decides_status, fold_status, is_operation
from jobs.ingest.interchange import ArtifactLine, EventLine, Reason, Record, Rejected
from jobs.models import JobStatus, Visibility

TERMINAL_STATUSES = frozenset({JobStatus.SUCCESS.value, JobStatus.FAILURE.value, JobStatus.PARTIAL_FAILURE.value})


def merge(stored: Record | None, record: Record) -> Record:
    """The job after ``record``, its status settled: ``stored`` itself where nothing is new. Raises Rejected."""
    if stored is None:
        return record._replace(status=resolve_status(record.events, record.status))
    _check_same_job(stored, record)
    events = stored.events + _new_events(stored, record)
    artifacts = _longer(stored.artifacts, record.artifacts)
    if len(events) > len(stored.events):
        status = resolve_status(events, record.status, stored.status)
        return stored._replace(status=status, events=events, artifacts=artifacts)
    if record.status not in (None, stored.status):
        # An older state of the job, as its events were then, is no news; another status for the same events is.
        resolve_status([event for event in events if event.seq <= record.last_seq], record.status)
        if record.last_seq == stored.last_seq:
            _differs(f"status: {record.status}, where the store has {stored.status}")
    return stored if artifacts == stored.artifacts else stored._replace(artifacts=artifacts)


class EventHead(Protocol):
    """As much of an event as its job's row depends on."""

    @property
    def seq(self) -> int: ...

    @property
    def event_type(self) -> str: ...

    @property
    def visibility(self) -> str: ...

    @property
    def hostname(self) -> str | None: ...

    @property
    def created_at(self) -> datetime: ...


def header(created_at: datetime, events: Sequence[EventHead]) -> dict[str, Any]:
    """What all events of a job, by seq, make of its row's columns, the status aside."""
    return {
        "updated_at": events[-1].created_at if events else created_at,
        "last_seq": events[-1].seq if events else 0,
        "last_public_seq": next((event.seq for event in reversed(events) if event.visibility == Visibility.PUBLIC), 0),
        "is_operation": is_operation(events),
    }


def expected_status(events: Sequence[EventHead], stored: str) -> str:
    """The status that a job with ``events`` should have: ``stored`` where it is ahead of what they explain.

    Such a job came without some of its events, with its status given.
    """
    folded = fold_status(events)
    return stored if not decides_status(events) and _progress(stored) > _progress(folded) else folded


def _progress(status: str) -> int:
    return 2 if status in TERMINAL_STATUSES else int(status == JobStatus.IN_PROGRESS)


def check_keys(artifacts: Iterable[ArtifactLine], prefix: str) -> None:
    """Raises Rejected for a storage key that may not be of the tenant with ``prefix``."""
    for index, artifact in enumerate(artifacts):
        try:
            check_storage_key(artifact.storage_key, prefix)
        except ValueError as error:
            raise Rejected(Reason.STORAGE_KEY, f"artifacts[{index}]: {error}") from None


def resolve_status(events: Sequence[EventLine], given: str | None, stored: str | None = None) -> str:
    """The status of a job with ``events``, where the record says ``given`` and the store ``stored`` (None: nothing).

    Raises Rejected where the events contradict either, or end a workflow job twice.
    """
    folded = fold_status(events)
    operation = is_operation(events)
    if not operation and sum(each.event_type in WORKFLOW_TERMINAL for each in events) > 1:
        raise Rejected(Reason.SECOND_END, "events: a workflow job ends once, with one succeeded or failed")
    # The stored status of a workflow job that has ended stands; an operation's always follows its agents.
    ended = stored if not operation and stored in TERMINAL_STATUSES else None
    if decides_status(events) or ended:
        status = folded if decides_status(events) else str(ended)
        if given not in (None, status) or ended not in (None, status):
            raise Rejected(Reason.STATUS, f"status: {given or stored} is said, where the events make it {status}")
        return status
    if given is not None:
        return given
    # A workflow job never goes back to not started, be its start known from an event or from its given status.
    return stored if not operation and stored == JobStatus.IN_PROGRESS else folded


def _check_same_job(stored: Record, record: Record) -> None:
    if stored.tenant != record.tenant:
        raise Rejected(Reason.FOREIGN, "public_id: it belongs to a job of another tenant")
    for name in ("job_type", "created_at", "request"):
        if getattr(stored, name) != getattr(record, name):
            _differs(f"{name}: not that of the stored job")


def _new_events(stored: Record, record: Record) -> tuple[EventLine, ...]:
    by_seq = {event.seq: event for event in stored.events}
    for event in record.events:
        if event.seq > stored.last_seq:
            continue
        if event.seq not in by_seq:
            raise Rejected(
                Reason.SEQ_LACKING, f"events: seq {event.seq} is not stored, where seq {stored.last_seq} already is"
            )
        if event != by_seq[event.seq]:
            raise Rejected(Reason.EVENT_DIFFERS, f"events: seq {event.seq} is not the stored event")
    return tuple(event for event in record.events if event.seq > stored.last_seq)


def _longer(stored: tuple[ArtifactLine, ...], given: tuple[ArtifactLine, ...]) -> tuple[ArtifactLine, ...]:
    """Of two lists of artifacts, one of which begins with the other: those with no event are only ever appended too."""
    shared = min(len(stored), len(given))
    if stored[:shared] != given[:shared]:
        _differs("artifacts: not those of the stored job")
    return max(stored, given, key=len)


def _differs(detail: str) -> NoReturn:
    raise Rejected(Reason.JOB_DIFFERS, detail)
