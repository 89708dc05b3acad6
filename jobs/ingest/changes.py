"""What a batch changed, written in a few set-based statements.

On PostgreSQL the rows travel by COPY into temporary tables: COPY into the tables themselves is closed where row
security is on, and knows no ON CONFLICT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from django.db import connection
from django.db.models import F, Model

from jobs.ingest import counts
from jobs.ingest.interchange import ArtifactLine, EventLine, Record
from jobs.ingest.merge import header
from jobs.ingest.rows import insert_artifacts, insert_events
from jobs.models import Artifact, Job, JobEvent

COPY_FROM_ROWS = 200  # fewer rows are inserted sooner than temporary tables are made

HEADER_COLUMNS = ("status", "updated_at", "last_seq", "last_public_seq", "is_operation")  # what its events decide
JOB_COLUMNS = ("public_id", "tenant_id", "job_type", "created_at", "request", "version", *HEADER_COLUMNS)
EVENT_COLUMNS = ("id", "job_id", "tenant_id", *EventLine._fields[:-1])
ARTIFACT_COLUMNS = ("job_id", "tenant_id", "event_id", "position", *ArtifactLine._fields)


class Raced(Exception):
    """Another writer added a job that the batch took for new."""


class Change(NamedTuple):
    """A job before and after a batch; ``before`` is None for a new one."""

    before: Record | None
    after: Record
    tenant_id: int

    @property
    def events(self) -> tuple[EventLine, ...]:
        """The new ones."""
        return self.after.events[len(self.before.events) :] if self.before else self.after.events

    @property
    def artifacts(self) -> tuple[ArtifactLine, ...]:
        """The new ones that no event recorded."""
        return self.after.artifacts[self.first_position :]

    @property
    def first_position(self) -> int:
        """Of the new ones that no event recorded."""
        return len(self.before.artifacts) if self.before else 0

    @property
    def growth(self) -> int:
        """By how much the job's version grows: as much as the ledger's calls for the same would make it."""
        return len(self.events) + len(self.artifacts)

    @property
    def header(self) -> dict[str, Any]:
        """The columns of the job's row that its events decide."""
        return {"status": self.after.status} | header(self.after.created_at, self.after.events)


def write(changes: Sequence[Change]) -> None:
    rows = sum(1 + len(change.events) + len(change.artifacts) for change in changes)
    if connection.vendor == "postgresql" and rows >= COPY_FROM_ROWS:
        _copy(changes)
    else:
        _insert(changes)
    moves: counts.Changes = Counter()
    for change in changes:
        moves.update(counts.moved(change.tenant_id, change.before and change.before.status, change.after.status))
    counts.apply(moves)


def _insert(changes: Sequence[Change]) -> None:
    Job.all_tenants.bulk_create(
        Job(
            public_id=change.after.public_id,
            tenant_id=change.tenant_id,
            job_type=change.after.job_type,
            created_at=change.after.created_at,
            request=None if change.after.request is None else orjson.loads(change.after.request),
            version=1 + change.growth,
            **change.header,
        )
        for change in changes
        if change.before is None
    )
    for change in changes:
        if change.before is not None:
            Job.all_tenants.filter(pk=change.after.public_id).update(
                version=F("version") + change.growth, **change.header
            )
    insert_events((change.after.public_id, change.tenant_id, event) for change in changes for event in change.events)
    insert_artifacts(
        (change.after.public_id, change.tenant_id, None, position, artifact)
        for change in changes
        for position, artifact in enumerate(change.artifacts, change.first_position)
    )


def _copy(changes: Sequence[Change]) -> None:
    with connection.cursor() as cursor:
        if new := [_job_row(change, 1 + change.growth) for change in changes if change.before is None]:
            _stage(cursor, Job, JOB_COLUMNS, new)
            if _insert_staged(cursor, Job, JOB_COLUMNS, "ON CONFLICT DO NOTHING") != len(new):
                raise Raced
        if grown := [_job_row(change, change.growth) for change in changes if change.before is not None]:
            _stage(cursor, Job, JOB_COLUMNS, grown)
            _update_staged(cursor)
        events, artifacts = _event_and_artifact_rows(changes, _new_event_ids(cursor, changes))
        _stage(cursor, JobEvent, EVENT_COLUMNS, events)
        _insert_staged(cursor, JobEvent, EVENT_COLUMNS)
        _stage(cursor, Artifact, ARTIFACT_COLUMNS, artifacts)
        _insert_staged(cursor, Artifact, ARTIFACT_COLUMNS)


def _stage(cursor: Any, model: type[Model], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table, names = model._meta.db_table, ", ".join(columns)
    cursor.execute(f"CREATE TEMPORARY TABLE staged AS SELECT {names} FROM {table} WITH NO DATA")  # noqa: S608 - ours
    with cursor.copy("COPY staged FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _insert_staged(cursor: Any, model: type[Model], columns: Sequence[str], otherwise: str = "") -> int:
    """The number of rows inserted."""
    table, names = model._meta.db_table, ", ".join(columns)
    cursor.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM staged {otherwise}")  # noqa: S608 - ours
    inserted: int = cursor.rowcount
    cursor.execute("DROP TABLE staged")
    return inserted


def _update_staged(cursor: Any) -> None:
    columns = ", ".join(f"{name} = staged.{name}" for name in HEADER_COLUMNS)
    cursor.execute(
        f"UPDATE jobs_job AS job SET version = job.version + staged.version, {columns} "  # noqa: S608 - names of our own columns
        "FROM staged WHERE job.public_id = staged.public_id"
    )
    cursor.execute("DROP TABLE staged")


def _job_row(change: Change, version: int) -> list[Any]:
    job, header = change.after, change.header
    return [
        job.public_id.hex,
        change.tenant_id,
        job.job_type,
        job.created_at,
        job.request,
        version,
        *(header[name] for name in HEADER_COLUMNS),
    ]


def _new_event_ids(cursor: Any, changes: Sequence[Change]) -> Iterator[int]:
    """Known beforehand, so that artifacts can name their event without reading it back."""
    cursor.execute(
        "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
        [JobEvent._meta.db_table, sum(len(change.events) for change in changes)],
    )
    return (row[0] for row in cursor.fetchall())


def _event_and_artifact_rows(
    changes: Sequence[Change], event_ids: Iterator[int]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    events: list[tuple[Any, ...]] = []
    artifacts: list[tuple[Any, ...]] = []
    for change in changes:
        job, tenant_id = change.after.public_id.hex, change.tenant_id
        for event in change.events:
            event_id = next(event_ids)
            events.append((event_id, job, tenant_id, *event[:-1]))
            artifacts += [(job, tenant_id, event_id, *each) for each in _numbered(event.artifacts)]
        artifacts += [(job, tenant_id, None, *each) for each in _numbered(change.artifacts, change.first_position)]
    return events, artifacts


def _numbered(artifacts: Sequence[ArtifactLine], start: int = 0) -> list[tuple[Any, ...]]:
    return [(position, *line) for position, line in enumerate(artifacts, start)]
