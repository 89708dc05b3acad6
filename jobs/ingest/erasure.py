"""The way out for good: a tenant and everything of it, in batches, so that it may be stopped and run again.

The tenant's own row goes last, so that what is left can still be found. Nothing can stay behind: whoever writes a job
meanwhile waits for the lock on that row, and then names a tenant that is not there, which the database refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from django.db import transaction

from jobs.ingest import counts
from jobs.models import Artifact, Job, JobEvent
from tenants.models import Tenant


class Erased(NamedTuple):
    jobs: int
    events: int
    artifacts: int


def close(tenant: Tenant) -> None:
    """From now on no credential of the tenant opens anything."""
    tenant.is_active = False
    tenant.save(update_fields=["is_active"])


def erase_jobs(tenant: Tenant, batch: int) -> Iterator[Erased]:
    """Removes the tenant's jobs with their events and artifacts, ``batch`` jobs in a transaction, to the last."""
    while (erased := _erase_some(tenant, batch)).jobs:
        yield erased


@transaction.atomic
def _erase_some(tenant: Tenant, batch: int) -> Erased:
    # In ascending order of their ids, as every writer locks them.
    jobs = Job.objects.for_tenant(tenant).order_by("pk").select_for_update()
    status_by_id = dict(jobs.values_list("pk", "status")[:batch])
    rows = [model.objects.for_tenant(tenant).filter(job__in=status_by_id) for model in (Artifact, JobEvent)]
    # The children's foreign keys are for Django alone to know: one DELETE each, where its own way would read them all.
    artifacts, events = (each._raw_delete(each.db) for each in rows)
    gone = Job.objects.for_tenant(tenant).filter(pk__in=status_by_id)
    gone._raw_delete(gone.db)
    counts.apply(Counter({(tenant.pk, status): -n for status, n in Counter(status_by_id.values()).items()}))
    return Erased(len(status_by_id), events, artifacts)


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
