"""One item of ``/job``, for all three peers: the rules of the fleet dialect as far as the benchmark's store needs them.

The status of a job is stored; the rest of an item is computed from the job's events. An event is anything that has the
columns of one as attributes, such as a row of an ORM.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

FLEET_STATUS = {
    "NOT_STARTED": "submitted",
    "IN_PROGRESS": "processing",
    "SUCCESS": "completed",
    "FAILURE": "failed",
    "PARTIAL_FAILURE": "partial_failure",
}
EVENT_NAMES = {"queued": "submitted", "stage": "started", "succeeded": "completed"}
# An agent's state is its event of the highest rank. An agent has ended from FAILED on.
RANKS = {"submitted": 0, "acknowledged": 1, "started": 2, "failed": 3, "completed": 4}
STARTED, FAILED, COMPLETED = 2, 3, 4

seq, created_at = attrgetter("seq"), attrgetter("created_at")


class Agent:
    """The part of one host in an operation."""

    __slots__ = ("end", "rank", "started_at", "state")

    def __init__(self, rank: int, state: Any) -> None:
        self.rank = rank
        self.state = state
        self.started_at: datetime | None = None
        self.end: Any = None


def agents_of(events: Sequence[Any]) -> dict[str, Agent]:
    """The agents by hostname, in order of their first event."""
    agents: dict[str, Agent] = {}
    for event in events:
        rank = RANKS.get(event.event_type)
        if rank is None or not event.hostname or event.hostname == "_api":
            continue
        agent = agents.get(event.hostname)
        if agent is None:
            agent = agents[event.hostname] = Agent(rank, event)
        elif rank >= agent.rank:
            agent.rank, agent.state = rank, event
        if rank >= FAILED:
            agent.end = event
        elif rank == STARTED and agent.started_at is None:
            agent.started_at = event.created_at
    return agents


def item(
    public_id: object,
    job_type: str,
    status: str,
    created: object,
    request: Any,
    events: Sequence[Any],
    artifacts: Any,
) -> dict[str, Any]:
    """The item of one job. ``events`` are all its events by ``seq``, ``artifacts`` its result where it succeeded."""
    is_operation = any(event.hostname for event in events)
    agents = agents_of(events) if is_operation else {}
    result: Any = artifacts if status == "SUCCESS" else None
    changed, error = None, None
    if is_operation:
        completed = [agent.state for agent in agents.values() if agent.rank == COMPLETED]
        failed = [agent.state for agent in agents.values() if agent.rank == FAILED]
        result = None
        if status in ("SUCCESS", "PARTIAL_FAILURE"):
            result = max(completed, key=seq).extra.get("data") if completed else None
            changed = any(event.extra.get("changed") is True for event in completed)
        if status in ("FAILURE", "PARTIAL_FAILURE") and failed:
            error = max(failed, key=seq).extra.get("error")
    elif status == "FAILURE":
        error = next((event.message for event in events if event.event_type == "failed"), None)
    ends = [agent.end for agent in agents.values() if agent.end]
    shown = agents if len(agents) > 1 else {}
    timeline = sorted([event for event in events if event.visibility == "public"], key=created_at)
    fields = {
        "id": str(public_id),
        "status": FLEET_STATUS[status],
        "created": created,
        "operation": ({} if request is None else request) if is_operation else {"type": job_type, "data": request},
        "result": result,
        "changed": changed,
        "updated_at": events[-1].created_at if events else created,
        "responses": {host: response(host, agent) for host, agent in shown.items() if agent.rank >= FAILED},
        "agent_states": {host: state(agent) for host, agent in shown.items()},
        "timeline": [line(event) for event in timeline],
    }
    if error:
        fields["error"] = error
    if ends:
        fields["hostname"] = max(ends, key=seq).hostname
    return fields


def response(host: str, agent: Agent) -> dict[str, Any]:
    extra = agent.state.extra
    fields = {
        "status": agent.state.event_type,
        "data": extra.get("data"),
        "changed": extra.get("changed"),
        "hostname": host,
    }
    return fields | {"error": extra["error"]} if extra.get("error") else fields


def state(agent: Agent) -> dict[str, Any]:
    elapsed = agent.end.created_at - agent.started_at if agent.end and agent.started_at else timedelta()
    fields = {"status": agent.state.event_type, "duration": duration(elapsed)}
    return fields | {"error": agent.state.extra["error"]} if agent.state.extra.get("error") else fields


def line(event: Any) -> dict[str, Any]:
    fields = {
        "timestamp": event.created_at,
        "event": EVENT_NAMES.get(event.event_type, event.event_type),
        "message": event.message,
    }
    if event.hostname:
        fields["hostname"] = event.hostname
    if event.extra.get("error"):
        fields["error"] = event.extra["error"]
    return fields


def duration(elapsed: timedelta) -> str:
    """A time of zero or more as Go's ``time.Duration`` prints it: 0s, 250ms, 3.512s, 1m3.5s, 1h0m0s."""
    microseconds = elapsed // timedelta(microseconds=1)
    if not microseconds:
        return "0s"
    if microseconds < 1_000:
        return f"{microseconds}µs"
    if microseconds < 1_000_000:
        return f"{microseconds / 1_000:.3f}".rstrip("0").rstrip(".") + "ms"
    minutes, microseconds = divmod(microseconds, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{microseconds / 1_000_000:.6f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
