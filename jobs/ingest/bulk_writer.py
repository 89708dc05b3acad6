"""Writes the changes of a batch in a few set-based statements.

The rows go into a temporary table first, on PostgreSQL by COPY. COPY cannot write to a table with row security, and has
no ON CONFLICT.

The events' positions are taken late, when all other rows are written and the events are in their temporary table.
Between that and the commit there is one INSERT, so that other writers of the tenants wait for that alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Model

from jobs.ingest import counts
from jobs.ingest.interchange import ARTIFACT_MEMBERS, EVENT_MEMBERS, ArtifactLine, EventLine, Record
from jobs.ingest.merge import HEADER_COLUMNS, header
from jobs.ingest.row_writer import late_before
from jobs.models import Artifact, Job, JobCounts, JobEvent, Visibility

JOB_COLUMNS = ("public_id", "tenant_id", "job_type", "created_at", "request", "version", *HEADER_COLUMNS)
# The time of an event needs a conversion for SQLite, so it stands apart from the members that are written as they are.
PLAIN_EVENT_MEMBERS = tuple(name for name in EVENT_MEMBERS if name != "created_at")
EVENT_COLUMNS = ("id", "job_id", "tenant_id", "created_at", *PLAIN_EVENT_MEMBERS, "is_late", "position")
ARTIFACT_COLUMNS = ("job_id", "tenant_id", "event_id", "position", *ARTIFACT_MEMBERS)

CREATE_INCOMING = "CREATE TEMPORARY TABLE incoming AS SELECT {columns} FROM {table} WHERE false"
# "WHERE true": SQLite takes an ON CONFLICT that follows a SELECT for part of a join unless the SELECT has a WHERE.
INSERT = "INSERT INTO {table} ({columns}) SELECT {columns} FROM incoming WHERE true"
UPDATE_HEADERS = (
    "UPDATE {table} AS job SET version = job.version + incoming.version, "  # noqa: S608 - names of our own columns
    + ", ".join(f"{name} = incoming.{name}" for name in HEADER_COLUMNS)
    + " FROM incoming WHERE job.public_id = incoming.public_id"
)
# In the temporary table a position is relative to the last position of its tenant, which is known late. A job and its
# internal events alone may leave a tenant without counts.
INSERT_EVENTS = (
    "INSERT INTO {table} ({columns}) SELECT "  # noqa: S608 - names of our own columns
    + ", ".join(f"incoming.{name}" for name in EVENT_COLUMNS[:-1])
    + f", counts.last_position + incoming.position FROM incoming LEFT JOIN {JobCounts._meta.db_table} AS counts "
    + "ON counts.tenant_id = incoming.tenant_id"
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
    def positions(self) -> int:
        """The number of positions it takes: one for each public event, else one for a change that /v1 shows.

        A new job without public events takes none, as it is opened by the ledger: nobody can have followed it.
        """
        number = sum(event.visibility == Visibility.PUBLIC for event in self.events)
        if number or self.before is None:
            return number
        return int(bool(self.artifacts) or self.after.status != self.before.status)

    @property
    def header(self) -> dict[str, Any]:
        """The columns of the job's row that its events decide."""
        return {"status": self.after.status} | header(self.after.created_at, self.after.events)


def write(changes: Sequence[Change]) -> None:
    """Writes a batch in ascending order of the jobs' ids, then the counters and the events. Raises ConcurrentInsert."""
    instant = _instants()
    new = [_job_row(change, 1 + change.growth, instant) for change in changes if change.before is None]
    grown = [_job_row(change, change.growth, instant) for change in changes if change.before is not None]
    moves: counts.Changes = Counter()
    positions: Counter[int] = Counter()
    for change in changes:
        moves.update(
            counts.status_change(change.tenant_id, change.before and change.before.status, change.after.status)
        )
        positions[change.tenant_id] += change.positions
    with connection.cursor() as cursor:
        with _temporary_table(cursor, Job, JOB_COLUMNS, new) as execute:
            if execute(f"{INSERT} ON CONFLICT DO NOTHING") != len(new):
                raise ConcurrentInsert
        with _temporary_table(cursor, Job, JOB_COLUMNS, grown) as execute:
            execute(UPDATE_HEADERS)
        events, artifacts = _event_and_artifact_rows(changes, _new_event_ids(cursor, changes), positions)
        # Artifacts may stand before their events: their foreign key is checked at the commit.
        with _temporary_table(cursor, Artifact, ARTIFACT_COLUMNS, artifacts) as execute:
            execute(INSERT)
        with _temporary_table(cursor, JobEvent, EVENT_COLUMNS, events) as execute:
            counts.apply(moves, {tenant_id: number for tenant_id, number in positions.items() if number})
            execute(INSERT_EVENTS)


@contextmanager
def _temporary_table(
    cursor: Any, model: type[Model], columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> Iterator[Callable[[str], int]]:
    """Puts ``rows`` into a temporary table. Yields a function that runs a statement and returns the rows it changed.

    Nothing is run where there are no rows.
    """
    if not rows:
        yield lambda _: 0
        return
    names = {"table": model._meta.db_table, "columns": ", ".join(columns)}
    cursor.execute(CREATE_INCOMING.format(**names))
    if connection.vendor == "postgresql":
        with connection.wrap_database_errors, cursor.copy("COPY incoming FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        cursor.executemany(f"INSERT INTO incoming VALUES ({', '.join(['%s'] * len(columns))})", rows)  # noqa: S608

    def execute(statement: str) -> int:
        cursor.execute(statement.format(**names))
        changed: int = cursor.rowcount
        return changed

    yield execute
    cursor.execute("DROP TABLE incoming")


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
        # Not a range: another writer may take ids in between. The name of the sequence is looked up once, which saves
        # five sixths of the time.
        cursor.execute(
            "SELECT nextval((SELECT pg_get_serial_sequence(%s, 'id')::regclass)) FROM generate_series(1, %s)",
            [JobEvent._meta.db_table, number],
        )
        return (row[0] for row in cursor.fetchall())
    # SQLite has one writer at a time, and continues after the highest id.
    cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [JobEvent._meta.db_table])
    last = cursor.fetchone()
    return count(last[0] + 1 if last else 1)


def _event_and_artifact_rows(
    changes: Sequence[Change], event_ids: Iterator[int], positions: Mapping[int, int]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    events: list[tuple[Any, ...]] = []
    artifacts: list[tuple[Any, ...]] = []
    instant, earliest = _instants(), late_before()
    # ``positions`` is the number that each tenant takes. The last one is then the counter's last position: 0 from it.
    next_position = {tenant_id: 1 - number for tenant_id, number in positions.items()}
    for change in changes:
        job, tenant_id = change.after.public_id.hex, change.tenant_id
        position = next_position[tenant_id]
        next_position[tenant_id] += change.positions
        for event in change.events:
            event_id, is_public = next(event_ids), event.visibility == Visibility.PUBLIC
            values = event_id, job, tenant_id, instant(event.created_at), *_plain_event_values(event)
            events.append((*values, event.created_at < earliest, position if is_public else None))
            position += is_public
            artifacts += [(job, tenant_id, event_id, *each) for each in _numbered(event.artifacts)]
        artifacts += [(job, tenant_id, None, *each) for each in _numbered(change.artifacts, change.first_position)]
    return events, artifacts


def _numbered(artifacts: Sequence[ArtifactLine], start: int = 0) -> list[tuple[Any, ...]]:
    return [(position, *line) for position, line in enumerate(artifacts, start)]


def _instants() -> Callable[[datetime], Any]:
    """Converts times for the database driver. Looked up once for each batch: it costs a microsecond."""
    return connection.ops.adapt_datetimefield_value if connection.vendor == "sqlite" else lambda at: at
