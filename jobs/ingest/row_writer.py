"""Inserts events and artifacts for writers with a few at a time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from ulid import ULID

from jobs.ingest.interchange import ARTIFACT_MEMBERS, EVENT_MEMBERS, JSON_MEMBERS, ArtifactLine, EventLine
from jobs.models import Artifact, JobEvent

# The age of an event beyond which it is no news when it is recorded, such as one of an old dump.
LATE_AFTER = timedelta(hours=24)


def late_before() -> datetime:
    """An event with an earlier time is late if it is recorded now."""
    return datetime.now(UTC) - LATE_AFTER


def insert_events(events: Iterable[tuple[ULID, int, int | None, EventLine]]) -> list[JobEvent]:
    """Inserts the events, each with its job and tenant id and its position (None if internal), and their artifacts."""
    lines, earliest = list(events), late_before()
    rows = JobEvent.all_tenants.bulk_create(
        JobEvent(
            job_id=job_id,
            tenant_id=tenant_id,
            position=position,
            is_late=line.created_at < earliest,
            **_column_values(line, EVENT_MEMBERS),
        )
        for job_id, tenant_id, position, line in lines
    )
    insert_artifacts(
        (job_id, tenant_id, row.pk, position, artifact)
        for (job_id, tenant_id, _, line), row in zip(lines, rows, strict=True)
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
            **_column_values(line, ARTIFACT_MEMBERS),
        )
        for job_id, tenant_id, event_id, position, line in artifacts
    )


def _column_values(line: EventLine | ArtifactLine, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(line, name) for name in names}
    return values | {name: orjson.loads(values[name]) for name in JSON_MEMBERS & values.keys()}
