"""What the gateway answers. `make client-models` writes this file from its OpenAPI document: do not edit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, kw_only=True)
class AgentResponse:
    """What one agent answered, once it ended."""

    status: str
    """completed, skipped or failed."""
    hostname: str
    """The agent."""
    data: Any | None = None
    """What the agent answered."""
    changed: bool | None = None
    """Whether the agent changed its host."""
    error: str | None = None
    """Left out where there is none."""


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """How far one agent is."""

    status: str | None = None
    """submitted, acknowledged, started, completed, skipped or failed."""
    error: str | None = None
    """Left out where there is none."""
    duration: str | None = None
    """From first start to last end, such as 250ms, 3.512s or 1m3.5s; 0s until both are."""


@dataclass(frozen=True, kw_only=True)
class ArtifactResponse:
    """A picture that a job made."""

    image_url: str
    """A presigned GET link to the picture, which expires."""
    kind: str
    """What it shows, such as on_model_render."""
    role: str
    """intermediate or final."""
    label: str | None
    """Which one it is, such as front."""
    meta: Mapping[str, Any]
    """Details of the kind, such as width and height."""


@dataclass(frozen=True, kw_only=True)
class ErrorResponse:
    code: str
    """For programs, such as JOB_NOT_FOUND."""
    detail: str
    """For people: what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class FleetErrorResponse:
    error: str
    """What is wrong and what to do."""
    code: int
    """The status of the response."""


@dataclass(frozen=True, kw_only=True)
class JobEventResponse:
    """One event of a job."""

    seq: int
    """Its number in the job, ascending. `since` refers to it."""
    event_type: str
    """queued, stage, succeeded or failed. The events of an operation have their agents' own types, such as started or completed. `Job-Status` says whether the job is over, not the type of its last event."""
    visibility: str
    """Always public here."""
    stage: str | None
    """The step that a stage event is about."""
    message: str
    """One line for a person to read."""
    artifacts: Sequence[ArtifactResponse]
    """The pictures that were recorded with it."""
    extra: Mapping[str, Any]
    """Details of the event; any member may be absent. `progress` is the part of the work that is done, from 0 to 1. `error` is the reason of a failure, and `retryable` whether the same request may succeed later. An agent's event carries `data`, `changed` and `error`."""
    created_at: datetime
    """When it happened, in UTC."""


@dataclass(frozen=True, kw_only=True)
class JobEventsResponse:
    """One page of a job's events."""

    public_id: str
    """The job's ULID."""
    events: Sequence[JobEventResponse]
    """Ascending by seq: at most 500, with at most 1,000 pictures and about 1 MiB of JSON."""
    latest_seq: int | None
    """The `since` to send next; null while there is no public event."""


JobStatus: TypeAlias = Literal["NOT_STARTED", "IN_PROGRESS", "SUCCESS", "FAILURE"]


@dataclass(frozen=True, kw_only=True)
class JobSummaryResponse:
    """A job's header."""

    public_id: str
    """The job's ULID."""
    job_type: str
    """A plain string: new types need no new version of this API."""
    status: JobStatus
    created_at: datetime
    """When the job was created, in UTC."""


@dataclass(frozen=True, kw_only=True)
class TimelineEvent:
    """One line of a job's timeline."""

    timestamp: str | None = None
    """RFC 3339, in UTC."""
    event: str | None = None
    """submitted, acknowledged, started, completed, failed or retried."""
    hostname: str | None = None
    """The agent, or _api for the gateway itself."""
    message: str | None = None
    """One line for a person to read."""
    error: str | None = None
    """Left out where there is none."""


@dataclass(frozen=True, kw_only=True)
class ValidationError:
    loc: Sequence[str | int]
    """The place: "query", the name of the parameter, and the index of an item in a list."""
    msg: str
    """What is wrong, for people."""
    type: str
    """What is wrong, for programs, such as int_parsing or less_than_equal."""


CtmJobType: TypeAlias = Literal[
    "MODEL_GENERATOR",
    "BACKGROUND_GENERATOR",
    "COMPLEMENTARY_GARMENT_GENERATOR",
    "PRODUCT_TO_MODEL_DIRECT",
    "PRODUCT_TO_MODEL_PHASED",
    "BACKGROUND_SWAP_WITH_IMAGE",
    "BACKGROUND_SWAP_WITH_SPEC",
    "MODEL_SWAP_WITH_IMAGE",
]


@dataclass(frozen=True, kw_only=True)
class FeedEvent:
    """One event of the feed, which never changes, and its job as it is at the time of the answer."""

    id: str
    """`<public_id>-<seq>`: the same wherever the event is shown, for telling doubles apart."""
    type: str
    """`job.<event_type>`, such as job.succeeded."""
    job: JobSummaryResponse
    event: JobEventResponse


@dataclass(frozen=True, kw_only=True)
class FeedResponse:
    """One page of the feed."""

    events: Sequence[FeedEvent]
    """In the order in which they were recorded: at most `limit`, with at most 1,000 pictures and about 1 MiB of JSON. A page may be short or empty although more follows."""
    cursor: str
    """The `after` to send next. Keep it as it is: it is opaque."""
    has_more: bool
    """Whether more follows already."""


@dataclass(frozen=True, kw_only=True)
class FleetJobResponse:
    """A job as fleet tooling sees it."""

    id: str
    """The 128 bits of the job's ULID."""
    status: str
    """submitted, processing, completed, failed or partial_failure."""
    created: str
    """RFC 3339, in UTC."""
    operation: Mapping[str, Any]
    """The request; of a workflow job its type and data."""
    result: Any
    """The latest answer; of a workflow job its final artifacts."""
    changed: bool | None
    """Whether any agent changed something; null until the job completes."""
    updated_at: str
    """RFC 3339, in UTC: the time of the latest event."""
    responses: Mapping[str, AgentResponse]
    """By hostname, of jobs with several agents."""
    agent_states: Mapping[str, AgentState]
    """By hostname, of jobs with several agents."""
    timeline: Sequence[TimelineEvent]
    """The last public events by time: at most 500, or 50 on large pages."""
    error: str | None = None
    """The latest error, left out where there is none."""
    hostname: str | None = None
    """The agent that ended last."""


@dataclass(frozen=True, kw_only=True)
class HTTPValidationError:
    detail: Sequence[ValidationError]
    """Every bad parameter."""


@dataclass(frozen=True, kw_only=True)
class JobDetailResponse:
    """A job, with its final pictures and its latest public event."""

    public_id: str
    """The job's ULID."""
    job_type: str
    """A plain string: new types need no new version of this API."""
    status: JobStatus
    created_at: datetime
    """When the job was created, in UTC."""
    request: Mapping[str, Any] | None
    """What the job was asked to do."""
    result: Sequence[ArtifactResponse]
    """The final pictures; empty until the status is SUCCESS. At most 2,000."""
    latest_event: JobEventResponse | None
    """The public event with the highest seq; null before the first."""


@dataclass(frozen=True, kw_only=True)
class JobListResponse:
    """One page of a tenant's jobs."""

    jobs: Sequence[JobSummaryResponse]
    """One page of jobs, newest first."""
    limit: int
    """The page size that was applied."""
    offset: int
    """The offset that was applied."""
    count: int
    """How many jobs are in this page."""


@dataclass(frozen=True, kw_only=True)
class FleetJobListResponse:
    """One page of a tenant's jobs, with counts."""

    total_items: int
    """How many jobs match the filter."""
    status_counts: Mapping[str, int]
    """All the tenant's jobs by status."""
    items: Sequence[FleetJobResponse]
    """One page of jobs, newest first."""
