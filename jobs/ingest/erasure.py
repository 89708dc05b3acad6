"""Erases a tenant with all its rows, in batches, so that it can be stopped and repeated.

The tenant's row is removed last, so that an incomplete run can be resumed. No row can stay behind: a writer of the
tenant waits for the lock of that row, and then fails on its foreign key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from django.db import transaction

from jobs.ingest.removal import remove
from jobs.models import Job
from tenants.models import Tenant


class Erased(NamedTuple):
    jobs: int
    events: int
    artifacts: int


def deactivate(tenant: Tenant) -> None:
    """Deactivates the tenant. Its credentials stop working."""
    tenant.is_active = False
    tenant.save(update_fields=["is_active"])


def erase_jobs(tenant: Tenant, batch: int) -> Iterator[Erased]:
    """Removes the tenant's jobs with their events and artifacts, ``batch`` jobs in each transaction."""
    while (erased := _erase_some(tenant, batch)).jobs:
        yield erased


def _erase_some(tenant: Tenant, batch: int) -> Erased:
    removed = remove(Job.objects.for_tenant(tenant).order_by("pk")[:batch])
    return Erased(len(removed.jobs), removed.events, removed.artifacts)


@transaction.atomic
def erase_tenant(tenant: Tenant) -> int:
    """Removes the tenant with its tokens and counts. Returns the number of tokens; 0 if there is no such tenant.

    It also removes jobs that were added after :func:`erase_jobs`. Writers of the tenant wait for it and fail.
    """
    if not Tenant.objects.select_for_update().filter(pk=tenant.pk):
        return 0
    for _ in erase_jobs(tenant, 500):
        pass
    tokens = tenant.tokens.count()
    tenant.delete()
    return tokens
