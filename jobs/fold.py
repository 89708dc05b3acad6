"""The one rule of status: a job's events in, its status and outcome out.

Ingest stores the status that this module folds; the fleet dialect shows the outcome. Plain data in, plain data out: no
database, no clock. Internal events count wherever something is folded and are quoted nowhere but in ``result``: their
messages, errors and data stay inside, and an agent that only internal events name is counted but never named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

GATEWAY = "_api"  # the gateway's own source name: it makes a job an operation, and is no agent

SUBMITTED, ACKNOWLEDGED, STARTED, FAILED, COMPLETED = range(5)
AGENT_RANKS = {
    "submitted": SUBMITTED,
    "acknowledged": ACKNOWLEDGED,
    "started": STARTED,
    "failed": FAILED,
    "completed": COMPLETED,
}
# Rank and what it makes of the job. Any other event (a note, ``retried``) changes no status.
WORKFLOW_RANKS = {
    "queued": (0, "NOT_STARTED"),
    "stage": (1, "IN_PROGRESS"),
    "succeeded": (2, "SUCCESS"),
    "failed": (2, "FAILURE"),
}
WORKFLOW_TERMINAL = frozenset({"succeeded", "failed"})


_seq, _created_at = attrgetter("seq"), attrgetter("created_at")


class FoldEvent(NamedTuple):
    """One event of a job, as much of it as an outcome needs."""

    seq: int
    event_type: str
    visibility: str
    message: str
    hostname: str | None
    extra: dict[str, Any]
    created_at: datetime

    @property
    def is_public(self) -> bool:
        return self.visibility == "public"

    @property
    def error(self) -> str | None:
        """The error that the event carries, if it is text."""
        error = self.extra.get("error")
        return error if error and isinstance(error, str) else None

    @property
    def changed(self) -> bool | None:
        changed = self.extra.get("changed")
        return changed if isinstance(changed, bool) else None


class TypeAndHost(Protocol):
    """All that a status depends on: a FoldEvent has it, and so has a JobEvent."""

    @property
    def event_type(self) -> str: ...

    @property
    def hostname(self) -> str | None: ...


@dataclass(slots=True)
class Agent:
    """One host's share of an operation job; ``state`` is its event of highest rank, of equals the latest."""

    rank: int
    state: FoldEvent
    started_at: datetime | None = None
    last_end: FoldEvent | None = None
    is_named: bool = False

    @property
    def status(self) -> str:
        return self.state.event_type

    @property
    def has_ended(self) -> bool:
        return self.rank >= FAILED

    @property
    def error(self) -> str | None:
        return self.state.error if self.state.is_public else None

    @property
    def data(self) -> Any:
        return self.state.extra.get("data") if self.state.is_public else None

    @property
    def changed(self) -> bool | None:
        return self.state.changed if self.state.is_public else None

    @property
    def duration(self) -> timedelta:
        """From the first start to the last end; zero while either is missing."""
        if self.started_at is None or self.last_end is None:
            return timedelta()
        return self.last_end.created_at - self.started_at


@dataclass(slots=True)
class Outcome:
    """What a job's events say.

    ``status`` is the stored spelling. ``agents`` are those that may be named, in order of appearance, whatever their
    number; ``is_broadcast`` says whether there is more than one, named or not. ``result`` is an operation's: a workflow
    job's are its final artifacts, which are no events. ``timeline`` are the public events by time, then ``seq``.
    """

    status: str
    is_operation: bool
    timeline: list[FoldEvent]
    updated_at: datetime | None
    agents: dict[str, Agent]
    is_broadcast: bool = False
    hostname: str | None = None
    result: Any = None
    changed: bool | None = None
    error: str | None = None


def fold_status(events: Iterable[TypeAndHost]) -> str:
    """The stored status that ``events``, in any order, amount to; ``NOT_STARTED`` for none."""
    events = list(events)
    if not is_operation(events):
        return _workflow_status(events)
    ranks: dict[str, int] = {}
    for event in events:
        rank = AGENT_RANKS.get(event.event_type)
        if rank is not None and (host := event.hostname) and host != GATEWAY:
            ranks[host] = max(rank, ranks.get(host, rank))
    return _operation_status(ranks.values())


def is_operation(events: Iterable[TypeAndHost]) -> bool:
    """Whether the events name a host, the gateway's own ``_api`` included."""
    return any(event.hostname for event in events)


def decides_status(events: Iterable[TypeAndHost]) -> bool:
    """Whether the events leave no other status to be given: one of them ends the job, or ends it for an agent."""
    events = list(events)
    if is_operation(events):
        return any(
            AGENT_RANKS.get(event.event_type, 0) >= FAILED and event.hostname and event.hostname != GATEWAY
            for event in events
        )
    return any(event.event_type in WORKFLOW_TERMINAL for event in events)


def fold(events: Sequence[FoldEvent], stored_status: str | None = None) -> Outcome:
    """The outcome of the job whose events these are: all of them, by ``seq``.

    ``stored_status`` stands in for the folded one, for jobs that came without their events.
    """
    operation = is_operation(events)
    outcome = Outcome(
        status=stored_status or "",
        is_operation=operation,
        # The sort is stable and the events come by seq, so that seq settles equal times.
        timeline=sorted([event for event in events if event.visibility == "public"], key=_created_at),
        updated_at=events[-1].created_at if events else None,
        agents={},
    )
    (_fold_operation if operation else _fold_workflow)(outcome, events)
    return outcome


def go_duration(elapsed: timedelta) -> str:
    """``elapsed`` as Go's ``time.Duration`` prints it, to the microsecond: 0s, 250ms, 3.512s, 1m3.5s, 1h0m0s."""
    micros = elapsed // timedelta(microseconds=1)
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    if 0 < micros < 1_000:
        return f"{sign}{micros}µs"
    if 0 < micros < 1_000_000:
        return f"{sign}{_decimal(micros, 1_000)}ms"
    minutes, micros = divmod(micros, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(micros, 1_000_000)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else f"{sign}{text}"


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _workflow_status(events: Iterable[TypeAndHost]) -> str:
    ranked = (WORKFLOW_RANKS.get(event.event_type, (0, "NOT_STARTED")) for event in events)
    # The first of the highest: a second terminal event is refused on the way in, and would not count here.
    return max(ranked, key=lambda rank_and_status: rank_and_status[0], default=(0, "NOT_STARTED"))[1]


def _operation_status(ranks: Collection[int]) -> str:
    if not any(ranks):  # no agent, or all of them only submitted
        return "NOT_STARTED"
    if min(ranks) < FAILED:
        return "IN_PROGRESS"
    if min(ranks) == COMPLETED:
        return "SUCCESS"
    return "PARTIAL_FAILURE" if max(ranks) == COMPLETED else "FAILURE"


def _fold_workflow(outcome: Outcome, events: Sequence[FoldEvent]) -> None:
    outcome.status = outcome.status or _workflow_status(events)
    if outcome.status == "FAILURE":
        failed = next((event for event in events if event.event_type == "failed"), None)
        outcome.error = failed.message or None if failed and failed.is_public else None


def _fold_operation(outcome: Outcome, events: Sequence[FoldEvent]) -> None:
    agents = _agents(events)
    outcome.status = outcome.status or _operation_status([agent.rank for agent in agents.values()])
    outcome.is_broadcast = len(agents) > 1
    outcome.agents = {host: agent for host, agent in agents.items() if agent.is_named}

    ends = [agent.last_end for agent in outcome.agents.values() if agent.last_end]
    outcome.hostname = max(ends, key=_seq).hostname if ends else None
    if outcome.status in ("SUCCESS", "PARTIAL_FAILURE"):
        completed = [agent.state for agent in agents.values() if agent.rank == COMPLETED]
        outcome.result = max(completed, key=_seq).extra.get("data") if completed else None
        outcome.changed = any(event.changed for event in completed)
    if outcome.status in ("FAILURE", "PARTIAL_FAILURE"):
        failed = [agent.state for agent in agents.values() if agent.rank == FAILED and agent.state.is_public]
        outcome.error = max(failed, key=_seq).error if failed else None


def _agents(events: Sequence[FoldEvent]) -> dict[str, Agent]:
    agents: dict[str, Agent] = {}
    for event in events:
        host, rank = event.hostname, AGENT_RANKS.get(event.event_type)
        if rank is None or not host or host == GATEWAY:
            continue
        agent = agents.get(host)
        if agent is None:
            agent = agents[host] = Agent(rank, event)
        elif rank >= agent.rank:  # of equals, the latest
            agent.rank, agent.state = rank, event
        if rank >= FAILED:
            agent.last_end = event
        elif rank == STARTED and agent.started_at is None:
            agent.started_at = event.created_at
        if event.visibility == "public":
            agent.is_named = True
    return agents
