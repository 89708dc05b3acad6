"""The shapes of ``/v1``.

The declared fields feed the OpenAPI document; ``body`` builds the same dicts straight from a row of
``jobs.api.v1.queries``, because walking the fields would take as long again as the whole request. A test holds the two
together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from orjson import Fragment
from rest_framework import serializers

from jobs.api.rendering import to_json
from jobs.api.tenant_renderer import TenantRenderer
from jobs.api.v1.params import ListParams, V1Status
from jobs.ulid import ulid_text


class AboutOneJob(serializers.Serializer[Any]):
    """What is answered about a job; ``row`` is one of its statement's, without the version."""

    @staticmethod
    def artifacts(*row: Any) -> list[list[Any]]:
        """The artifacts in ``row``, all of them: rows of ``ARTIFACT_COLUMNS``."""
        raise NotImplementedError

    @staticmethod
    def body(out: TenantRenderer, *row: Any) -> dict[str, Any]:
        raise NotImplementedError


@extend_schema_serializer(description="A picture that a job made.")
class ArtifactResponseSerializer(serializers.Serializer[Any]):
    """Written by ``TenantRenderer.artifact_responses``: a storage key never gets as far as here."""

    image_url = serializers.CharField(help_text="A short-lived presigned GET link to the picture.")
    kind = serializers.CharField(help_text="What it shows, such as on_model_render.")
    role = serializers.CharField(help_text="intermediate or final.")
    label = serializers.CharField(  # type: ignore[assignment]  # a serializer's own label is text
        required=False, allow_null=True, help_text="Which one it is, such as front."
    )
    meta = serializers.DictField(required=False, help_text="Particulars of the kind, such as width and height.")


@extend_schema_serializer(description="One line of a job's timeline.")
class JobEventResponseSerializer(serializers.Serializer[Any]):
    seq = serializers.IntegerField(help_text="Its place in the job's timeline; what since counts from.")
    event_type = serializers.CharField(help_text="queued, stage, succeeded or failed; an agent's own on operations.")
    visibility = serializers.CharField(help_text="Always public here.")
    stage = serializers.CharField(required=False, allow_null=True, help_text="The step that a stage event is about.")
    message = serializers.CharField(help_text="One line for a person to read.")
    artifacts = ArtifactResponseSerializer(many=True, required=False, help_text="The pictures that came with it.")
    extra = serializers.DictField(required=False, help_text="Particulars of the event, such as cost or error.")
    created_at = serializers.DateTimeField(help_text="When it happened, in UTC.")

    @staticmethod
    def body(out: TenantRenderer, row: list[Any]) -> dict[str, Any]:
        seq, event_type, visibility, stage, message, extra, created_at, artifacts = row
        return {
            "seq": seq,
            "event_type": event_type,
            "visibility": visibility,
            "stage": out.redact_optional_text(stage),
            "message": out.redact_text(message),
            "artifacts": out.artifact_responses(artifacts),
            "extra": out.redact_value(extra),
            "created_at": created_at,
        }


@extend_schema_serializer(description="A job's header.")
class JobSummaryResponseSerializer(serializers.Serializer[Any]):
    public_id = serializers.CharField(help_text="The job's ULID.")
    job_type = serializers.CharField(help_text="A plain string: new types need no new version of this API.")
    status = serializers.ChoiceField(choices=V1Status.choices)
    created_at = serializers.DateTimeField(help_text="When the job was asked for, in UTC.")

    @staticmethod
    def header(public_id: str, job_type: str, status: str, created_at: str) -> dict[str, Any]:
        return {"public_id": ulid_text(public_id), "job_type": job_type, "status": status, "created_at": created_at}

    @staticmethod
    @lru_cache(maxsize=10_000)  # about 5 MB: a page of jobs that is asked for again and again is mostly the same
    def written(*row: str) -> Fragment:
        return Fragment(to_json(JobSummaryResponseSerializer.header(*row)))


@extend_schema_serializer(description="One page of a tenant's jobs.", many=False)
class JobListResponseSerializer(serializers.Serializer[Any]):
    jobs = JobSummaryResponseSerializer(many=True, required=False, help_text="One page of jobs, newest first.")
    limit = serializers.IntegerField(help_text="The page size that was applied.")
    offset = serializers.IntegerField(help_text="The offset that was applied.")
    count = serializers.IntegerField(help_text="How many jobs are in this page.")

    @staticmethod
    def body(rows: list[tuple[str, str, str, str]], params: ListParams) -> dict[str, Any]:
        written = JobSummaryResponseSerializer.written
        return {
            "jobs": [written(*row) for row in rows],
            "limit": params.limit,
            "offset": params.offset,
            "count": len(rows),
        }


@extend_schema_serializer(description="A job, with its final pictures and its latest public event.")
class JobDetailResponseSerializer(JobSummaryResponseSerializer, AboutOneJob):
    request = serializers.DictField(required=False, allow_null=True, help_text="What the job was asked to do.")
    result = ArtifactResponseSerializer(
        many=True, required=False, help_text="The final artifacts; empty until the job succeeds."
    )
    latest_event = JobEventResponseSerializer(
        required=False, allow_null=True, help_text="The public event with the highest seq; null before the first."
    )

    @staticmethod
    def artifacts(*row: Any) -> list[list[Any]]:
        *_, result, latest = row
        return [*result, *latest[0][-1]] if latest else result

    @staticmethod
    def body(out: TenantRenderer, *row: Any) -> dict[str, Any]:
        *header, request, result, latest = row
        body = JobSummaryResponseSerializer.header(*header)
        body["request"] = out.redact_value(request)
        body["result"] = out.artifact_responses(result) if body["status"] == V1Status.SUCCESS else []
        body["latest_event"] = JobEventResponseSerializer.body(out, latest[0]) if latest else None
        return body


@extend_schema_serializer(description="One page of a job's timeline.")
class JobEventsResponseSerializer(AboutOneJob):
    public_id = serializers.CharField(help_text="The job's ULID.")
    events = JobEventResponseSerializer(many=True, required=False, help_text="Ascending by seq, at most 500.")
    latest_seq = serializers.IntegerField(
        required=False, allow_null=True, help_text="The since to send next; null while there is no public event."
    )

    @staticmethod
    def artifacts(*row: Any) -> list[list[Any]]:
        return [artifact for event in row[-1] for artifact in event[-1]]

    @staticmethod
    def body(out: TenantRenderer, *row: Any) -> dict[str, Any]:
        public_id, last_public_seq, rows = row
        event = JobEventResponseSerializer.body
        return {
            "public_id": ulid_text(public_id),
            "events": [event(out, each) for each in rows],
            "latest_seq": rows[-1][0] if rows else last_public_seq or None,
        }
