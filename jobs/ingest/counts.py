"""The number of a tenant's jobs in each status. Each writer updates it in the transaction that changes a job.

There is one row for each tenant. Its UPDATE is the last statement of a transaction: a writer that waits for the row
already has the locks of its jobs, and a writer that has the row only commits. The rows of several tenants are updated
in ascending order of the tenants' ids. So writers do not deadlock.
"""

from __future__ import annotations

from collections import Counter

from django.db import transaction
from django.db.models import Count, F

from jobs.models import Job, JobCounts, JobStatus

Changes = Counter[tuple[int, str]]  # the change in the number of jobs, by (tenant id, status)


def column(status: str) -> str:
    return status.lower()


def status_change(tenant_id: int, before: str | None, after: str | None) -> Changes:
    """The change of the counts when a job goes from status ``before`` to ``after``. None: there is no job."""
    changes: Changes = Counter()
    if before != after:
        if before is not None:
            changes[tenant_id, before] -= 1
        if after is not None:
            changes[tenant_id, after] += 1
    return changes


def apply(changes: Changes) -> None:
    """Writes ``changes``. Call it last in a transaction."""
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
    """The wrong counts of a tenant: by status, the stored number and the right one. ``repair`` corrects them.

    The result is exact while others write: no change of the counts commits while the row is locked, and uncommitted
    changes are not counted. Counting reads one index entry for each job. Writers of the tenant wait meanwhile.
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
