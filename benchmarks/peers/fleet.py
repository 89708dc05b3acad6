"""An item of ``/job`` as plain dicts: the fold is the gateway's, for it is the same rule for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from jobs.fold import FoldEvent, fold, go_duration

FLEET_STATUS = {
    "NOT_STARTED": "submitted",
    "IN_PROGRESS": "processing",
    "SUCCESS": "completed",
    "FAILURE": "failed",
    "PARTIAL_FAILURE": "partial_failure",
}
EVENT_NAMES = {"queued": "submitted", "stage": "started", "succeeded": "completed"}


def item(
    public_id: UUID,
    job_type: str,
    status: str,
    created: Any,
    request: Any,
    events: Sequence[FoldEvent],
    artifacts: Any,
) -> dict[str, Any]:
    outcome = fold(events, status)
    agents = outcome.agents if outcome.is_broadcast else {}
    told = {
        "id": str(public_id),
        "status": FLEET_STATUS[status],
        "created": created,
        "operation": request or {} if outcome.is_operation else {"type": job_type, "data": request},
        "result": outcome.result if outcome.is_operation else artifacts if status == "SUCCESS" else None,
        "changed": outcome.changed,
        "updated_at": outcome.updated_at or created,
        "responses": {
            host: {"status": agent.status, "data": agent.data, "changed": agent.changed, "hostname": host}
            | ({"error": agent.error} if agent.error else {})
            for host, agent in agents.items()
            if agent.has_ended
        },
        "agent_states": {
            host: {"status": agent.status, "duration": go_duration(agent.duration)}
            | ({"error": agent.error} if agent.error else {})
            for host, agent in agents.items()
        },
        "timeline": [
            {
                "timestamp": event.created_at,
                "event": EVENT_NAMES.get(event.event_type, event.event_type),
                "message": event.message,
            }
            | ({"hostname": event.hostname} if event.hostname else {})
            | ({"error": event.error} if event.error else {})
            for event in outcome.timeline
        ],
    }
    if outcome.error:
        told["error"] = outcome.error
    if outcome.hostname:
        told["hostname"] = outcome.hostname
    return told


def fold_events(events: Sequence[Any]) -> list[FoldEvent]:
    """Rows of an ORM as the fold reads them."""
    return [
        FoldEvent(
            event.seq,
            event.event_type,
            event.visibility,
            event.message,
            event.hostname,
            event.extra,
            event.created_at,
        )
        for event in events
    ]
