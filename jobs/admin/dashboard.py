"""The home page: jobs that failed in the last 24 hours, and jobs that are stuck."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import md5
from typing import Any

from django.conf import settings
from django.db.models import Count, Min
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from jobs.admin import reasons
from jobs.models import Job, JobEvent, JobQuerySet

# Rows of a table on the home page. The job list that each table links to shows the rest.
MAX_ROWS = 12
RECENT = reasons.DAY
# Events that an open home page compares, to find new failures.
NEWEST_FAILURES = 20


def recently_failed(jobs: JobQuerySet, within: timedelta = RECENT) -> JobQuerySet:
    return jobs.failed_since(timezone.now() - within)


def stuck(jobs: JobQuerySet) -> JobQuerySet:
    return jobs.silent_since(stuck_cutoff())


def stuck_cutoff() -> datetime:
    """A job in progress is stuck if its last event is older than this."""
    return timezone.now() - timedelta(seconds=settings.CONSOLE_STUCK_AFTER_SECONDS)


def job_list_url(**filters: str) -> str:
    """The URL of the job list with these filters."""
    return f"{reverse('admin:jobs_job_changelist')}?{urlencode(filters)}"


def tenant_url(tenant_id: int) -> str:
    """The URL of the page of a tenant."""
    return reverse("admin:tenants_tenant_change", args=[tenant_id])


def failures_version() -> str:
    """Changes with each new failure, as long as its event is among the newest that the index gives. One statement.

    With the status of their jobs, because an agent can fail before its operation has.
    """
    newest = JobEvent.all_tenants.filter(event_type="failed").order_by("-created_at", "-pk")
    rows = newest.values_list("pk", "job__v1_status")[:NEWEST_FAILURES]
    return md5(repr(list(rows)).encode(), usedforsecurity=False).hexdigest()


def failures_by_tenant_and_type() -> dict[str, Any]:
    """Failures of the last 24 hours by tenant and type, most failures first.

    Two statements; one of them reads those failures.
    """
    version = failures_version()  # before the rest: what comes between the two is shown twice, not missed
    groups = list(
        recently_failed(Job.all_tenants.all())
        .values("tenant", "tenant__slug", "job_type")
        .annotate(jobs=Count("pk"))
        .order_by("-jobs", "tenant__slug", "job_type")
        .values_list("tenant", "tenant__slug", "job_type", "jobs")
    )
    most = groups[0][-1] if groups else 0
    return {
        "version": version,
        "refresh_seconds": settings.CONSOLE_REFRESH_SECONDS,
        "rows": [
            {
                "tenant": slug,
                "tenant_url": tenant_url(tenant_id),
                "job_type": job_type,
                "jobs": jobs,
                # The length of the bar, in percent of the longest one, and the space left of it.
                "share": (share := max(1, round(100 * jobs / most))),
                "rest": 100 - share,
                "link": job_list_url(attention="failed", tenant=slug, job_type=job_type),
            }
            for tenant_id, slug, job_type, jobs in groups[:MAX_ROWS]
        ],
        "total": sum(jobs for *_, jobs in groups),
        "left_out": max(0, len(groups) - MAX_ROWS),
        "link": job_list_url(attention="failed"),
    }


def failures_by_reason() -> dict[str, Any]:
    """Failures of the last 24 hours and 7 days by reason, with links to the list."""
    found = reasons.failures_by_reason()
    return {
        "rows": [
            {
                **row._asdict(),
                "rest": 100 - row.bar,
                "day_link": job_list_url(attention="failed", reason=row.reason),
                "week_link": job_list_url(attention="failed-7d", reason=row.reason),
            }
            for row in found.rows
        ],
        "found": found,
        "most_read": reasons.MAX_FAILURES,
    }


def stuck_by_tenant() -> dict[str, Any]:
    """Stuck jobs by tenant, most stuck jobs first. One statement; it reads the jobs in progress."""
    groups = list(
        stuck(Job.all_tenants.all())
        .values("tenant", "tenant__slug")
        .annotate(jobs=Count("pk"), oldest=Min("updated_at"))
        .order_by("-jobs", "tenant__slug")
        .values_list("tenant", "tenant__slug", "jobs", "oldest")
    )
    return {
        "rows": [
            {
                "tenant": slug,
                "tenant_url": tenant_url(tenant_id),
                "jobs": jobs,
                "oldest": oldest,
                "link": job_list_url(attention="stuck", tenant=slug),
            }
            for tenant_id, slug, jobs, oldest in groups[:MAX_ROWS]
        ],
        "total": sum(jobs for *_, jobs, _ in groups),
        "left_out": max(0, len(groups) - MAX_ROWS),
        "after": timedelta(seconds=settings.CONSOLE_STUCK_AFTER_SECONDS),
        "link": job_list_url(attention="stuck"),
    }
