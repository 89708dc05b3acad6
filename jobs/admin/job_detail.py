"""The data of a job's page: timeline, agents and artifacts, redacted as the API redacts them."""

from __future__ import annotations

import mimetypes
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.safestring import SafeString

from jobs import fold
from jobs.admin.formatting import format_duration
from jobs.admin.json_html import render_json
from jobs.admin.tenant_view import caller_for
from jobs.api.tenant_renderer import TenantRenderer
from jobs.models import Artifact, Job, JobEvent, JobStatus, Role, Visibility

# Events on one page of the timeline.
PAGE_EVENTS = 500

_TONES = {
    "queued": "waiting",
    "submitted": "waiting",
    "acknowledged": "waiting",
    "stage": "running",
    "started": "running",
    "succeeded": "good",
    "completed": "good",
    "failed": "bad",
}


@dataclass(slots=True)
class DisplayedArtifact:
    """One artifact. ``link`` is its signed URL; it is empty if ``problem`` says why there is none."""

    kind: str
    role: str
    label: str
    meta: SafeString | None
    link: str
    problem: str
    is_image: bool

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
    """One agent of an operation: its status, duration and error, and its events on a scale of time."""

    hostname: str
    status: str
    tone: str
    duration: str
    error: str
    marks: list[AgentMark]


class JobDetail:
    """All that the page of ``job`` shows of its events and artifacts. Two statements, whatever their number."""

    def __init__(self, job: Job, request: HttpRequest, after_seq: int = 0) -> None:
        self.job = job
        self.after_seq = after_seq
        self.renderer = TenantRenderer(request, caller_for(job.tenant))

    @property
    def version(self) -> str:
        """Changes whenever the page changes. Internal events can leave ``Job.version`` as it is; hence ``last_seq``."""
        return f"{self.job.version}.{self.job.last_seq}"

    @property
    def is_live(self) -> bool:
        return self.job.status in (JobStatus.NOT_STARTED, JobStatus.IN_PROGRESS)

    @cached_property
    def request(self) -> SafeString | None:
        return None if self.job.request is None else render_json(self.renderer.redact_value(self.job.request))

    @cached_property
    def _events(self) -> list[JobEvent]:
        return list(JobEvent.all_tenants.filter(job=self.job).order_by("seq"))

    @cached_property
    def _artifact_rows(self) -> list[Artifact]:
        return list(Artifact.all_tenants.filter(job=self.job).order_by("event__seq", "position"))

    @cached_property
    def _page_events(self) -> list[JobEvent]:
        return [event for event in self._events if event.seq > self.after_seq][:PAGE_EVENTS]

    @property
    def event_count(self) -> int:
        return len(self._events)

    @property
    def next_after_seq(self) -> int | None:
        """``after_seq`` of the next page of the timeline; None on the last page."""
        return (
            self._page_events[-1].seq if self._page_events and self._page_events[-1] is not self._events[-1] else None
        )

    @cached_property
    def artifacts(self) -> list[DisplayedArtifact]:
        """Final artifacts first, then the others; each in the order in which they were recorded."""
        ordered = sorted(self._artifact_rows, key=lambda artifact: artifact.role != Role.FINAL)
        return [self._displayed(artifact) for artifact in ordered]

    @cached_property
    def timeline(self) -> list[TimelineEvent]:
        artifacts: dict[int | None, list[DisplayedArtifact]] = {}
        for artifact in self._artifact_rows:
            artifacts.setdefault(artifact.event_id, []).append(self._displayed(artifact))
        timeline, before = [], None
        for event in self._page_events:
            timeline.append(self._timeline_event(event, before, artifacts.get(event.pk, [])))
            before = event.created_at
        return timeline

    @cached_property
    def failure(self) -> TimelineEvent | None:
        """The last event ``failed`` of a job that failed or failed in part; else None."""
        if self.job.status not in (JobStatus.FAILURE, JobStatus.PARTIAL_FAILURE):
            return None
        failed = [event for event in self._events if event.event_type == "failed"]
        return self._timeline_event(failed[-1]) if failed else None

    def _timeline_event(
        self, event: JobEvent, before: datetime | None = None, artifacts: Sequence[DisplayedArtifact] = ()
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
            extra=render_json(self.renderer.redact_value(extra), open_levels=1) if extra else None,
            at=event.created_at,
            gap=event.created_at - before if before else None,
            is_new_day=before is None or event.created_at.date() != before.date(),
            artifacts=artifacts,
        )

    @cached_property
    def agents(self) -> list[AgentTimeline]:
        """One for each agent of an operation, computed from all events, internal ones included."""
        if not self.job.is_operation:
            return []
        events = [
            fold.FoldEvent(
                event.seq,
                event.event_type,
                Visibility.PUBLIC,
                event.message,
                event.hostname,
                event.extra,
                event.created_at,
            )
            for event in self._events
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
                tone=_TONES[agent.status],
                duration=format_duration(agent.duration) if agent.last_end else "",
                error=self.renderer.redact_text(agent.error or ""),
                marks=_agent_marks(by_host[hostname], start, length),
            )
            for hostname, agent in fold.fold(events, self.job.status).agents.items()
        ]

    def _displayed(self, artifact: Artifact) -> DisplayedArtifact:
        try:
            link, problem = self.renderer.presigned_url(artifact.storage_key), ""
        except ValueError:
            link, problem = "", "This artifact's key lies outside the tenant's storage prefix, or cannot be signed."
        # A key without an extension can be an image. If it is none, the page shows a message in its place.
        media_type = mimetypes.guess_type(artifact.storage_key)[0] or "image/*"
        return DisplayedArtifact(
            kind=self.renderer.redact_text(artifact.kind),
            role=artifact.role,
            label=self.renderer.redact_text(artifact.label or ""),
            meta=render_json(self.renderer.redact_value(artifact.meta), open_levels=1) if artifact.meta else None,
            link=link,
            problem=problem,
            is_image=media_type.startswith("image/"),
        )


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
