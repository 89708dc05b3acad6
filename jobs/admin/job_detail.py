"""The data of a job's page: timeline, agents and artifacts, redacted as the API redacts them."""

from __future__ import annotations

import json
import mimetypes
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from operator import attrgetter
from typing import Any

from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast, Length
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from jobs import fold
from jobs.admin.counting import CountUpToLimit
from jobs.admin.formatting import format_duration
from jobs.admin.json_html import OPEN_LEVELS, JSONTrees
from jobs.admin.tenant_view import caller_for
from jobs.api.fleet.queries import ErrorText
from jobs.api.tenant_renderer import TenantRenderer
from jobs.models import Artifact, Job, JobEvent, JobStatus, Role, Visibility

# Events on one page of the timeline, and the artifacts that it shows with them. A page ends before the event whose
# message and extra would exceed its characters; a single event is a page, whatever it holds.
PAGE_EVENTS = 500
PAGE_ARTIFACTS = 500
PAGE_CHARACTERS = 2**18
# Artifacts of the gallery, the final ones first, and the characters of the ``meta`` that it shows with them.
MAX_GALLERY = 100
MAX_META_CHARACTERS = 2**18
# Events that agents are computed from, and up to which events are counted.
MAX_AGENT_EVENTS = 5_000
MAX_COUNTED = 10_000
# Characters of an agent's error in its lane; the timeline has all of it.
MAX_AGENT_ERROR = 400

_TONES = {
    "queued": "waiting",
    "submitted": "waiting",
    "acknowledged": "waiting",
    "stage": "running",
    "started": "running",
    "succeeded": "good",
    "completed": "good",
    "skipped": "good",
    "failed": "bad",
}


@dataclass(slots=True)
class DisplayedArtifact:
    """One artifact. ``link`` is its signed URL; it is empty if ``problem`` says why there is none."""

    pk: int
    kind: str
    role: str
    label: str
    link: str
    problem: str
    is_image: bool
    size: str
    meta: SafeString | None = None

    @property
    def is_final(self) -> bool:
        return self.role == Role.FINAL

    @property
    def name(self) -> str:
        return self.label or self.kind


@dataclass(slots=True)
class TimelineEvent:
    """One event of the timeline. ``gap`` is the time since the previous event on the page."""

    seq: int
    event_type: str
    tone: str
    is_internal: bool
    stage: str
    message: str
    hostname: str
    error: str
    extra: SafeString | None
    at: datetime
    gap: timedelta | None
    is_new_day: bool
    artifacts: Sequence[DisplayedArtifact]

    @property
    def message_name(self) -> str:
        return f"message-{self.seq}"

    @property
    def error_name(self) -> str:
        return f"error-{self.seq}"

    @property
    def gap_text(self) -> str:
        return "" if self.gap is None else f"+{format_duration(self.gap)}"


@dataclass(slots=True)
class AgentMark:
    """One event of an agent. ``x`` and ``width`` are in thousandths of the time from the job's first to last event."""

    event_type: str
    tone: str
    x: int
    width: int
    at: datetime


@dataclass(slots=True)
class AgentTimeline:
    """One agent of an operation: its status, duration and the beginning of its error, its events on a scale of time."""

    hostname: str
    status: str
    tone: str
    duration: str
    error: str
    marks: list[AgentMark]


class JobDetail:
    """All that the page of ``job`` shows of its events and artifacts.

    Six statements, whatever their number. Each finds its rows by an index and reads a bounded number of them. The
    timeline is a page of events, in ascending order after ``after_seq``, or in descending order before ``before_seq``
    if ``newest_first``; 0 is the first page.
    """

    def __init__(
        self,
        job: Job,
        request: HttpRequest,
        after_seq: int = 0,
        before_seq: int = 0,
        *,
        newest_first: bool = False,
    ) -> None:
        self.job = job
        self.after_seq = after_seq
        self.before_seq = before_seq
        self.newest_first = newest_first
        self.renderer = TenantRenderer(request, caller_for(job.tenant))
        self._trees = JSONTrees()

    @property
    def version(self) -> str:
        """Changes whenever the page changes. Internal events can leave ``Job.version`` as it is; hence ``last_seq``."""
        return f"{self.job.version}.{self.job.last_seq}"

    @property
    def is_live(self) -> bool:
        return self.job.status in (JobStatus.NOT_STARTED, JobStatus.IN_PROGRESS)

    @cached_property
    def request(self) -> SafeString | None:
        return None if self.job.request is None else self._json(self.job.request)

    @cached_property
    def _all_events(self) -> QuerySet[JobEvent]:
        return JobEvent.all_tenants.filter(job=self.job)

    @cached_property
    def _page(self) -> tuple[list[JobEvent], bool]:
        """The events of the page, and whether another page follows."""
        events = self._all_events.order_by("-seq" if self.newest_first else "seq")
        if self.newest_first and self.before_seq:
            events = events.filter(seq__lt=self.before_seq)
        elif not self.newest_first:
            events = events.filter(seq__gt=self.after_seq)
        characters = Length("message") + Length(Cast("extra", TextField()))
        lengths = list(events.values_list(characters, flat=True)[: PAGE_EVENTS + 1])
        fitting = sum(total <= PAGE_CHARACTERS for total in accumulate(lengths))
        number = min(max(fitting, 1), PAGE_EVENTS)
        return list(events[:number]), len(lengths) > number

    @property
    def _page_events(self) -> list[JobEvent]:
        return self._page[0]

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """The numbers of events and artifacts, each up to ``MAX_COUNTED + 1``. One statement."""
        rows = {
            "counted_events": self._all_events.order_by("seq"),
            "counted_artifacts": Artifact.all_tenants.filter(job=self.job).order_by("role"),
        }
        counts = {name: CountUpToLimit(each[: MAX_COUNTED + 1]) for name, each in rows.items()}
        return Job.all_tenants.filter(pk=self.job.pk).annotate(**counts).values_list(*counts).get()

    @property
    def event_count(self) -> str:
        return _counted(self._counts[0])

    @property
    def artifact_count(self) -> str:
        return _counted(self._counts[1])

    @property
    def is_paged(self) -> bool:
        return self._counts[0] > len(self._page_events)

    @property
    def next_seq(self) -> int | None:
        """The ``seq`` after or before which the next page of the timeline begins; None on the last page."""
        return self._page_events[-1].seq if self._page[1] and self._page_events else None

    @cached_property
    def artifacts(self) -> list[DisplayedArtifact]:
        """At most ``MAX_GALLERY``: final artifacts first, each in the order in which they were recorded."""
        # “final” precedes “intermediate”.
        rows = Artifact.all_tenants.filter(job=self.job).order_by("role", "event__seq", "position")
        displayed, left = [], MAX_META_CHARACTERS
        for artifact in rows[:MAX_GALLERY]:
            displayed.append(self._displayed(artifact))
            if artifact.meta:
                characters = len(json.dumps(artifact.meta, ensure_ascii=False))
                if characters <= left:
                    left -= characters
                    displayed[-1].meta = self._json(artifact.meta, open_levels=1)
                else:
                    displayed[-1].meta = format_html("<p>{} characters: too many for this page.</p>", f"{characters:,}")
        return displayed

    @property
    def hidden_artifacts(self) -> bool:
        return self._counts[1] > MAX_GALLERY

    @cached_property
    def timeline(self) -> list[TimelineEvent]:
        artifacts: dict[int | None, list[DisplayedArtifact]] = {}
        rows = Artifact.all_tenants.filter(event__in=[event.pk for event in self._page_events])
        for artifact in rows.order_by("event", "position").defer("meta")[:PAGE_ARTIFACTS]:
            artifacts.setdefault(artifact.event_id, []).append(self._displayed(artifact))
        timeline, before = [], None
        # In the order of time, so that each gap is known, whatever the order on the page.
        for event in sorted(self._page_events, key=attrgetter("seq")):
            timeline.append(self._timeline_event(event, before, artifacts.get(event.pk, [])))
            before = event.created_at
        return timeline[::-1] if self.newest_first else timeline

    @cached_property
    def failure(self) -> TimelineEvent | None:
        """The last event ``failed`` of a job that failed or failed in part; else None."""
        if self.job.status not in (JobStatus.FAILURE, JobStatus.PARTIAL_FAILURE):
            return None
        failed = self._all_events.filter(event_type="failed").order_by("-seq").first()
        return self._timeline_event(failed, with_extra=False) if failed else None

    def _timeline_event(
        self,
        event: JobEvent,
        before: datetime | None = None,
        artifacts: Sequence[DisplayedArtifact] = (),
        *,
        with_extra: bool = True,
    ) -> TimelineEvent:
        text, extra = self.renderer.redact_text, dict(event.extra)
        # An error that is a string has its own place on the page; any other value is shown with the rest of extra.
        error = extra.pop("error") if isinstance(extra.get("error"), str) else ""
        return TimelineEvent(
            seq=event.seq,
            event_type=event.event_type,
            tone=_TONES.get(event.event_type, "note"),
            is_internal=event.visibility == Visibility.INTERNAL,
            stage=text(event.stage or ""),
            message=text(event.message),
            hostname=text(event.hostname or ""),
            error=text(error),
            extra=self._json(extra, open_levels=1) if extra and with_extra else None,
            at=event.created_at,
            gap=event.created_at - before if before else None,
            is_new_day=before is None or event.created_at.date() != before.date(),
            artifacts=artifacts,
        )

    @cached_property
    def agents(self) -> list[AgentTimeline]:
        """One for each agent of an operation, from its first ``MAX_AGENT_EVENTS`` events, internal ones included."""
        if not self.job.is_operation:
            return []
        columns = ("seq", "event_type", "hostname", ErrorText("extra"), "created_at")
        rows = self._all_events.filter(hostname__isnull=False).order_by("seq").values_list(*columns)
        events = [
            fold.FoldEvent(seq, event_type, Visibility.PUBLIC, "", hostname, {"error": error}, created_at)
            for seq, event_type, hostname, error, created_at in rows[:MAX_AGENT_EVENTS]
        ]
        by_host = defaultdict(list)
        for event in events:
            by_host[event.hostname].append(event)
        start = min(event.created_at for event in events)
        length = max(max(event.created_at for event in events) - start, timedelta(milliseconds=1))
        return [
            AgentTimeline(
                hostname=self.renderer.redact_text(hostname),
                status=agent.status,
                tone=_TONES.get(agent.status, "note"),
                duration=format_duration(agent.duration) if agent.last_end else "",
                error=Truncator(self.renderer.redact_text(agent.error or "")).chars(MAX_AGENT_ERROR),
                marks=_agent_marks(by_host[hostname], start, length),
            )
            for hostname, agent in fold.fold(events, self.job.status).agents.items()
        ]

    def _json(self, value: Any, open_levels: int = OPEN_LEVELS) -> SafeString:
        return self._trees.tree_or_text(self.renderer.redact_value(value), open_levels)

    def _displayed(self, artifact: Artifact) -> DisplayedArtifact:
        try:
            link, problem = self.renderer.presigned_url(artifact.storage_key), ""
        except ValueError:
            link, problem = "", "This artifact's key lies outside the tenant's storage prefix, or cannot be signed."
        # A key without an extension can be an image. If it is none, the page shows a message in its place.
        media_type = mimetypes.guess_type(artifact.storage_key)[0] or "image/*"
        return DisplayedArtifact(
            pk=artifact.pk,
            kind=self.renderer.redact_text(artifact.kind),
            role=artifact.role,
            label=self.renderer.redact_text(artifact.label or ""),
            link=link,
            problem=problem,
            is_image=media_type.startswith("image/"),
            size=_size(artifact),
        )


def _size(artifact: Artifact) -> str:
    """Pixels and bytes, as far as ``backfill_artifacts`` has stored them."""
    pixels = f"{artifact.width} × {artifact.height}" if artifact.width and artifact.height else ""
    return ", ".join(filter(None, (pixels, filesizeformat(artifact.size) if artifact.size is not None else "")))


def _counted(number: int) -> str:
    return f"more than {MAX_COUNTED:,}" if number > MAX_COUNTED else f"{number:,}"


def _agent_marks(events: list[fold.FoldEvent], start: datetime, length: timedelta) -> list[AgentMark]:
    def scaled(at: datetime) -> int:
        return round(1000 * ((at - start) / length))

    ends = [scaled(event.created_at) for event in events[1:]] + [scaled(events[-1].created_at)]
    return [
        AgentMark(
            event_type=event.event_type,
            tone=_TONES.get(event.event_type, "note"),
            x=(x := scaled(event.created_at)),
            width=max(0, end - x),
            at=event.created_at,
        )
        for event, end in zip(events, ends, strict=True)
    ]
