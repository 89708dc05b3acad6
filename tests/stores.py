"""What a store holds, as tests compare it."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

from jobs.ingest import stored
from jobs.ingest.interchange import dump
from jobs.models import Artifact, Job, JobCounts, JobEvent


def counts_of(tenant: Any) -> dict[str, int]:
    """The kept counts that are not 0, by status."""
    row = JobCounts.objects.for_tenant(tenant).values().first() or {}
    return {name: number for name, number in row.items() if name != "tenant_id" and number}


def true_counts(tenant: Any) -> dict[str, int]:
    """What :func:`counts_of` should say."""
    return dict(Counter(status.lower() for status in Job.objects.for_tenant(tenant).values_list("status", flat=True)))


def everything() -> list[list[dict[str, Any]]]:
    """Every row of every job."""
    return [list(model.all_tenants.order_by("pk").values()) for model in (Job, JobEvent, Artifact, JobCounts)]


def exported() -> bytes:
    """The whole store as ``export_jobs`` writes it."""
    out = io.BytesIO()
    for batch in stored.batches(Job.all_tenants.all(), 100):
        out.writelines(map(dump, batch))
    return out.getvalue()
