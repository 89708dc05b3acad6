"""Writes the changes of a batch in a few set-based statements.

The rows go into a temporary table first, on PostgreSQL by COPY. COPY cannot write to a table with row security, and has
no ON CONFLICT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import count
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Model

from jobs.ingest import counts
from jobs.ingest.interchange import ARTIFACT_MEMBERS, EVENT_MEMBERS, ArtifactLine, EventLine, Record
from jobs.ingest.merge import HEADER_COLUMNS, header
from jobs.models import Artifact, Job, JobEvent

JOB_COLUMNS = ("public_id", "tenant_id", "job_type", "created_at", "request", "version", *HEADER_COLUMNS)
# The time of an event needs a conversion for SQLite, so it stands apart from the members that are written as they are.
PLAIN_EVENT_MEMBERS = tuple(name for name in EVENT_MEMBERS if name != "created_at")
EVENT_COLUMNS = ("id", "job_id", "tenant_id", "created_at", *PLAIN_EVENT_MEMBERS)
ARTIFACT_COLUMNS = ("job_id", "tenant_id", "event_id", "position", *ARTIFACT_MEMBERS)

CREATE_INCOMING = "CREATE TEMPORARY TABLE incoming AS SELECT {columns} FROM {table} WHERE false"
# "WHERE true": SQLite takes an ON CONFLICT that follows a SELECT for part of a join unless the SELECT has a WHERE.
INSERT = "INSERT INTO {table} ({columns}) SELECT {columns} FROM incoming WHERE true"
UPDATE_HEADERS = (
    "UPDATE {table} AS job SET version = job.version + incoming.version, "  # noqa: S608 - names of our own columns
    + ", ".join(f"{name} = incoming.{name}" for name in HEADER_COLUMNS)
    + " FROM incoming WHERE job.public_id = incoming.public_id"
)
_plain_event_values = attrgetter(*PLAIN_EVENT_MEMBERS)


class ConcurrentInsert(Exception):
    """Another writer added a job that is new in the batch."""


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
        """The new ones without an event."""
        return self.after.artifacts[self.first_position :]

    @property
    def first_position(self) -> int:
        """The position of the first new artifact without an event."""
        return len(self.before.artifacts) if self.before else 0

    @property
    def growth(self) -> int:
        """The increase of the job's version: the same as by calls of the ledger."""
        return len(self.events) + len(self.artifacts)

    @property
    def header(self) -> dict[str, Any]:
        """The columns of the job's row that its events decide."""
        return {"status": self.after.status} | header(self.after.created_at, self.after.events)


def write(changes: Sequence[Change]) -> None:
    """Writes a batch in ascending order of the jobs' ids, and the counts last. Raises ConcurrentInsert."""
    instant = _instants()
    new = [_job_row(change, 1 + change.growth, instant) for change in changes if change.before is None]
    grown = [_job_row(change, change.growth, instant) for change in changes if change.before is not None]
    with connection.cursor() as cursor:
        if _through_temporary_table(cursor, Job, JOB_COLUMNS, new, f"{INSERT} ON CONFLICT DO NOTHING") != len(new):
            raise ConcurrentInsert
        _through_temporary_table(cursor, Job, JOB_COLUMNS, grown, UPDATE_HEADERS)
        events, artifacts = _event_and_artifact_rows(changes, _new_event_ids(cursor, changes))
        _through_temporary_table(cursor, JobEvent, EVENT_COLUMNS, events, INSERT)
        _through_temporary_table(cursor, Artifact, ARTIFACT_COLUMNS, artifacts, INSERT)
    moves: counts.Changes = Counter()
    for change in changes:
        moves.update(
            counts.status_change(change.tenant_id, change.before and change.before.status, change.after.status)
        )
    counts.apply(moves)


def _through_temporary_table(
    cursor: Any, model: type[Model], columns: Sequence[str], rows: Sequence[Sequence[Any]], statement: str
) -> int:
    """Puts ``rows`` into a temporary table and runs ``statement`` on it. Returns the number of rows it changed."""
    if not rows:
        return 0
    names = {"table": model._meta.db_table, "columns": ", ".join(columns)}
    cursor.execute(CREATE_INCOMING.format(**names))
    if connection.vendor == "postgresql":
        with cursor.copy("COPY incoming FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        cursor.executemany(f"INSERT INTO incoming VALUES ({', '.join(['%s'] * len(columns))})", rows)  # noqa: S608
    cursor.execute(statement.format(**names))
    touched: int = cursor.rowcount
    cursor.execute("DROP TABLE incoming")
    return touched


def _job_row(change: Change, version: int, instant: Callable[[datetime], Any]) -> list[Any]:
    job, header = change.after, change.header
    values = header | {
        "public_id": job.public_id.hex,
        "tenant_id": change.tenant_id,
        "job_type": job.job_type,
        "created_at": instant(job.created_at),
        "updated_at": instant(header["updated_at"]),
        "request": job.request,
        "version": version,
    }
    return [values[name] for name in JOB_COLUMNS]


def _new_event_ids(cursor: Any, changes: Sequence[Change]) -> Iterator[int]:
    """Ids for the new events. They are assigned here, so that artifacts can refer to their event."""
    number = sum(len(change.events) for change in changes)
    if connection.vendor == "postgresql":
        # Not a range: another writer may take ids in between.
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
            [JobEvent._meta.db_table, number],
        )
        return (row[0] for row in cursor.fetchall())
    # SQLite has one writer at a time, and continues after the highest id.
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
            events.append((event_id, job, tenant_id, instant(event.created_at), *_plain_event_values(event)))
            artifacts += [(job, tenant_id, event_id, *each) for each in _numbered(event.artifacts)]
        artifacts += [(job, tenant_id, None, *each) for each in _numbered(change.artifacts, change.first_position)]
    return events, artifacts


def _numbered(artifacts: Sequence[ArtifactLine], start: int = 0) -> list[tuple[Any, ...]]:
    return [(position, *line) for position, line in enumerate(artifacts, start)]


def _instants() -> Callable[[datetime], Any]:
    """Converts times for the database driver. Looked up once for each batch: it costs a microsecond."""
    return connection.ops.adapt_datetimefield_value if connection.vendor == "sqlite" else lambda at: at
