"""Failures by reason: what their events say, without the parts that differ from job to job.

They are read through the index of failed events, the newest first and at most ``MAX_FAILURES``, and counted here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import F, OuterRef, QuerySet, Subquery, TextField, Value
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce, Left, NullIf
from django.utils import timezone
from ulid import ULID

from jobs.admin.changelist import MAX_COUNTED, round_to_two_digits
from jobs.admin.counting import CountUpToLimit
from jobs.models import Job, JobEvent, JobStatus

# The newest failures that are read, and the characters of each reason.
MAX_FAILURES = 20_000
MAX_REASON = 160
# On PostgreSQL jobs are counted up to this number. For more, its estimate is shown.
MAX_JOBS = 20_000
DAY, WEEK = timedelta(hours=24), timedelta(days=7)
MAX_ROWS = 8

# A path, a URL or a storage key; then a word with a digit: a number, an id, a host.
_PATH = re.compile(r"\S*/\S*")
_NUMBER = re.compile(r"[\w.:+-]*\d[\w.:+%-]*")
_SPACE = re.compile(r"\s+")


@lru_cache(maxsize=10_000)  # most failures repeat
def normalise(text: str) -> str:
    """``text`` with “…” for paths and “#” for words that have digits: “No answer in 30 s” → “No answer in # s”.

    Storage keys and URLs are paths, so that none is left. At most ``MAX_REASON`` characters of the first line.
    """
    first = _SPACE.sub(" ", text.strip().partition("\n")[0])
    return _NUMBER.sub("#", _PATH.sub("…", first))[:MAX_REASON].strip() or "no reason given"


class ReasonRow(NamedTuple):
    """One reason. ``share`` is in percent of all jobs, as text; ``bar`` in percent of the most frequent reason."""

    reason: str
    day: int
    day_share: str
    week: int
    week_share: str
    bar: int


class Reasons(NamedTuple):
    rows: list[ReasonRow]
    left_out: int
    day_jobs: str
    week_jobs: str
    is_cut_off: bool


def failures_by_reason() -> Reasons:
    """The reasons of the last 24 hours and 7 days, the most frequent of the day first.

    One statement; one more, which does not run its query, where the numbers of jobs are estimated.
    """
    now = timezone.now()
    times = (now - DAY, now - WEEK)
    # For each event, where a join might read the whole table of jobs.
    status = Subquery(Job.all_tenants.filter(pk=OuterRef("job_id")).values("v1_status"))
    events = _failed_events(now - WEEK).alias(status=status).filter(status=JobStatus.FAILURE)
    events = events.annotate(**_jobs_since(times))
    failures = list(events.values_list("job_id", "created_at", "reason", "day_jobs", "week_jobs")[: MAX_FAILURES + 1])
    week, day = Counter[str](), Counter[str]()
    counted: set[tuple[ULID, str]] = set()  # agents of one operation often fail for one reason
    for job_id, at, text, *_ in failures[:MAX_FAILURES]:
        reason = normalise(text)
        if (job_id, reason) not in counted:
            counted.add((job_id, reason))
            week[reason] += 1
            day[reason] += at > now - DAY
    day = +day
    day_jobs, week_jobs = _estimated(failures[0][3:], times) if failures else (_Count(0, "0"),) * 2
    most = sorted(week, key=lambda reason: (-day[reason], -week[reason], reason))
    longest = max([*day.values(), 1])
    rows = [
        ReasonRow(
            reason,
            day[reason],
            _share(day[reason], day_jobs),
            week[reason],
            _share(week[reason], week_jobs),
            round(100 * day[reason] / longest),
        )
        for reason in most[:MAX_ROWS]
    ]
    return Reasons(
        rows,
        max(0, len(most) - MAX_ROWS),
        day_jobs.text,
        week_jobs.text,
        len(failures) > MAX_FAILURES,
    )


def jobs_failed_for(reason: str, since: datetime) -> list[ULID]:
    """The newest jobs with an event ``failed`` since then for ``reason``: as many as a list shows. One statement."""
    found: dict[ULID, None] = {}
    for job_id, text in _failed_events(since).values_list("job_id", "reason")[:MAX_FAILURES]:
        if normalise(text) == reason:
            found[job_id] = None
            if len(found) > MAX_COUNTED:
                break
    return list(found)


def _failed_events(since: datetime) -> QuerySet[Any]:
    """Failed events, the newest first; ``reason`` is the beginning of their text."""
    events = JobEvent.all_tenants.filter(event_type="failed", created_at__gt=since).order_by("-created_at")
    # An error that is no text, which the list does not show either, is rare: it is counted by its JSON.
    error = Left(Cast(KT("extra__error"), TextField()), 4 * MAX_REASON)
    text = Left(F("message"), 4 * MAX_REASON)
    return events.annotate(reason=Coalesce(NullIf(error, Value("")), text))


class _Count(NamedTuple):
    """A number of jobs, and how it is shown."""

    number: int
    text: str


def _jobs_since(times: tuple[datetime, datetime]) -> dict[str, CountUpToLimit]:
    """The numbers of jobs created since each of ``times``; the database computes each once.

    On PostgreSQL up to ``MAX_JOBS + 1``. SQLite has no estimate, and few jobs.
    """
    limit = MAX_JOBS + 1 if _has_estimates() else None
    jobs = [Job.all_tenants.filter(created_at__gt=since).newest_first()[:limit] for since in times]
    return {"day_jobs": CountUpToLimit(jobs[0]), "week_jobs": CountUpToLimit(jobs[1])}


def _estimated(numbers: tuple[int, ...], times: tuple[datetime, datetime]) -> list[_Count]:
    """``numbers`` as they are up to ``MAX_JOBS``; else what PostgreSQL's planner estimates of jobs since ``times``."""
    if max(numbers) <= MAX_JOBS or not _has_estimates():
        return [_Count(number, f"{number:,}") for number in numbers]
    day, week = (Job.all_tenants.filter(created_at__gt=since).values("pk") for since in times)
    plan = json.loads(day.union(week, all=True).explain(format="json"))[0]["Plan"]
    # One part for each time, in their order, unless the planner has found another way.
    parts = [part["Plan Rows"] for part in plan.get("Plans", [])] if plan["Node Type"] == "Append" else []
    estimates = parts if len(parts) == len(numbers) else [0] * len(numbers)
    return [_count(number, estimate) for number, estimate in zip(numbers, estimates, strict=True)]


def _count(number: int, estimate: int) -> _Count:
    if number <= MAX_JOBS:
        return _Count(number, f"{number:,}")
    if estimate <= MAX_JOBS:
        return _Count(number, f"more than {MAX_JOBS:,}")
    estimate = round_to_two_digits(estimate)
    return _Count(estimate, f"about {estimate:,}")


def _has_estimates() -> bool:
    return connections[Job.all_tenants.db].vendor == "postgresql"


def _share(failures: int, jobs: _Count) -> str:
    """The share in percent, to two digits; “–” where no job was created in the time."""
    if not jobs.number or not failures:
        return "–"
    percent = min(100.0, 100 * failures / jobs.number)
    return f"{percent:.2g} %" if percent < 99.5 else "100 %"
