"""What a batch changed, written in a few set-based statements.

The rows go into a temporary table first, on PostgreSQL by COPY: COPY into the tables themselves is closed where row
security is on, and knows no ON CONFLICT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import count
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Model

from jobs.ingest import counts
from jobs.ingest.interchange import ArtifactLine, EventLine, Record
from jobs.ingest.merge import header
from jobs.models import Artifact, Job, JobEvent

HEADER_COLUMNS = ("status", "updated_at", "last_seq", "last_public_seq", "is_operation")  # what its events decide
JOB_COLUMNS = ("public_id", "tenant_id", "job_type", "created_at", "request", "version", *HEADER_COLUMNS)
EVENT_COLUMNS = ("id", "job_id", "tenant_id", *EventLine._fields[:-1])
ARTIFACT_COLUMNS = ("job_id", "tenant_id", "event_id", "position", *ArtifactLine._fields)

STAGE = "CREATE TEMPORARY TABLE staged AS SELECT {columns} FROM {table} WHERE false"
# What is done from there. ("true" tells SQLite that an ON CONFLICT behind it belongs to the INSERT, not to a join.)
INSERT = "INSERT INTO {table} ({columns}) SELECT {columns} FROM staged WHERE true"
UPDATE_HEADERS = (
    "UPDATE {table} AS job SET version = job.version + staged.version, "  # noqa: S608 - names of our own columns
    + ", ".join(f"{name} = staged.{name}" for name in HEADER_COLUMNS)
    + " FROM staged WHERE job.public_id = staged.public_id"
)


class ConcurrentInsert(Exception):
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
    """Writes a batch, ascending by the jobs' ids, and the counts last.

    Raises ConcurrentInsert where another writer was first.
    """
    instant = _instants()
    new = [_job_row(change, 1 + change.growth, instant) for change in changes if change.before is None]
    grown = [_job_row(change, change.growth, instant) for change in changes if change.before is not None]
    with connection.cursor() as cursor:
        if _through_stage(cursor, Job, JOB_COLUMNS, new, f"{INSERT} ON CONFLICT DO NOTHING") != len(new):
            raise ConcurrentInsert
        _through_stage(cursor, Job, JOB_COLUMNS, grown, UPDATE_HEADERS)
        events, artifacts = _event_and_artifact_rows(changes, _new_event_ids(cursor, changes))
        _through_stage(cursor, JobEvent, EVENT_COLUMNS, events, INSERT)
        _through_stage(cursor, Artifact, ARTIFACT_COLUMNS, artifacts, INSERT)
    moves: counts.Changes = Counter()
    for change in changes:
        moves.update(
            counts.status_change(change.tenant_id, change.before and change.before.status, change.after.status)
        )
    counts.apply(moves)


def _through_stage(
    cursor: Any, model: type[Model], columns: Sequence[str], rows: Sequence[Sequence[Any]], statement: str
) -> int:
    """Puts ``rows`` into a temporary table and runs ``statement`` from there; the number of rows it touched."""
    if not rows:
        return 0
    names = {"table": model._meta.db_table, "columns": ", ".join(columns)}
    cursor.execute(STAGE.format(**names))
    if connection.vendor == "postgresql":
        with cursor.copy("COPY staged FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        cursor.executemany(f"INSERT INTO staged VALUES ({', '.join(['%s'] * len(columns))})", rows)  # noqa: S608
    cursor.execute(statement.format(**names))
    touched: int = cursor.rowcount
    cursor.execute("DROP TABLE staged")
    return touched


def _job_row(change: Change, version: int, instant: Callable[[datetime], Any]) -> list[Any]:
    job, header = change.after, change.header
    header["updated_at"] = instant(header["updated_at"])
    return [
        job.public_id.hex,
        change.tenant_id,
        job.job_type,
        instant(job.created_at),
        job.request,
        version,
        *(header[name] for name in HEADER_COLUMNS),
    ]


def _new_event_ids(cursor: Any, changes: Sequence[Change]) -> Iterator[int]:
    """Known beforehand, so that artifacts can name their event without reading it back."""
    number = sum(len(change.events) for change in changes)
    if connection.vendor == "postgresql":
        # One by one: another writer may take some in between.
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
            [JobEvent._meta.db_table, number],
        )
        return (row[0] for row in cursor.fetchall())
    # SQLite has one writer at a time, and counts on from the highest id that was inserted.
    cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [JobEvent._meta.db_table])
    last = cursor.fetchone()
    return count(last[0] + 1 if last else 1)


def _event_and_artifact_rows(
    changes: Sequence[Change], event_ids: Iterator[int]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    events: list[tuple[Any, ...]] = []
    artifacts: list[tuple[Any, ...]] = []
    instant = _instants()
    for change in changes:
        job, tenant_id = change.after.public_id.hex, change.tenant_id
        for event in change.events:
            event_id = next(event_ids)
            events.append((event_id, job, tenant_id, *event[:-2], instant(event.created_at)))
            artifacts += [(job, tenant_id, event_id, *each) for each in _numbered(event.artifacts)]
        artifacts += [(job, tenant_id, None, *each) for each in _numbered(change.artifacts, change.first_position)]
    return events, artifacts


def _numbered(artifacts: Sequence[ArtifactLine], start: int = 0) -> list[tuple[Any, ...]]:
    return [(position, *line) for position, line in enumerate(artifacts, start)]


def _instants() -> Callable[[datetime], Any]:
    """What makes of an instant what the database's driver wants; asking Django which that is takes a microsecond."""
    return connection.ops.adapt_datetimefield_value if connection.vendor == "sqlite" else lambda at: at
