"""Events and artifacts as rows, for writers that insert few at a time."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from ulid import ULID

from jobs.ingest.interchange import ArtifactLine, EventLine
from jobs.models import Artifact, JobEvent


def insert_events(events: Iterable[tuple[ULID, int, EventLine]]) -> list[JobEvent]:
    """Inserts the events, each with its job and tenant id, and their artifacts."""
    lines = list(events)
    rows = JobEvent.all_tenants.bulk_create(
        JobEvent(
            job_id=job_id,
            tenant_id=tenant_id,
            seq=line.seq,
            event_type=line.event_type,
            visibility=line.visibility,
            stage=line.stage,
            message=line.message,
            hostname=line.hostname,
            extra=orjson.loads(line.extra),
            created_at=line.created_at,
        )
        for job_id, tenant_id, line in lines
    )
    insert_artifacts(
        (job_id, tenant_id, row.pk, position, artifact)
        for (job_id, tenant_id, line), row in zip(lines, rows, strict=True)
        for position, artifact in enumerate(line.artifacts)
    )
    return rows


def insert_artifacts(artifacts: Iterable[tuple[ULID, int, int | None, int, ArtifactLine]]) -> None:
    """Inserts the artifacts, each with its job, tenant and event (if any) ids and its position among its siblings."""
    Artifact.all_tenants.bulk_create(
        Artifact(
            job_id=job_id,
            tenant_id=tenant_id,
            event_id=event_id,
            position=position,
            storage_key=line.storage_key,
            kind=line.kind,
            role=line.role,
            label=line.label,
            meta=orjson.loads(line.meta),
        )
        for job_id, tenant_id, event_id, position, line in artifacts
    )
