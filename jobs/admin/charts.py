"""Data of the charts on a tenant's page: jobs by status and by day. The templates draw them as SVG."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any, NamedTuple

from django.template.defaultfilters import pluralize
from django.utils import timezone

from jobs.admin.counting import CountUpToLimit
from jobs.admin.dashboard import job_list_url
from jobs.models import Job, JobCounts, JobStatus
from tenants.models import Tenant

DAYS = 14
# At most so many jobs of a day are counted; for more, the chart says “more than”. 14 days take a few milliseconds.
MAX_COUNTED = 5_000
# In units of the SVG: the width of a day's column, the width of its bar, the height of the chart.
COLUMN, BAR, HEIGHT = 40, 28, 120


class Bar(NamedTuple):
    label: str
    title: str
    x: int
    y: int
    height: int
    failed_y: int
    failed_height: int
    link: str


def job_counts_by_status(tenant: Tenant) -> dict[str, Any]:
    """The number of jobs in each status. Exact, because the ledger maintains these counts. One statement."""
    counts = JobCounts.all_tenants.filter(pk=tenant.pk).first() or JobCounts(pk=tenant.pk)
    numbers = {status: getattr(counts, status.value.lower()) for status in JobStatus}
    total = sum(numbers.values())
    rows = [
        {
            "status": status,
            "jobs": jobs,
            "share": round(1000 * jobs / total) if total else 0,
            "link": job_list_url(tenant=tenant.slug, status=status.value),
        }
        for status, jobs in numbers.items()
    ]
    return {"rows": rows, "total": total}


def job_counts_by_day(tenant: Tenant) -> dict[str, Any]:
    """The jobs created on each of the last 14 days (UTC), and how many of them failed. One statement.

    For each day it reads at most ``MAX_COUNTED + 1`` index entries of all jobs, and as many of each failed status.
    """
    today = timezone.now().date()
    days = [today - timedelta(days=days_ago) for days_ago in range(DAYS - 1, -1, -1)]
    counts: dict[str, Any] = {}
    for number, day in enumerate(days):
        start = timezone.make_aware(datetime.combine(day, time()))
        jobs = Job.all_tenants.filter(
            tenant=tenant.pk, created_at__gte=start, created_at__lt=start + timedelta(days=1)
        ).newest_first()
        counts[f"all_{number}"] = CountUpToLimit(jobs[: MAX_COUNTED + 1])
        for status in (JobStatus.FAILURE, JobStatus.PARTIAL_FAILURE):
            failed = jobs.filter(status=status)[: MAX_COUNTED + 1]
            counts[f"{status}_{number}"] = CountUpToLimit(failed)
    counted = Tenant.objects.filter(pk=tenant.pk).annotate(**counts).values(*counts).get()
    created_counts = [counted[f"all_{number}"] for number in range(DAYS)]
    failed_counts = [
        min(counted[f"FAILURE_{number}"] + counted[f"PARTIAL_FAILURE_{number}"], created_counts[number])
        for number in range(DAYS)
    ]
    most = max(created_counts) or 1
    bars = []
    for number, (day, jobs, failed) in enumerate(zip(days, created_counts, failed_counts, strict=True)):
        height, bad = round(HEIGHT * jobs / most), round(HEIGHT * failed / most)
        bars.append(
            Bar(
                label=f"{day:%d %b}" if number % 2 else "",
                title=f"{day:%d %b}: {_counted(jobs)} job{pluralize(jobs)}, {_counted(failed)} failed",
                x=number * COLUMN + (COLUMN - BAR) // 2,
                y=HEIGHT - height,
                height=height,
                failed_y=HEIGHT - bad,
                failed_height=bad,
                link=job_list_url(
                    tenant=tenant.slug,
                    created_at__year=str(day.year),
                    created_at__month=str(day.month),
                    created_at__day=str(day.day),
                ),
            )
        )
    return {
        "bars": bars,
        "bar_width": BAR,
        "width": DAYS * COLUMN,
        "height": HEIGHT,
        "most": _counted(max(created_counts)),
    }


def _counted(number: int) -> str:
    return f"more than {MAX_COUNTED:,}" if number > MAX_COUNTED else f"{number:,}"
