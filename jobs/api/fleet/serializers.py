"""Serializers of ``/job``.

The declared fields feed the OpenAPI document; ``represent`` builds the same dicts from the fold's outcome, without an
instance, which DRF makes with a deep copy of every field. A test compares the two.
"""

from __future__ import annotations

import uuid
from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from orjson import Fragment
from rest_framework import serializers

from jobs.api.fleet.params import FLEET_STATUS, FleetListParams
from jobs.api.fleet.queries import FleetPage, JobRow, TimelineRow
from jobs.api.rendering import to_json
from jobs.api.tenant_renderer import TenantRenderer
from jobs.fold import Agent, Outcome, fold, go_duration

# A workflow job's event types as this dialect names them; agents use these names already.
EVENT_NAMES = {"queued": "submitted", "stage": "started", "succeeded": "completed"}


@extend_schema_serializer(description="What one agent answered, once it ended.")
class AgentResponseSerializer(serializers.Serializer[Any]):
    status = serializers.CharField(help_text="completed, skipped or failed.")
    data = serializers.JSONField(  # type: ignore[assignment]  # declared fields never become attributes
        required=False, allow_null=True, help_text="What the agent answered."
    )
    changed = serializers.BooleanField(required=False, allow_null=True, help_text="Whether the agent changed its host.")
    error = serializers.CharField(required=False, help_text="Left out where there is none.")
    hostname = serializers.CharField(help_text="The agent.")


@extend_schema_serializer(description="How far one agent is.")
class AgentStateSerializer(serializers.Serializer[Any]):
    status = serializers.CharField(
        required=False, help_text="submitted, acknowledged, started, completed, skipped or failed."
    )
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
    id = serializers.UUIDField(help_text="The 128 bits of the job's ULID.")
    status = serializers.CharField(help_text="submitted, processing, completed, failed or partial_failure.")
    created = serializers.CharField(help_text="RFC 3339, in UTC.")
    operation = serializers.DictField(help_text="The request; of a workflow job its type and data.")
    result = serializers.JSONField(
        allow_null=True, help_text="The latest answer; of a workflow job its final artifacts."
    )
    changed = serializers.BooleanField(
        allow_null=True, help_text="Whether any agent changed something; null until the job completes."
    )
    error = serializers.CharField(required=False, help_text="The latest error, left out where there is none.")
    hostname = serializers.CharField(required=False, help_text="The agent that ended last.")
    updated_at = serializers.CharField(help_text="RFC 3339, in UTC: the time of the latest event.")
    responses = serializers.DictField(
        child=AgentResponseSerializer(), help_text="By hostname, of jobs with several agents."
    )
    agent_states = serializers.DictField(
        child=AgentStateSerializer(), help_text="By hostname, of jobs with several agents."
    )
    timeline = TimelineEventSerializer(
        many=True, help_text="The last public events by time: at most 500, or 50 on large pages."
    )

    @staticmethod
    def represent(job: JobRow, out: TenantRenderer) -> dict[str, Any]:
        outcome = fold(job.events, job.status)
        agents = outcome.agents if outcome.is_broadcast else {}
        return {
            "id": str(uuid.UUID(job.public_id)),
            "status": FLEET_STATUS[job.status],
            "created": job.created_at,
            "operation": operation(out, job, outcome),
            "result": result(out, job, outcome),
            "changed": outcome.changed,
            **given("error", out.redact_optional_text(outcome.error)),
            **given("hostname", out.redact_optional_text(outcome.hostname)),
            "updated_at": job.updated_at,
            "responses": out.redact_value(
                {host: response(host, agent) for host, agent in agents.items() if agent.has_ended}
            ),
            "agent_states": out.redact_value({host: state(agent) for host, agent in agents.items()}),
            "timeline": timeline(out, job.timeline),
        }


@extend_schema_serializer(description="One page of a tenant's jobs, with counts.", many=False)
class FleetJobListResponseSerializer(serializers.Serializer[Any]):
    total_items = serializers.IntegerField(help_text="How many jobs match the filter.")
    status_counts = serializers.DictField(
        child=serializers.IntegerField(), help_text="All the tenant's jobs by status."
    )
    items = FleetJobResponseSerializer(many=True, help_text="One page of jobs, newest first.")

    @staticmethod
    def represent(page: FleetPage, params: FleetListParams, out: TenantRenderer) -> dict[str, Any]:
        job = FleetJobResponseSerializer.represent
        counts = page.status_counts
        return {
            "total_items": counts[params.status] if params.status else sum(counts.values()),
            "status_counts": counts,
            # Written one by one: a page of dicts would be gone through by the garbage collector again and again.
            "items": [Fragment(to_json(job(row, out))) for row in page.jobs],
        }


def operation(out: TenantRenderer, job: JobRow, outcome: Outcome) -> dict[str, Any]:
    request = out.redact_value(job.request)
    return request or {} if outcome.is_operation else {"type": job.job_type, "data": request}


def result(out: TenantRenderer, job: JobRow, outcome: Outcome) -> Any:
    if outcome.is_operation:
        return out.redact_value(outcome.result)
    return None if job.result is None else out.artifact_responses(job.result)


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


def timeline(out: TenantRenderer, rows: list[TimelineRow]) -> list[dict[str, Any]]:
    """The events by time, then ``seq``."""
    # Without the Z, text order is time order: a fraction sorts after the same time without one.
    rows = sorted(rows, key=lambda row: (row.created_at.removesuffix("Z"), row.seq))
    return [timeline_event(out, row) for row in rows]


def timeline_event(out: TenantRenderer, row: TimelineRow) -> dict[str, Any]:
    return {
        "timestamp": row.created_at,
        "event": EVENT_NAMES.get(row.event_type, row.event_type),
        **given("hostname", out.redact_optional_text(row.hostname)),
        "message": out.redact_text(row.message),
        **given("error", out.redact_optional_text(row.error)),
    }


def given(name: str, text: str | None) -> dict[str, str]:
    """An optional string. Fleet clients expect that an empty one is left out."""
    return {name: text} if text else {}
