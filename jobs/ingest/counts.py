"""Each tenant's counter row: the number of its jobs in each status, and its last position.

A writer updates the row in the transaction that changes a job. The row stays locked until that transaction ends, so a
position becomes visible only after all lower ones, and no reader that continues after a position misses an event.

Writers do not deadlock, because all take locks in the same order: jobs in ascending order of their ids, then counter
rows in ascending order of the tenants' ids. A writer that has a counter row only inserts its events and commits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from django.db import connection, transaction
from django.db.models import Count, Max

from jobs.models import Job, JobCounts, JobEvent, JobStatus

Changes = Counter[tuple[int, str]]  # the change in the number of jobs, by (tenant id, status)


def column(status: str) -> str:
    return status.lower()


_TABLE = JobCounts._meta.db_table
_COLUMNS = [*map(column, JobStatus.values), "last_position"]
_INSERT = f"INSERT INTO {_TABLE} (tenant_id, {', '.join(_COLUMNS)}) "
_ADD = (
    " ON CONFLICT (tenant_id) DO UPDATE SET "
    + ", ".join(f"{name} = {_TABLE}.{name} + excluded.{name}" for name in _COLUMNS)
    + " RETURNING last_position"
)
_UPDATE = f"{_INSERT}VALUES ({', '.join(['%s'] * (1 + len(_COLUMNS)))}){_ADD}"
# Sets lock_timeout and restores it in the statement that waits. SET LOCAL before and after would be two round trips,
# of which one is made while the counter is locked. An error restores it too, with the rollback to the savepoint.
_UPDATE_WITHIN = (
    "WITH own AS MATERIALIZED (SELECT current_setting('lock_timeout') AS lock_timeout, "  # noqa: S608 - our own names
    "set_config('lock_timeout', %s, true)), "
    f"counter AS ({_INSERT}SELECT {', '.join(['%s::bigint'] * (1 + len(_COLUMNS)))} FROM own{_ADD}) "
    "SELECT last_position, set_config('lock_timeout', own.lock_timeout, true) FROM counter, own"
)


def status_change(tenant_id: int, before: str | None, after: str | None) -> Changes:
    """The change of the counts when a job goes from status ``before`` to ``after``. None: there is no job."""
    changes: Changes = Counter()
    if before != after:
        if before is not None:
            changes[tenant_id, before] -= 1
        if after is not None:
            changes[tenant_id, after] += 1
    return changes


def apply(
    changes: Changes, positions: Mapping[int, int] | None = None, wait_seconds: float | None = None
) -> dict[int, int]:
    """Writes ``changes`` and takes ``positions``, a number for each tenant id. Returns each tenant's last position.

    A tenant with 0 positions is locked too. Call it when all jobs of the transaction are locked. One statement for each
    tenant. On PostgreSQL a wait of more than ``wait_seconds`` (None: no limit) raises OperationalError.
    """
    positions = positions or {}
    by_tenant: dict[int, dict[str, int]] = {tenant_id: {} for tenant_id in positions}
    for (tenant_id, status), by in changes.items():
        if by:
            by_tenant.setdefault(tenant_id, {})[column(status)] = by
    last = {}
    with connection.cursor() as cursor:
        for tenant_id, numbers in sorted(by_tenant.items()):
            numbers["last_position"] = positions.get(tenant_id, 0)
            values = [tenant_id, *(numbers.get(name, 0) for name in _COLUMNS)]
            if wait_seconds is None or connection.vendor != "postgresql":
                cursor.execute(_UPDATE, values)
            else:
                cursor.execute(_UPDATE_WITHIN, [f"{wait_seconds * 1000:.0f}ms", *values])
            last[tenant_id] = cursor.fetchone()[0]
    return last


def drift(tenant_id: int, repair: bool = False) -> dict[str, tuple[int, int]]:
    """The wrong counts of a tenant: by status, the stored number and the right one. ``repair`` corrects them.

    ``last_position`` is among them where an event has a higher position. The result is exact while others write: no
    change of the counts commits while the row is locked, and uncommitted changes are not counted. Counting reads one
    index entry for each job. Writers of the tenant wait meanwhile.
    """
    with transaction.atomic():
        apply(Counter(), {tenant_id: 0})
        row = JobCounts.objects.for_tenant(tenant_id).get()
        true = dict(Job.objects.for_tenant(tenant_id).values_list("status").annotate(Count("pk")).order_by())
        differences = {
            status: (kept, true.get(status, 0))
            for status in JobStatus.values
            if (kept := getattr(row, column(status))) != true.get(status, 0)
        }
        highest = JobEvent.objects.for_tenant(tenant_id).aggregate(Max("position"))["position__max"] or 0
        if row.last_position < highest:
            differences["last_position"] = row.last_position, highest
        if differences and repair:
            for name, (_, actual) in differences.items():
                setattr(row, column(name), actual)
            row.save()
        elif not repair:
            transaction.set_rollback(True)
    return differences


def repeated_positions(tenant_id: int) -> list[int]:
    """The positions that more than one event of the tenant has, 100 at most. Reads one index entry for each event."""
    events = JobEvent.objects.for_tenant(tenant_id).filter(position__isnull=False)
    repeated = events.values("position").annotate(number=Count("pk")).filter(number__gt=1).order_by("position")
    return list(repeated.values_list("position", flat=True)[:100])
