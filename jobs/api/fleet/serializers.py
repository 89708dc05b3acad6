"""The shapes of ``/job``.

The declared fields feed the OpenAPI document; ``to_representation`` builds the same dicts from the fold's outcome. A
test holds the two together.
"""

from __future__ import annotations

import uuid
from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from orjson import Fragment
from rest_framework import serializers

from jobs.api.fleet.params import FLEET_STATUS, FleetListParams
from jobs.api.fleet.queries import FleetJob, FleetPage
from jobs.api.rendering import to_json
from jobs.api.tenant_renderer import TenantRenderer
from jobs.fold import Agent, FoldEvent, Outcome, fold, go_duration
from jobs.models import JobStatus

# A workflow job's own event types in the words of this dialect; agents use them already.
EVENT_NAMES = {"queued": "submitted", "stage": "started", "succeeded": "completed"}


@extend_schema_serializer(description="What one agent answered, once it ended.")
class AgentResponseSerializer(serializers.Serializer[Any]):
    status = serializers.CharField(required=False, help_text="completed or failed.")
    data = serializers.JSONField(  # type: ignore[assignment]  # declared fields never become attributes
        required=False, allow_null=True, help_text="What the agent answered."
    )
    changed = serializers.BooleanField(required=False, allow_null=True, help_text="Whether the agent changed its host.")
    error = serializers.CharField(required=False, help_text="Left out where there is none.")
    hostname = serializers.CharField(required=False, help_text="The agent.")


@extend_schema_serializer(description="How far one agent is.")
class AgentStateSerializer(serializers.Serializer[Any]):
    status = serializers.CharField(required=False, help_text="submitted, acknowledged, started, completed or failed.")
    error = serializers.CharField(required=False, help_text="Left out where there is none.")
    duration = serializers.CharField(
        required=False, help_text="From first start to last end, such as 250ms, 3.512s or 1m3.5s; 0s until both are."
    )


@extend_schema_serializer(description="One line of a job's timeline.")
class TimelineEventSerializer(serializers.Serializer[Any]):
    timestamp = serializers.CharField(required=False, help_text="RFC 3339, in UTC.")
    event = serializers.CharField(
        required=False, help_text="submitted, acknowledged, started, completed, failed or retried."
    )
    hostname = serializers.CharField(required=False, help_text="The agent, or _api for the gateway itself.")
    message = serializers.CharField(required=False, help_text="One line for a person to read.")
    error = serializers.CharField(required=False, help_text="Left out where there is none.")


@extend_schema_serializer(description="A job as fleet tooling sees it.")
class FleetJobResponseSerializer(serializers.Serializer[Any]):
    """Made with ``context={"renderer": …}``."""

    id = serializers.UUIDField(required=False, help_text="The 128 bits of the job's ULID.")
    status = serializers.CharField(
        required=False, help_text="submitted, processing, completed, failed or partial_failure."
    )
    created = serializers.CharField(required=False, help_text="RFC 3339, in UTC.")
    operation = serializers.DictField(
        required=False, help_text="What was asked for; of a workflow job its type and data."
    )
    result = serializers.JSONField(
        required=False, allow_null=True, help_text="The latest answer; of a workflow job its final artifacts."
    )
    changed = serializers.BooleanField(
        required=False, allow_null=True, help_text="Whether any agent changed something; null until the job completes."
    )
    error = serializers.CharField(required=False, help_text="The latest error, left out where there is none.")
    hostname = serializers.CharField(required=False, help_text="The agent that ended last.")
    updated_at = serializers.CharField(required=False, help_text="RFC 3339, in UTC: the time of the latest event.")
    responses = serializers.DictField(
        child=AgentResponseSerializer(), required=False, help_text="By hostname, of jobs with several agents."
    )
    agent_states = serializers.DictField(
        child=AgentStateSerializer(), required=False, help_text="By hostname, of jobs with several agents."
    )
    timeline = TimelineEventSerializer(many=True, required=False, help_text="The public events, the oldest first.")

    def to_representation(self, job: FleetJob) -> dict[str, Any]:
        outcome = fold(job.events, job.status)
        agents = outcome.agents if outcome.is_broadcast else {}
        out: TenantRenderer = self.context["renderer"]
        return {
            "id": str(uuid.UUID(job.hex_id)),
            "status": FLEET_STATUS[job.status],
            "created": job.created,
            "operation": operation(out, job, outcome),
            "result": result(out, job, outcome),
            "changed": outcome.changed,
            **given("error", out.redact_optional_text(outcome.error)),
            **given("hostname", out.redact_optional_text(outcome.hostname)),
            "updated_at": outcome.updated_at or job.created,
            "responses": out.redact_value(
                {host: response(host, agent) for host, agent in agents.items() if agent.has_ended}
            ),
            "agent_states": out.redact_value({host: state(agent) for host, agent in agents.items()}),
            "timeline": [timeline_event(out, event) for event in outcome.timeline],
        }


@extend_schema_serializer(description="One page of a tenant's jobs, with counts.", many=False)
class FleetJobListResponseSerializer(serializers.Serializer[Any]):
    """Made with ``context={"renderer": …}``."""

    total_items = serializers.IntegerField(required=False, help_text="How many jobs match the filter.")
    status_counts = serializers.DictField(
        child=serializers.IntegerField(), required=False, help_text="All the tenant's jobs by status."
    )
    items = FleetJobResponseSerializer(many=True, required=False, help_text="One page of jobs, newest first.")

    def to_representation(self, listing: tuple[FleetPage, FleetListParams]) -> dict[str, Any]:
        page, params = listing
        job = FleetJobResponseSerializer(context=self.context).to_representation
        counts = page.status_counts
        return {
            "total_items": counts[params.status] if params.status else sum(counts.values()),
            "status_counts": counts,
            # Written one by one: a page of dicts would be gone through by the garbage collector again and again.
            "items": [Fragment(to_json(job(row))) for row in page.jobs],
        }


def operation(out: TenantRenderer, job: FleetJob, outcome: Outcome) -> dict[str, Any]:
    request = out.redact_value(job.request)
    return request or {} if outcome.is_operation else {"type": job.job_type, "data": request}


def result(out: TenantRenderer, job: FleetJob, outcome: Outcome) -> Any:
    if outcome.is_operation:
        return out.redact_value(outcome.result)
    return out.artifact_responses(job.artifacts) if job.status == JobStatus.SUCCESS else None


def response(host: str, agent: Agent) -> dict[str, Any]:
    return {
        "status": agent.status,
        "data": agent.data,
        "changed": agent.changed,
        **given("error", agent.error),
        "hostname": host,
    }


def state(agent: Agent) -> dict[str, Any]:
    return {"status": agent.status, **given("error", agent.error), "duration": go_duration(agent.duration)}


def timeline_event(out: TenantRenderer, event: FoldEvent) -> dict[str, Any]:
    told: dict[str, Any] = {
        "timestamp": event.created_at,
        "event": EVENT_NAMES.get(event.event_type, event.event_type),
    }
    if event.hostname:
        told["hostname"] = out.redact_text(event.hostname)
    told["message"] = out.redact_text(event.message)
    if event.error:
        told["error"] = out.redact_text(event.error)
    return told


def given(name: str, text: str | None) -> dict[str, str]:
    """An optional string, left out where it has nothing to say, as fleet clients expect."""
    return {name: text} if text else {}
