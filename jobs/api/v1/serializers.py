"""Serializers of ``/v1``.

The declared fields feed the OpenAPI document and the validators; each ``represent`` writes the same dict by hand from
a row of ``jobs.api.v1.queries``, because walking the fields would take as long again as the whole request. A test
compares the two. It needs no instance, which DRF makes with a deep copy of every field: 35 µs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from jobs.api.tenant_renderer import TenantRenderer
from jobs.api.v1.params import ListParams, V1Status
from jobs.api.v1.queries import DetailRow, EventsRow
from jobs.database.events import PAGE_EVENTS, EventRow, FeedRow, SummaryRow
from jobs.ulid import ulid_text


class OneJobSerializer(serializers.Serializer[Any]):
    """Represents a ``row``, one job as a statement reads it."""

    row: ClassVar[Any]

    @staticmethod
    def artifact_rows(row: Any) -> list[list[Any]]:
        """Every artifact in ``row``."""
        raise NotImplementedError

    @staticmethod
    def represent(row: Any, renderer: TenantRenderer) -> dict[str, Any]:
        """The response body."""
        raise NotImplementedError


@extend_schema_serializer(description="A picture that a job made.")
class ArtifactResponseSerializer(serializers.Serializer[Any]):
    """The renderer builds it: nothing else turns storage keys into URLs."""

    image_url = serializers.CharField(help_text="A presigned GET link to the picture, which expires.")
    kind = serializers.CharField(help_text="What it shows, such as on_model_render.")
    role = serializers.CharField(help_text="intermediate or final.")
    label = serializers.CharField(  # type: ignore[assignment]  # a serializer's own label is text
        allow_null=True, help_text="Which one it is, such as front."
    )
    meta = serializers.DictField(help_text="Details of the kind, such as width and height.")


@extend_schema_serializer(description="One event of a job.")
class JobEventResponseSerializer(serializers.Serializer[Any]):
    seq = serializers.IntegerField(help_text="Its number in the job, ascending. `since` refers to it.")
    event_type = serializers.CharField(
        help_text="queued, stage, succeeded or failed. The events of an operation have their agents' own types, such "
        "as started or completed. `Job-Status` says whether the job is over, not the type of its last event."
    )
    visibility = serializers.CharField(help_text="Always public here.")
    stage = serializers.CharField(allow_null=True, help_text="The step that a stage event is about.")
    message = serializers.CharField(help_text="One line for a person to read.")
    artifacts = ArtifactResponseSerializer(many=True, help_text="The pictures that were recorded with it.")
    extra = serializers.DictField(
        help_text="Details of the event; any member may be absent. `progress` is the part of the work that is done, "
        "from 0 to 1. `error` is the reason of a failure, and `retryable` whether the same request may succeed later. "
        "An agent's event carries `data`, `changed` and `error`."
    )
    created_at = serializers.DateTimeField(help_text="When it happened, in UTC.")

    @staticmethod
    def represent(row: EventRow, renderer: TenantRenderer) -> dict[str, Any]:
        return {
            "seq": row.seq,
            "event_type": row.event_type,
            "visibility": row.visibility,
            "stage": renderer.redact_optional_text(row.stage),
            "message": renderer.redact_text(row.message),
            "artifacts": renderer.artifact_responses(row.artifacts),
            "extra": renderer.redact_value(row.extra),
            "created_at": row.created_at,
        }


@extend_schema_serializer(description="A job's header.")
class JobSummaryResponseSerializer(serializers.Serializer[Any]):
    public_id = serializers.CharField(help_text="The job's ULID.")
    job_type = serializers.CharField(help_text="A plain string: new types need no new version of this API.")
    status = serializers.ChoiceField(choices=V1Status.choices)
    created_at = serializers.DateTimeField(help_text="When the job was created, in UTC.")

    @staticmethod
    def represent(row: SummaryRow | DetailRow) -> dict[str, Any]:
        return {
            "public_id": ulid_text(row.public_id),
            "job_type": row.job_type,
            "status": row.status,
            "created_at": row.created_at,
        }


@extend_schema_serializer(description="One page of a tenant's jobs.", many=False)
class JobListResponseSerializer(serializers.Serializer[Any]):
    jobs = JobSummaryResponseSerializer(many=True, help_text="One page of jobs, newest first.")
    limit = serializers.IntegerField(help_text="The page size that was applied.")
    offset = serializers.IntegerField(help_text="The offset that was applied.")
    count = serializers.IntegerField(help_text="How many jobs are in this page.")

    @staticmethod
    def represent(rows: list[SummaryRow], params: ListParams) -> dict[str, Any]:
        return {
            "jobs": [JobSummaryResponseSerializer.represent(row) for row in rows],
            "limit": params.limit,
            "offset": params.offset,
            "count": len(rows),
        }


@extend_schema_serializer(description="A job, with its final pictures and its latest public event.")
class JobDetailResponseSerializer(OneJobSerializer, JobSummaryResponseSerializer):
    row = DetailRow

    request = serializers.DictField(allow_null=True, help_text="What the job was asked to do.")
    result = ArtifactResponseSerializer(
        many=True, help_text="The final pictures; empty until the status is SUCCESS. At most 2,000."
    )
    latest_event = JobEventResponseSerializer(
        allow_null=True, help_text="The public event with the highest seq; null before the first."
    )

    @staticmethod
    def artifact_rows(row: DetailRow) -> list[list[Any]]:
        found = list(row.result or ())
        for event in map(EventRow._make, row.latest_event):
            found += event.artifacts
        return found

    @staticmethod
    def represent(row: DetailRow, renderer: TenantRenderer) -> dict[str, Any]:  # type: ignore[override]
        event = JobEventResponseSerializer.represent
        return {
            **JobSummaryResponseSerializer.represent(row),
            "request": renderer.redact_value(row.request),
            "result": renderer.artifact_responses(row.result or []),
            "latest_event": event(EventRow._make(row.latest_event[0]), renderer) if row.latest_event else None,
        }


@extend_schema_serializer(description="One page of a job's events.")
class JobEventsResponseSerializer(OneJobSerializer):
    row = EventsRow

    public_id = serializers.CharField(help_text="The job's ULID.")
    events = JobEventResponseSerializer(
        many=True,
        help_text=f"Ascending by seq: at most {PAGE_EVENTS}, with at most 1,000 pictures and about 1 MiB of JSON.",
    )
    latest_seq = serializers.IntegerField(
        allow_null=True, help_text="The `since` to send next; null while there is no public event."
    )

    @staticmethod
    def artifact_rows(row: EventsRow) -> list[list[Any]]:
        return [artifact for event in map(EventRow._make, row.events) for artifact in event.artifacts]

    @staticmethod
    def represent(row: EventsRow, renderer: TenantRenderer) -> dict[str, Any]:
        event = JobEventResponseSerializer.represent
        events = [event(EventRow._make(each), renderer) for each in row.events]
        return {
            "public_id": ulid_text(row.public_id),
            "events": events,
            "latest_seq": events[-1]["seq"] if events else row.last_public_seq or None,
        }


@extend_schema_serializer(
    description="One event of the feed, which never changes, and its job as it is at the time of the answer."
)
class FeedEventSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(
        help_text="`<public_id>-<seq>`: the same wherever the event is shown, for telling doubles apart."
    )
    type = serializers.CharField(help_text="`job.<event_type>`, such as job.succeeded.")
    job = JobSummaryResponseSerializer()
    event = JobEventResponseSerializer()

    @staticmethod
    def represent(row: FeedRow, renderer: TenantRenderer) -> dict[str, Any]:
        job = SummaryRow._make(row.job)
        event = EventRow._make(row.event)
        return {
            "id": f"{ulid_text(job.public_id)}-{event.seq}",
            "type": f"job.{event.event_type}",
            "job": JobSummaryResponseSerializer.represent(job),
            "event": JobEventResponseSerializer.represent(event, renderer),
        }


@extend_schema_serializer(description="One page of the feed.", many=False)
class FeedResponseSerializer(serializers.Serializer[Any]):
    events = FeedEventSerializer(
        many=True,
        help_text="In the order in which they were recorded: at most `limit`, with at most 1,000 pictures and about "
        "1 MiB of JSON. A page may be short or empty although more follows.",
    )
    cursor = serializers.CharField(help_text="The `after` to send next. Keep it as it is: it is opaque.")
    has_more = serializers.BooleanField(help_text="Whether more follows already.")

    @staticmethod
    def artifact_rows(rows: list[FeedRow]) -> list[list[Any]]:
        return [artifact for row in rows for artifact in EventRow._make(row.event).artifacts]
