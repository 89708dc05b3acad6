"""The demo tenant's jobs as interchange records: every type in every state, operations on one and on many agents."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from operator import itemgetter
from typing import Any, NamedTuple

from ulid import ULID

from jobs.demo.drawing import HEIGHT, WIDTH, Subject
from jobs.fold import GATEWAY
from jobs.models import JobStatus, JobType
from tenants.models import Tenant

Record = dict[str, Any]


class Picture(NamedTuple):
    """One file of a job: its storage key, and the arguments of :func:`jobs.demo.drawing.draw`."""

    storage_key: str
    subject: Subject
    look_seed: int
    view: int


class Step(NamedTuple):
    """One stage of a workflow: its message, and the image that it makes, if any."""

    stage: str
    message: str
    subject: Subject | None = None
    kind: str = ""


class Failure(NamedTuple):
    """Why a workflow fails: its public message, the trace in an internal event, and whether a retry may succeed."""

    message: str
    trace: str
    is_retryable: bool


class Workflow(NamedTuple):
    request: Record
    steps: tuple[Step, ...]
    subject: Subject
    kind: str
    labels: tuple[str, ...]
    failure: str


FIND_POSE = Step("pose", "Finding a pose", "sketch", "pose_guide")
CUT_OUT = Step("segmentation", "Cutting the figure out", "mask", "segmentation_mask")
RENDER = Step("render", "Rendering")

WORKFLOWS: dict[JobType, Workflow] = {
    JobType.MODEL_GENERATOR: Workflow(
        {"prompt": "confident, mid-stride, soft window light", "aspect_ratio": "3:4", "count": 3},
        (FIND_POSE, RENDER),
        "model",
        "on_model_render",
        ("front", "side", "three-quarter"),
        "The prompt asks for more people than one picture can hold",
    ),
    JobType.BACKGROUND_GENERATOR: Workflow(
        {"prompt": "warm plaster wall, late afternoon", "palette": ["sand", "terracotta"], "count": 2},
        (Step("composition", "Laying out the set"), RENDER),
        "background",
        "background",
        ("wide", "close"),
        "The palette names a colour that does not exist: “glossy”",
    ),
    JobType.COMPLEMENTARY_GARMENT_GENERATOR: Workflow(
        {"garment": {"sku": "SKU-2207", "title": "Pleated midi skirt"}, "goes_with": ["office", "spring"]},
        (Step("matching", "Looking for what goes with it"), RENDER),
        "garment",
        "garment",
        ("on hanger", "with accessories"),
        "No garment of the collection goes with SKU-2207",
    ),
    JobType.PRODUCT_TO_MODEL_DIRECT: Workflow(
        {"product": {"sku": "SKU-1042", "title": "Wrap dress, linen"}, "model": "any"},
        (RENDER,),
        "model",
        "on_model_render",
        ("front",),
        "The product photo is smaller than 512 pixels",
    ),
    JobType.PRODUCT_TO_MODEL_PHASED: Workflow(
        {"product": {"sku": "SKU-1187", "title": "Double-breasted coat"}, "phases": ["segmentation", "pose", "render"]},
        (CUT_OUT, FIND_POSE, RENDER),
        "model",
        "on_model_render",
        ("front", "back", "detail"),
        "The garment could not be separated from the background",
    ),
    JobType.BACKGROUND_SWAP_WITH_IMAGE: Workflow(
        # A request may contain a storage key. The API shows it as [redacted].
        {"source": "tenants/demo/uploads/lookbook-07.png", "background": "tenants/demo/uploads/loft.png"},
        (CUT_OUT, Step("relight", "Matching the light of the new background")),
        "model",
        "background_swap",
        ("result",),
        "The background image cannot be read: it ends in the middle",
    ),
    JobType.BACKGROUND_SWAP_WITH_SPEC: Workflow(
        {"spec": {"scene": "studio sweep", "light": {"from": "left", "kelvin": 4300}, "shadow": True}},
        (CUT_OUT, RENDER),
        "model",
        "background_swap",
        ("with shadow", "without shadow"),
        "light.kelvin is outside 1800 to 10000",
    ),
    JobType.MODEL_SWAP_WITH_IMAGE: Workflow(
        {"model_image": "tenants/demo/uploads/portrait-3.png", "keep": ["pose", "garment"]},
        (CUT_OUT, RENDER),
        "model",
        "model_swap",
        ("front", "side"),
        "The model's face is turned away in the picture that was given",
    ),
}
# Reasons that have nothing to do with the request.
MACHINE_FAILURES = (
    Failure(
        "The GPU ran out of memory before the picture was finished",
        "CUDA out of memory: tried to allocate 2.31 GiB, 1.87 GiB of 23.65 GiB free",
        is_retryable=True,
    ),
    Failure(
        "The renderer did not answer within 120 seconds",
        "POST gpu-03:9000/render: deadline exceeded",
        is_retryable=True,
    ),
    Failure("The source picture cannot be read: 404 Not Found", "GET source: 404 Not Found", is_retryable=False),
)
SOURCE_PREFIX = "tenants/demo/"  # of the storage keys in the requests above
STATES = (JobStatus.NOT_STARTED, JobStatus.IN_PROGRESS, JobStatus.FAILURE, JobStatus.SUCCESS)


@dataclass
class RecordBuilder:
    """Builds the record of a job. Its clock moves forward from event to event."""

    number: int
    prefix: str
    record: Record
    clock: datetime
    pictures: list[Picture] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    def event(self, event_type: str, message: str, *artifacts: Record, **members: Any) -> None:
        events = self.record["events"]
        event = {"seq": len(events) + 1, "event_type": event_type, "message": message, "created_at": _text(self.clock)}
        events.append(event | {"artifacts": list(artifacts)} | members)

    def picture(self, subject: Subject, kind: str, role: str, label: str, view: int = 0) -> Record:
        """An artifact. Its file is drawn later."""
        key = f"{self.prefix}{self.record['public_id']}/{label.replace(' ', '-')}.png"
        self.pictures.append(Picture(key, subject, self.number, view))
        meta = {"width": WIDTH, "height": HEIGHT, "seed": self.number}
        return {"storage_key": key, "kind": kind, "role": role, "label": label, "meta": meta}


Job = tuple[str, Callable[[RecordBuilder], None]]


def demo_records(tenant: Tenant, now: datetime) -> Iterator[RecordBuilder]:
    """The demo's jobs, newest first. Their ids are always the same; their times are relative to ``now``."""
    jobs: list[Job] = [
        (job_type, partial(_workflow, job_type, status)) for status, job_type in product(STATES, JobType)
    ]
    for place, (job_type, request, agents) in enumerate(OPERATIONS):
        jobs.insert(2 + 4 * place, (job_type, partial(_operation, request, agents)))
    jobs.append(("CATALOG_EXPORT", _without_events))
    for number, (job_type, build) in enumerate(jobs, start=1):
        # Minutes ago at first, then hours, then days. The newest jobs are the ones that wait or run.
        created_at = now - timedelta(seconds=45 * number + 40 * 1.26**number)
        record = {
            "public_id": str(_id(number)),
            "tenant": tenant.slug,
            "job_type": str(job_type),
            "created_at": _text(created_at),
            "events": [],
        }
        builder = RecordBuilder(number, tenant.storage_prefix, record, created_at)
        build(builder)
        yield builder


def _id(number: int) -> ULID:
    """A ULID of a fixed day, higher for a newer job. Its other bits come from a hash, so it is always the same."""
    milliseconds = int(datetime(2026, 4, 15, 12, tzinfo=UTC).timestamp() * 1000) - number * 60_000
    return ULID(milliseconds.to_bytes(6, "big") + hashlib.sha256(b"demo %d" % number).digest()[:10])


def simulated_record(
    tenant: Tenant, public_id: ULID, now: datetime, chance: random.Random, fails: bool, is_operation: bool
) -> RecordBuilder:
    """A job that is opened ``now`` and ends, with its events until then. Its other properties are random.

    If an operation is to fail, some or all of its agents do.
    """
    record = {"public_id": str(public_id), "tenant": tenant.slug, "created_at": _text(now), "events": []}
    builder = RecordBuilder(chance.randrange(10**6), tenant.storage_prefix, record, now)
    if is_operation:
        record["job_type"], request, agents = chance.choice([each for each in ENDING if _fails(each[2]) == fails])
        _operation(request, agents, builder)
    else:
        job_type = chance.choice(list(WORKFLOWS))
        record["job_type"] = str(job_type)
        failure = chance.choice([None, *MACHINE_FAILURES])
        _workflow(job_type, JobStatus.FAILURE if fails else JobStatus.SUCCESS, builder, failure)
    record["request"] = builder.record["request"] | {SIMULATED: True}
    return builder


def _workflow(job_type: JobType, status: JobStatus, builder: RecordBuilder, failure: Failure | None = None) -> None:
    """If it fails, by ``failure`` or the reason that is typical of the workflow."""
    workflow = WORKFLOWS[job_type]
    builder.record["request"] = {
        name: value.replace(SOURCE_PREFIX, builder.prefix) if isinstance(value, str) else value
        for name, value in workflow.request.items()
    } | {"seed": builder.number}
    builder.wait(0.2)
    builder.event("queued", "Queued")
    if status == JobStatus.NOT_STARTED:
        return
    steps = workflow.steps if status == JobStatus.SUCCESS else workflow.steps[:2]
    for place, step in enumerate(steps):
        builder.wait(1.5 + place)
        artifacts = [builder.picture(step.subject, step.kind, "intermediate", step.stage)] if step.subject else []
        builder.event(
            "stage", step.message, *artifacts, stage=step.stage, extra={"progress": round(place / len(steps), 2)}
        )
        worker = f"Worker {builder.number % 3 + 1} took the step"
        builder.event("stage", worker, stage=step.stage, visibility="internal", extra={"queue_ms": 40 + builder.number})
    builder.wait(6.25)
    if status == JobStatus.SUCCESS:
        final = [
            builder.picture(workflow.subject, workflow.kind, "final", label, view)
            for view, label in enumerate(workflow.labels)
        ]
        builder.event("succeeded", "Done", *final, extra={"cost": round(0.02 * len(final), 2), "currency": "USD"})
    elif status == JobStatus.FAILURE:
        failure = failure or Failure(
            workflow.failure, f"{job_type.lower()}: rejected by the check before rendering", is_retryable=False
        )
        builder.event("stage", failure.trace, visibility="internal", extra={"exit_code": 22})
        builder.event("failed", failure.message, extra={"retryable": failure.is_retryable})


def _without_events(builder: RecordBuilder) -> None:
    """A job without events, of a type that ``/v1/jobs`` does not list."""
    builder.record["request"] = {"format": "csv", "columns": ["sku", "title", "image"]}


class Agent(NamedTuple):
    """One agent's part of an operation: its last event, after how many seconds, and its outcome."""

    hostname: str
    events: tuple[str, ...]
    seconds: float = 0.0
    extra: Record = {}
    after: float = 0.0  # seconds since the request


DONE = ("submitted", "acknowledged", "started", "completed")
BROKEN = ("submitted", "acknowledged", "started", "failed")

OPERATIONS: list[tuple[str, Record, tuple[Agent, ...]]] = [
    ("render.warmup", {"type": "render.warmup", "data": {"model": "studio-xl"}}, (Agent("gpu-04", ("submitted",)),)),
    (
        "cache.prune",
        {"type": "cache.prune", "data": {"older_than_days": 14}},
        (Agent("gpu-01", DONE, 2.2, {"data": {"freed_mb": 812}, "changed": True}), Agent("gpu-02", DONE[:3])),
    ),
    (
        "node.hostname.get",
        {"type": "node.hostname.get", "data": {}},
        (Agent("gpu-01", DONE, 0.25, {"data": {"hostname": "gpu-01"}, "changed": False}),),
    ),
    (
        "node.disk.get",
        {"type": "node.disk.get", "data": {"path": "/srv/models"}},
        (Agent("gpu-03", BROKEN, 1.4, {"error": "/srv/models: no such directory"}),),
    ),
    (
        "weights.install",
        {"type": "weights.install", "data": {"name": "studio-xl", "version": "2.3.1"}},
        tuple(
            Agent(f"gpu-0{n}", DONE, 31.5 + 7.4 * n, {"data": {"bytes": 6_815_744_000}, "changed": n != 2})
            for n in range(1, 5)
        ),
    ),
    (
        "driver.update",
        {"type": "driver.update", "data": {"to": "570.86"}},
        (
            Agent("gpu-01", DONE, 63.512, {"data": {"from": "565.57", "to": "570.86"}, "changed": True}),
            Agent("gpu-02", DONE, 58.907, {"data": {"from": "565.57", "to": "570.86"}, "changed": True}),
            Agent("gpu-03", BROKEN, 12.3, {"error": "package is held back by an administrator"}),
            Agent("gpu-04", DONE, 4.05, {"data": {"from": "570.86", "to": "570.86"}, "changed": False}),
        ),
    ),
    (
        "service.restart",
        {"type": "service.restart", "data": {"unit": "renderer"}},
        (Agent("gpu-01", BROKEN, 30.0, {"error": "timed out"}), Agent("gpu-02", BROKEN, 30.0, {"error": "timed out"})),
    ),
    (
        "renderer.reload",
        {"type": "renderer.reload", "data": {}},
        (
            Agent("gpu-02", BROKEN, 5.0, {"error": "a render is still running"}),
            Agent(GATEWAY, ("retried",), after=20.0),
            Agent("gpu-02", ("started", "completed"), 1.25, {"data": {"renders_waited_for": 1}, "changed": True}, 21.0),
        ),
    ),
]


def _last_events(agents: tuple[Agent, ...]) -> set[str]:
    """The last event of each agent's part."""
    return set({agent.hostname: agent.events[-1] for agent in agents if agent.hostname != GATEWAY}.values())


def _fails(agents: tuple[Agent, ...]) -> bool:
    return "failed" in _last_events(agents)


ENDING = [each for each in OPERATIONS if _last_events(each[2]) <= {"completed", "failed"}]
SIMULATED = "simulated"  # the member of the request of a simulated job that marks it

# For each event of an agent: the seconds after its submission or its start, and the message.
AGENT_EVENTS = {
    "submitted": (0.01, "Handed to the agent"),
    "acknowledged": (0.3, "Taken"),
    "started": (0.5, "Started"),
    "completed": (0.5, "Done"),
    "failed": (0.5, "Failed"),
    "retried": (0.0, "Tried once more"),
}


def _operation(request: Record, agents: tuple[Agent, ...], builder: RecordBuilder) -> None:
    builder.record["request"] = request
    start = builder.clock
    events = []
    for order, agent in enumerate(agents):
        for event_type in agent.events:
            seconds, message = AGENT_EVENTS[event_type]
            is_end = event_type in ("completed", "failed")
            moment = start + timedelta(seconds=agent.after + seconds + agent.seconds * is_end + 0.011 * order)
            events.append((moment, event_type, message, agent.hostname, agent.extra if is_end else {}))
    for builder.clock, event_type, message, hostname, extra in sorted(events, key=itemgetter(0)):
        builder.event(event_type, message, hostname=hostname, extra=extra)


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
