"""How many jobs of each status a tenant has, kept by whoever changes a job, in the same transaction.

One wide row a tenant and one UPDATE of it, the last statement of the transaction: whoever waits for that row holds all
the jobs it needs already, and whoever has it only commits. Several tenants go in ascending order of their ids.
"""

from __future__ import annotations

from collections import Counter

from django.db import transaction
from django.db.models import Count, F

from jobs.models import Job, JobCounts, JobStatus

Changes = Counter[tuple[int, str]]  # by how many the jobs of (tenant id, status) have changed


def column(status: str) -> str:
    return status.lower()


def status_change(tenant_id: int, before: str | None, after: str | None) -> Changes:
    """The change that one job makes by going from status ``before`` to ``after``; None where there is no job."""
    changes: Changes = Counter()
    if before != after:
        if before is not None:
            changes[tenant_id, before] -= 1
        if after is not None:
            changes[tenant_id, after] += 1
    return changes


def apply(changes: Changes) -> None:
    """Writes ``changes``; the last thing a transaction does."""
    for tenant_id in sorted({tenant_id for (tenant_id, _), by in changes.items() if by}):
        row = JobCounts.objects.for_tenant(tenant_id)
        by_column = {
            column(status): F(column(status)) + by
            for (whose, status), by in changes.items()
            if whose == tenant_id and by
        }
        if not row.update(**by_column):
            JobCounts.all_tenants.bulk_create([JobCounts(tenant_id=tenant_id)], ignore_conflicts=True)
            row.update(**by_column)


def drift(tenant_id: int, repair: bool = False) -> dict[str, tuple[int, int]]:
    """Where the kept counts of a tenant differ from the truth: by status, what is kept and what is true.

    Exact beside writers: while the row is locked nobody commits a change of it, and what is not committed is not
    counted. Counting reads an index entry a job, and writers of the tenant wait meanwhile.
    """
    with transaction.atomic():
        JobCounts.all_tenants.bulk_create([JobCounts(tenant_id=tenant_id)], ignore_conflicts=True)
        row = JobCounts.objects.for_tenant(tenant_id).select_for_update().get()
        true = dict(Job.objects.for_tenant(tenant_id).values_list("status").annotate(Count("pk")).order_by())
        differences = {
            status: (kept, true.get(status, 0))
            for status in JobStatus.values
            if (kept := getattr(row, column(status))) != true.get(status, 0)
        }
        if differences and repair:
            for status, (_, actual) in differences.items():
                setattr(row, column(status), actual)
            row.save()
        elif not repair:
            transaction.set_rollback(True)
    return differences
