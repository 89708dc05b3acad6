"""The other peer: Django REST framework as its tutorial has it: ModelSerializers, prefetch_related, storage.url()."""

from __future__ import annotations

import os
from typing import Any

from django.core.files.storage import default_storage
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.peers.drf_settings")
application = get_wsgi_application()

from django.db.models import F, Prefetch  # noqa: E402 - once Django is set up
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan  # noqa: E402
from django.http import Http404  # noqa: E402
from django.shortcuts import get_object_or_404  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import serializers  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.viewsets import ViewSet  # noqa: E402
from ulid import ULID  # noqa: E402

from benchmarks.peers.fleet import FLEET_STATUS, item  # noqa: E402
from benchmarks.peers.models import Artifact, Job, JobCounts, JobEvent  # noqa: E402


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
    public_id = serializers.SerializerMethodField()
    status = serializers.CharField(source="v1_status")

    class Meta:
        model = Job
        fields = ["public_id", "job_type", "status", "created_at"]

    def get_public_id(self, job: Job) -> str:
        return str(ULID.from_uuid(job.public_id))


class DetailSerializer(SummarySerializer):
    result = serializers.SerializerMethodField()
    latest_event = serializers.SerializerMethodField()

    class Meta(SummarySerializer.Meta):
        fields = [*SummarySerializer.Meta.fields, "request", "result", "latest_event"]

    def get_result(self, job: Any) -> Any:
        return ArtifactSerializer(job.finals, many=True).data if job.v1_status == "SUCCESS" else []

    def get_latest_event(self, job: Any) -> Any:
        return EventSerializer(job.latest[0]).data if job.latest else None


class ListParams(serializers.Serializer):
    """``before`` and ``before_id`` are the last job of the page before."""

    limit = serializers.IntegerField(min_value=1, max_value=200, default=50)
    created_after = serializers.DateTimeField(required=False)
    before = serializers.DateTimeField(required=False)
    before_id = serializers.CharField(required=False)


FINALS = Prefetch(
    "artifacts",
    Artifact.objects.filter(role="final").order_by(F("event__seq").asc(nulls_last=True), "position"),
    to_attr="finals",
)
PUBLIC = JobEvent.objects.filter(visibility="public")
ARTIFACTS = Prefetch("artifacts", Artifact.objects.order_by("position"))


def job_or_404(tenant_id: int, public_id: str, *prefetched: Prefetch) -> Any:
    try:
        key = ULID.from_str(public_id).to_uuid()
    except ValueError:
        raise Http404 from None
    return get_object_or_404(Job.objects.prefetch_related(*prefetched), tenant=tenant_id, pk=key)


class JobViewSet(ViewSet):
    def list(self, request: Any) -> Response:
        given = ListParams(data=request.query_params)
        given.is_valid(raise_exception=True)
        params = given.validated_data
        jobs = Job.objects.filter(tenant=request.user.tenant_id, is_workflow=True)
        if "created_after" in params:
            jobs = jobs.filter(created_at__gt=params["created_after"])
        if "before" in params:
            last = (params["before"], ULID.from_str(params["before_id"]).to_uuid())
            jobs = jobs.filter(TupleLessThan(Tuple("created_at", "public_id"), last))
        page = SummarySerializer(jobs.order_by("-created_at", "-public_id")[: params["limit"]], many=True).data
        return Response({"jobs": page, "limit": params["limit"], "offset": 0, "count": len(page)})

    def retrieve(self, request: Any, public_id: str) -> Response:
        latest = PUBLIC.order_by("-seq")[:1].prefetch_related(ARTIFACTS)
        job = job_or_404(request.user.tenant_id, public_id, FINALS, Prefetch("events", latest, to_attr="latest"))
        return Response(DetailSerializer(job).data)

    def events(self, request: Any, public_id: str) -> Response:
        page = PUBLIC.filter(seq__gt=request.query_params.get("since", 0)).order_by("seq").prefetch_related(ARTIFACTS)
        job = job_or_404(request.user.tenant_id, public_id, Prefetch("events", page[:500], to_attr="page"))
        latest = job.page[-1].seq if job.page else job.last_public_seq or None
        events = EventSerializer(job.page, many=True).data
        return Response({"public_id": str(ULID.from_uuid(job.public_id)), "events": events, "latest_seq": latest})


class FleetViewSet(ViewSet):
    def list(self, request: Any) -> Response:
        counts = JobCounts.objects.get(tenant=request.user.tenant_id)
        by_status = {shown: getattr(counts, stored.lower()) for stored, shown in FLEET_STATUS.items()}
        events = Prefetch("events", JobEvent.objects.order_by("seq"), to_attr="by_seq")
        jobs = Job.objects.filter(tenant=request.user.tenant_id).order_by("-created_at", "-public_id")
        items = [fleet_job(job) for job in jobs.prefetch_related(events, FINALS)[:10]]
        return Response({"total_items": sum(by_status.values()), "status_counts": by_status, "items": items})


def fleet_job(job: Any) -> dict[str, Any]:
    pictures = ArtifactSerializer(job.finals, many=True).data if job.status == "SUCCESS" else []
    return item(job.public_id, job.job_type, job.status, job.created_at, job.request, job.by_seq, pictures)


urlpatterns = [
    path("v1/jobs", JobViewSet.as_view({"get": "list"})),
    path("v1/jobs/<str:public_id>", JobViewSet.as_view({"get": "retrieve"})),
    path("v1/jobs/<str:public_id>/events", JobViewSet.as_view({"get": "events"})),
    path("job", FleetViewSet.as_view({"get": "list"})),
]
