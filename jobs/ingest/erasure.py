"""The way out for good: a tenant and everything of it, in batches, so that it may be stopped and run again.

The tenant's own row goes last, so that what is left can still be found. Nothing can stay behind: whoever writes a job
meanwhile waits for the lock on that row, and then names a tenant that is not there, which the database refuses.
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
    """From now on no credential of the tenant opens anything."""
    tenant.is_active = False
    tenant.save(update_fields=["is_active"])


def erase_jobs(tenant: Tenant, batch: int) -> Iterator[Erased]:
    """Removes the tenant's jobs with their events and artifacts, ``batch`` jobs in a transaction, to the last."""
    while (erased := _erase_some(tenant, batch)).jobs:
        yield erased


def _erase_some(tenant: Tenant, batch: int) -> Erased:
    removed = remove(Job.objects.for_tenant(tenant).order_by("pk")[:batch])
    return Erased(len(removed.jobs), removed.events, removed.artifacts)


@transaction.atomic
def erase_tenant(tenant: Tenant) -> int:
    """Removes the tenant itself with its tokens and counts; how many tokens there were.

    Jobs that came after :func:`erase_jobs` go with it, and writers of the tenant wait for it and fail.
    """
    Tenant.objects.select_for_update().get(pk=tenant.pk)
    for _ in erase_jobs(tenant, 500):
        pass
    tokens = tenant.tokens.count()
    tenant.delete()
    return tokens
