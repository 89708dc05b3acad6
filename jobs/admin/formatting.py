"""Times, durations and statuses as text or HTML for people."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from jobs.models import JobStatus
from tenants.models import Refusal

_TONES = {
    JobStatus.NOT_STARTED: "waiting",
    JobStatus.IN_PROGRESS: "running",
    JobStatus.SUCCESS: "good",
    JobStatus.FAILURE: "bad",
    JobStatus.PARTIAL_FAILURE: "mixed",
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def status_badge(status: str) -> SafeString:
    """A badge with the name of the status, in its colour."""
    known = JobStatus(status)
    return format_html('<span class="badge badge-{}">{}</span>', _TONES[known], known.label)


def word_breaks(name: str) -> SafeString:
    """A name such as MODEL_GENERATOR, with a line break allowed after each underscore or dot."""
    return format_html_join("", "{}<wbr>", ((part,) for part in re.split(r"(?<=[_.])", name)))


def format_duration(elapsed: timedelta) -> str:
    """0 s, 250 ms, 3.5 s, 12 min 5 s, 3 h 20 min, 2 d 4 h: at most two units."""
    seconds = elapsed.total_seconds()
    if seconds < 0:
        return f"−{format_duration(-elapsed)}"
    if seconds < 60:
        return f"{round(seconds * 1000)} ms" if 0 < seconds < 1 else f"{seconds:.3g} s"
    whole = round(seconds)
    index = next(index for index, (size, _) in enumerate(_UNITS) if whole >= size)
    parts = []
    for size, unit in _UNITS[index : index + 2]:
        amount, whole = divmod(whole, size)
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts)


# Longer texts are folded: their beginning is shown, and the whole on demand.
MAX_LINES, MAX_CHARACTERS = 4, 400


def folded(text: str, tag: str = "p", name: str = "text") -> dict[str, object]:
    """The context of a text in an element ``tag``, which is folded where it is long. ``name`` is unique on its page."""
    short = "\n".join(text.splitlines()[:MAX_LINES])[:MAX_CHARACTERS]
    return {"text": text, "short": short, "is_long": len(short) < len(text.rstrip()), "tag": tag, "name": name}


def format_timestamp(at: datetime, text: str | None = None) -> SafeString:
    """A ``<time>`` element that shows ``text``, by default the time in UTC. The tooltip has the exact time in UTC."""
    exact = at.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        exact.isoformat(),
        f"{exact:%Y-%m-%d %H:%M:%S.%f} UTC",
        text or f"{exact:%Y-%m-%d %H:%M:%S} UTC",
    )


def format_time_of_day(at: datetime) -> SafeString:
    """The time of day (UTC) to the millisecond."""
    return format_timestamp(at, f"{at.astimezone(UTC):%H:%M:%S}.{at.microsecond // 1000:03}")


def format_time_ago(at: datetime) -> SafeString:
    elapsed = timezone.now() - at
    return format_timestamp(at, "just now" if abs(elapsed) < timedelta(seconds=1) else f"{largest_unit(elapsed)} ago")


def format_last_used(at: datetime | None) -> SafeString | str:
    """When a token was last used, given its ``last_used_at``: that is recorded at most once an hour."""
    if at is None:
        return "never"
    hours = math.ceil((timezone.now() - at) / timedelta(hours=1))
    if hours > 24:
        return format_time_ago(at)
    return "within the last hour" if hours <= 1 else f"within the last {hours} hours"


_REASONS = {
    "unknown": "the secret is wrong",
    "revoked": "the token is revoked",
    "expired": "the token has expired",
    "inactive tenant": "the tenant is inactive",
    "hmac": "the HMAC header does not match",
}
_STATUS_REASONS = {400: "invalid parameters", 404: "no such job", 422: "invalid parameters", 429: "rate limit"}


def refusal_reason(refusal: Refusal) -> str:
    """Why a request was refused, in a few words; the status's own phrase where nothing else is known."""
    known = _REASONS.get(refusal.reason) or refusal.reason or _STATUS_REASONS.get(refusal.status)
    return known or HTTPStatus(refusal.status).phrase.lower()


def format_number(number: int) -> str:
    """20,000: with a comma between groups of three digits."""
    return f"{number:,}"


def largest_unit(elapsed: timedelta) -> str:
    """A duration in its largest unit only: 3 s, 12 min, 5 h, 40 d."""
    whole = max(0, round(elapsed.total_seconds()))
    size, unit = next(((size, unit) for size, unit in _UNITS if whole >= size), _UNITS[-1])
    return f"{whole // size} {unit}"
