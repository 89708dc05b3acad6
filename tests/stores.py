"""What a store holds, as tests compare it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from jobs.models import Job, JobCounts


def counts_of(tenant: Any) -> dict[str, int]:
    """The kept counts that are not 0, by status."""
    row = JobCounts.objects.for_tenant(tenant).values().first() or {}
    return {name: number for name, number in row.items() if name != "tenant_id" and number}


def true_counts(tenant: Any) -> dict[str, int]:
    """What :func:`counts_of` should say."""
    return dict(Counter(status.lower() for status in Job.objects.for_tenant(tenant).values_list("status", flat=True)))
