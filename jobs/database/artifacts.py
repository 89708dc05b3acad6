"""Artifacts as both dialects read them: in the columns that ``TenantRenderer.artifact_responses`` takes."""

from __future__ import annotations

from django.db.models import F, FilteredRelation, OuterRef, Q, QuerySet

from jobs.database.prepared import Param, json_rows
from jobs.models import Artifact, Role

TENANT = Param("tenant")
ARTIFACT_COLUMNS = ("storage_key", "kind", "role", "label", "meta")


def artifacts() -> QuerySet[Artifact]:
    """The artifacts of the tenant that the statement is bound to."""
    own: QuerySet[Artifact] = Artifact.objects.for_tenant(TENANT)
    return own


# A job's result: the final artifacts of its events by seq and position, then those that no event recorded. The event's
# tenant is that of the artifact; said too, so that no other partition of a partitioned table is looked at.
RESULT = json_rows(
    artifacts()
    .filter(job=OuterRef("pk"), role=Role.FINAL)
    .annotate(recorded_by=FilteredRelation("event", condition=Q(event__tenant=TENANT)))
    .order_by(F("recorded_by__seq").asc(nulls_last=True), "position"),
    *ARTIFACT_COLUMNS,
)
