"""The other peer: Django REST framework as its tutorial has it: ModelSerializers, prefetch_related, storage.url()."""

from __future__ import annotations

import os
from typing import Any

from django.core.files.storage import default_storage
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.peers.drf_settings")
application = get_wsgi_application()

from django.db.models import F, Prefetch  # noqa: E402 - once Django is set up
from django.http import Http404  # noqa: E402
from django.shortcuts import get_object_or_404  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import serializers  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.viewsets import ViewSet  # noqa: E402

from benchmarks.peers.fleet import FLEET_STATUS, fold_events, item  # noqa: E402
from jobs.models import Artifact, Job, JobCounts, JobEvent  # noqa: E402
from jobs.ulid import parse_ulid  # noqa: E402


class ArtifactSerializer(serializers.ModelSerializer):
    image_url = serializers.SerializerMethodField()

    class Meta:
        model = Artifact
        fields = ["image_url", "kind", "role", "label", "meta"]

    def get_image_url(self, artifact: Artifact) -> str:
        return default_storage.url(artifact.storage_key)


class EventSerializer(serializers.ModelSerializer):
    artifacts = ArtifactSerializer(many=True)

    class Meta:
        model = JobEvent
        fields = ["seq", "event_type", "visibility", "stage", "message", "artifacts", "extra", "created_at"]


class SummarySerializer(serializers.ModelSerializer):
    public_id = serializers.CharField()
    status = serializers.CharField(source="v1_status")

    class Meta:
        model = Job
        fields = ["public_id", "job_type", "status", "created_at"]


class DetailSerializer(SummarySerializer):
    result = serializers.SerializerMethodField()
    latest_event = serializers.SerializerMethodField()

    class Meta(SummarySerializer.Meta):
        fields = [*SummarySerializer.Meta.fields, "request", "result", "latest_event"]

    def get_result(self, job: Any) -> Any:
        return ArtifactSerializer(job.finals, many=True).data if job.v1_status == "SUCCESS" else []

    def get_latest_event(self, job: Any) -> Any:
        return EventSerializer(job.latest[0]).data if job.latest else None


FINALS = Prefetch(
    "artifacts",
    Artifact.all_tenants.filter(role="final").order_by(F("event__seq").asc(nulls_last=True), "position"),
    to_attr="finals",
)
PUBLIC = JobEvent.all_tenants.filter(visibility="public")
ARTIFACTS = Prefetch("artifacts", Artifact.all_tenants.order_by("position"))


def job_or_404(tenant_id: int, public_id: str, *prefetched: Prefetch) -> Any:
    try:
        key = parse_ulid(public_id)
    except ValueError:
        raise Http404 from None
    return get_object_or_404(Job.all_tenants.prefetch_related(*prefetched), tenant=tenant_id, pk=key)


class JobViewSet(ViewSet):
    def list(self, request: Any) -> Response:
        jobs = Job.all_tenants.filter(tenant=request.user.tenant_id).workflows().newest_first()[:50]
        page = SummarySerializer(jobs, many=True).data
        return Response({"jobs": page, "limit": 50, "offset": 0, "count": len(page)})

    def retrieve(self, request: Any, public_id: str) -> Response:
        latest = PUBLIC.order_by("-seq")[:1].prefetch_related(ARTIFACTS)
        job = job_or_404(request.user.tenant_id, public_id, FINALS, Prefetch("events", latest, to_attr="latest"))
        return Response(DetailSerializer(job).data)

    def events(self, request: Any, public_id: str) -> Response:
        page = PUBLIC.filter(seq__gt=request.query_params.get("since", 0)).order_by("seq").prefetch_related(ARTIFACTS)
        job = job_or_404(request.user.tenant_id, public_id, Prefetch("events", page[:500], to_attr="page"))
        latest = job.page[-1].seq if job.page else job.last_public_seq or None
        events = EventSerializer(job.page, many=True).data
        return Response({"public_id": str(job.public_id), "events": events, "latest_seq": latest})


class FleetViewSet(ViewSet):
    def list(self, request: Any) -> Response:
        counts = JobCounts.all_tenants.get(tenant=request.user.tenant_id)
        by_status = {told: getattr(counts, stored.lower()) for stored, told in FLEET_STATUS.items()}
        events = Prefetch("events", JobEvent.all_tenants.order_by("seq"), to_attr="by_seq")
        jobs = (
            Job.all_tenants.filter(tenant=request.user.tenant_id).newest_first().prefetch_related(events, FINALS)[:10]
        )
        items = [fleet_job(job) for job in jobs]
        return Response({"total_items": sum(by_status.values()), "status_counts": by_status, "items": items})


def fleet_job(job: Any) -> dict[str, Any]:
    pictures = ArtifactSerializer(job.finals, many=True).data if job.status == "SUCCESS" else []
    return item(
        job.public_id.to_uuid(),
        job.job_type,
        job.status,
        job.created_at,
        job.request,
        fold_events(job.by_seq),
        pictures,
    )


urlpatterns = [
    path("v1/jobs", JobViewSet.as_view({"get": "list"})),
    path("v1/jobs/<str:public_id>", JobViewSet.as_view({"get": "retrieve"})),
    path("v1/jobs/<str:public_id>/events", JobViewSet.as_view({"get": "events"})),
    path("job", FleetViewSet.as_view({"get": "list"})),
]
