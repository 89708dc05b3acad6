"""Computes ("folds") a job's status and outcome from its events.

Ingest stores the status; the fleet dialect shows the outcome. The functions are pure: no database, no clock. Internal
events count in every computation, but only ``result`` shows their data. Their messages and errors are never shown, and
an agent that only internal events name is counted and not named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

GATEWAY = "_api"  # the source name of the gateway itself: a job with it is an operation, but it is no agent

SUBMITTED, ACKNOWLEDGED, STARTED, FAILED, COMPLETED = range(5)
AGENT_RANKS = {
    "submitted": SUBMITTED,
    "acknowledged": ACKNOWLEDGED,
    "started": STARTED,
    "failed": FAILED,
    "completed": COMPLETED,
    "skipped": COMPLETED,  # the agent had nothing to change
}
# Rank and status of the job. Any other event (a note, ``retried``) changes no status.
WORKFLOW_RANKS = {
    "queued": (0, "NOT_STARTED"),
    "stage": (1, "IN_PROGRESS"),
    "succeeded": (2, "SUCCESS"),
    "failed": (2, "FAILURE"),
}
WORKFLOW_TERMINAL = frozenset({"succeeded", "failed"})


_seq, _created_at = attrgetter("seq"), attrgetter("created_at")


class FoldEvent(NamedTuple):
    """The parts of an event that an outcome needs."""

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
        """The event's error, if it is a non-empty string."""
        error = self.extra.get("error")
        return error if error and isinstance(error, str) else None

    @property
    def changed(self) -> bool | None:
        """Whether the agent changed something. An agent that skips changes nothing, whatever its event carries."""
        if self.event_type == "skipped":
            return False
        changed = self.extra.get("changed")
        return changed if isinstance(changed, bool) else None


class TypeAndHost(Protocol):
    """The parts of an event that a status needs. FoldEvent and JobEvent have them."""

    @property
    def event_type(self) -> str: ...

    @property
    def hostname(self) -> str | None: ...


class AgentCounts(NamedTuple):
    """How many agents of an operation are in which state. The operation's status depends on nothing else.

    ``active`` agents have acknowledged or started; ``completed`` ones have completed or skipped.
    """

    submitted: int = 0
    active: int = 0
    failed: int = 0
    completed: int = 0

    @property
    def status(self) -> str:
        """The stored status of an operation with these agents."""
        if not (self.active or self.failed or self.completed):
            return "NOT_STARTED"
        if self.submitted or self.active:
            return "IN_PROGRESS"
        if not self.failed:
            return "SUCCESS"
        return "PARTIAL_FAILURE" if self.completed else "FAILURE"

    def moved(self, before: int | None, after: int) -> AgentCounts:
        """The counts after one agent went from rank ``before`` (None: it is new) to rank ``after``."""
        counts = list(self)
        if before is not None:
            counts[_STATE_OF_RANK[before]] -= 1
        counts[_STATE_OF_RANK[after]] += 1
        return AgentCounts(*counts)


_STATE_OF_RANK = {SUBMITTED: 0, ACKNOWLEDGED: 1, STARTED: 1, FAILED: 2, COMPLETED: 3}  # its place in AgentCounts


def count_agents(events: Iterable[TypeAndHost]) -> AgentCounts:
    """The agents that ``events``, in any order, name. Each agent counts by its event of highest rank."""
    ranks: dict[str, int] = {}
    for event in events:
        if (host := event.hostname) and (rank := agent_rank(event)) is not None:
            ranks[host] = max(rank, ranks.get(host, rank))
    states = Counter(_STATE_OF_RANK[rank] for rank in ranks.values())
    return AgentCounts(*(states[state] for state in range(4)))


def agent_rank(event: TypeAndHost) -> int | None:
    """The rank of an agent's event. None for an event that no agent wrote, or whose type has no rank."""
    if not event.hostname or event.hostname == GATEWAY:
        return None
    return AGENT_RANKS.get(event.event_type)


def is_unknown_agent_event(event: TypeAndHost) -> bool:
    """Whether an agent wrote an event of a type that has no rank. Such an event is kept and changes no status."""
    return bool(event.hostname) and event.hostname != GATEWAY and event.event_type not in AGENT_RANKS


@dataclass(slots=True)
class Agent:
    """One agent of an operation. ``state`` is its event of highest rank; of equal ranks, the latest."""

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
        """From the first start to the last end. Zero if one of them is missing."""
        if self.started_at is None or self.last_end is None:
            return timedelta()
        return self.last_end.created_at - self.started_at


@dataclass(slots=True)
class Outcome:
    """The outcome of a job.

    ``status`` is the stored value. ``agents`` are those that may be named, in order of appearance. ``is_broadcast`` is
    true if the job has more than one agent, named or not. ``result`` is for operations only: the result of a workflow
    job is its final artifacts. ``timeline`` has the public events by time, then ``seq``.
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
    """The stored status of a job with ``events``, in any order. ``NOT_STARTED`` without events."""
    events = list(events)
    return count_agents(events).status if is_operation(events) else _workflow_status(events)


def is_operation(events: Iterable[TypeAndHost]) -> bool:
    """Whether an event names a host. ``_api``, the gateway itself, counts too."""
    for event in events:  # noqa: SIM110 - half the time of any(), in every load
        if event.hostname:
            return True
    return False


def decides_status(events: Iterable[TypeAndHost]) -> bool:
    """Whether the events decide the status, because one of them ends the job or an agent's part of it."""
    events = list(events)
    if is_operation(events):
        return any((agent_rank(event) or 0) >= FAILED for event in events)
    return any(event.event_type in WORKFLOW_TERMINAL for event in events)


def fold(events: Sequence[FoldEvent], stored_status: str | None = None) -> Outcome:
    """The outcome of a job with ``events``: all of them, by ``seq``.

    ``stored_status`` is used instead of the computed status. Jobs may have been loaded without their events.
    """
    operation = is_operation(events)
    outcome = Outcome(
        status=stored_status or "",
        is_operation=operation,
        # The sort is stable and the events are ordered by seq, so that seq breaks ties.
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


def _fold_workflow(outcome: Outcome, events: Sequence[FoldEvent]) -> None:
    outcome.status = outcome.status or _workflow_status(events)
    if outcome.status == "FAILURE":
        failed = next((event for event in events if event.event_type == "failed"), None)
        outcome.error = failed.message or None if failed and failed.is_public else None


def _fold_operation(outcome: Outcome, events: Sequence[FoldEvent]) -> None:
    agents = _agents(events)
    outcome.status = outcome.status or count_agents(events).status
    outcome.is_broadcast = len(agents) > 1
    outcome.agents = {host: agent for host, agent in agents.items() if agent.is_named}

    ends = [agent.last_end for agent in outcome.agents.values() if agent.last_end]
    outcome.hostname = max(ends, key=_seq).hostname if ends else None
    if outcome.status in ("SUCCESS", "PARTIAL_FAILURE"):
        completed = [agent.state for agent in agents.values() if agent.rank == COMPLETED]
        # Where every agent that ended well skipped, the job has the data of the latest that did.
        answer = _latest_completed(events) or max(completed, key=_seq, default=None)
        outcome.result = answer.extra.get("data") if answer else None
        outcome.changed = any(event.changed for event in completed)
    if outcome.status in ("FAILURE", "PARTIAL_FAILURE"):
        failed = [agent.state for agent in agents.values() if agent.rank == FAILED and agent.state.is_public]
        outcome.error = max(failed, key=_seq).error if failed else None


def _latest_completed(events: Sequence[FoldEvent]) -> FoldEvent | None:
    """The latest ``completed`` event of an agent."""
    by_agents = (event for event in reversed(events) if event.hostname and event.hostname != GATEWAY)
    return next((event for event in by_agents if event.event_type == "completed"), None)


def _agents(events: Sequence[FoldEvent]) -> dict[str, Agent]:
    agents: dict[str, Agent] = {}
    for event in events:
        host, rank = event.hostname, agent_rank(event)
        if rank is None or not host:
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
