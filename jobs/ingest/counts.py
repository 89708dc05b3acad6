"""How many jobs of each status a tenant has, kept by whoever changes a job, in the same transaction.

One wide row a tenant and one UPDATE of it, the last statement of the transaction: whoever waits for that row holds all
the jobs it needs already, and whoever has it only commits. Several tenants go in ascending order of their ids.
"""

from __future__ import annotations

from collections import Counter

from django.db.models import F

from jobs.models import JobCounts

Changes = Counter[tuple[int, str]]  # by how many the jobs of (tenant id, status) have changed


def column(status: str) -> str:
    return status.lower()


def moved(tenant_id: int, before: str | None, after: str | None) -> Changes:
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
