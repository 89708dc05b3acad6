"""Merges a record with the stored job: the interchange rules that need both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn, Protocol

from jobs.artifacts.storage_keys import check_storage_key
from jobs.fold import WORKFLOW_TERMINAL, AgentCounts, count_agents, decides_status, fold_status, is_operation
from jobs.ingest.interchange import (
    MAX_EVENTS,
    MAX_FINAL_ARTIFACTS,
    ArtifactLine,
    EventLine,
    Reason,
    Record,
    Rejected,
)
from jobs.models import JobStatus, Role, Visibility

TERMINAL_STATUSES = frozenset({JobStatus.SUCCESS.value, JobStatus.FAILURE.value, JobStatus.PARTIAL_FAILURE.value})


def merge(stored: Record | None, record: Record) -> Record:
    """The job after ``record``, with its status. Returns ``stored`` itself if nothing is new. Raises Rejected."""
    if stored is None:
        _check_size(record)
        return record._replace(status=resolve_status(record.events, record.status))
    _check_same_job(stored, record)
    events = stored.events + _new_events(stored, record)
    artifacts = _longer(stored.artifacts, record.artifacts)
    _check_size(stored._replace(events=events, artifacts=artifacts), stored)
    if len(events) > len(stored.events):
        status = resolve_status(events, record.status, stored.status)
        return stored._replace(status=status, events=events, artifacts=artifacts)
    if record.status not in (None, stored.status):
        # A record may be an older export of the job, with the status of its events then. Another status is an error.
        resolve_status([event for event in events if event.seq <= record.last_seq], record.status)
        if record.last_seq == stored.last_seq:
            _differs(f"status: {record.status}, but the store has {stored.status}")
    return stored if artifacts == stored.artifacts else stored._replace(artifacts=artifacts)


HEADER_COLUMNS = (  # of a job's row: those that its events decide
    "status",
    "updated_at",
    "last_seq",
    "last_public_seq",
    "is_operation",
    "agents_seq",
    *(f"agents_{state}" for state in AgentCounts._fields),
)


class EventHead(Protocol):
    """The parts of an event on which its job's row depends."""

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
    """The columns of a job's row that its events decide, except the status. ``events`` are all, by seq."""
    return {
        "updated_at": events[-1].created_at if events else created_at,
        "last_seq": events[-1].seq if events else 0,
        "last_public_seq": next((event.seq for event in reversed(events) if event.visibility == Visibility.PUBLIC), 0),
        "is_operation": is_operation(events),
        **agent_columns(count_agents(events), events[-1].seq if events else 0),
    }


def agent_columns(agents: AgentCounts, seq: int) -> dict[str, int]:
    """The columns of a job's row that count its agents, as of the event ``seq``."""
    return {"agents_seq": seq} | {f"agents_{state}": number for state, number in agents._asdict().items()}


def expected_status(events: Sequence[EventHead], stored: str) -> str:
    """The status that a job with ``events`` should have.

    It is ``stored`` if that is further than the events explain: such a job was loaded with a status, but without some
    of its events.
    """
    folded = fold_status(events)
    return stored if not decides_status(events) and _progress(stored) > _progress(folded) else folded


def _progress(status: str) -> int:
    return 2 if status in TERMINAL_STATUSES else int(status == JobStatus.IN_PROGRESS)


def check_keys(artifacts: Iterable[ArtifactLine], prefix: str) -> None:
    """Raises Rejected for a storage key outside the tenant's ``prefix``."""
    for index, artifact in enumerate(artifacts):
        try:
            check_storage_key(artifact.storage_key, prefix)
        except ValueError as error:
            raise Rejected(Reason.STORAGE_KEY, f"artifacts[{index}]: {error}") from None


def resolve_status(events: Sequence[EventLine], given: str | None, stored: str | None = None) -> str:
    """The status of a job with ``events``. The record has the status ``given``, the store ``stored`` (None: no status).

    Raises Rejected if the events contradict one of them, or end a workflow job twice.
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
            raise Rejected(
                Reason.STATUS, f"status: {given or stored} does not agree with the events, which make it {status}"
            )
        return status
    if given is not None:
        return given
    # A workflow job never goes back to NOT_STARTED.
    return stored if not operation and stored == JobStatus.IN_PROGRESS else folded


def _check_same_job(stored: Record, record: Record) -> None:
    if stored.tenant != record.tenant:
        raise Rejected(Reason.FOREIGN, "public_id: a job of another tenant has it")
    for name in ("job_type", "created_at", "request"):
        if getattr(stored, name) != getattr(record, name):
            _differs(f"{name}: differs from the stored job")


def _new_events(stored: Record, record: Record) -> tuple[EventLine, ...]:
    by_seq = {event.seq: event for event in stored.events}
    for event in record.events:
        if event.seq > stored.last_seq:
            continue
        if event.seq not in by_seq:
            raise Rejected(Reason.SEQ_LACKING, f"events: seq {event.seq} is not stored, but seq {stored.last_seq} is")
        if event != by_seq[event.seq]:
            raise Rejected(Reason.EVENT_DIFFERS, f"events: seq {event.seq} differs from the stored event")
    return tuple(event for event in record.events if event.seq > stored.last_seq)


def _longer(stored: tuple[ArtifactLine, ...], given: tuple[ArtifactLine, ...]) -> tuple[ArtifactLine, ...]:
    """The longer of two lists of artifacts without an event. One has to begin with the other. Raises Rejected."""
    shared = min(len(stored), len(given))
    if stored[:shared] != given[:shared]:
        _differs("artifacts: differ from those of the stored job")
    return max(stored, given, key=len)


def _check_size(after: Record, before: Record | None = None) -> None:
    """Raises Rejected for a job that grows beyond the bounds of a job. One that was stored before them may stay."""
    if len(after.events) > MAX_EVENTS and (before is None or len(after.events) > len(before.events)):
        raise Rejected(
            Reason.TOO_LARGE, f"events: {len(after.events):,} with those stored; a job has at most {MAX_EVENTS:,}"
        )
    if sum(len(event.artifacts) for event in after.events) + len(after.artifacts) <= MAX_FINAL_ARTIFACTS:
        return
    number = _final_artifacts(after)
    if number > MAX_FINAL_ARTIFACTS and (before is None or number > _final_artifacts(before)):
        raise Rejected(
            Reason.TOO_LARGE, f"artifacts: {number:,} with role final; a job has at most {MAX_FINAL_ARTIFACTS:,}"
        )


def _final_artifacts(record: Record) -> int:
    return sum(artifact.role == Role.FINAL for artifact in record.all_artifacts())


def _differs(detail: str) -> NoReturn:
    raise Rejected(Reason.JOB_DIFFERS, detail)
