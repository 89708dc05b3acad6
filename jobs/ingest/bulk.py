"""Many records at once: read, checked and merged with what the store has, a batch to a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from django.db import DataError, IntegrityError, transaction

from jobs.ingest import interchange
from jobs.ingest.changes import Change, Raced, write
from jobs.ingest.interchange import Reason, Record, Rejected
from jobs.ingest.merge import check_keys, merge
from jobs.ingest.stored import records
from jobs.models import Job
from tenants.models import Tenant

BATCH_RECORDS = 1_000
BATCH_BYTES = 8 * 2**20  # of text: a batch of long timelines is cut here, whatever their number
ATTEMPTS = 5  # at a batch whose new jobs another writer adds at the same time


class Line(NamedTuple):
    """One line of a file: its number from 1, its bytes as they were, and what they hold."""

    number: int
    raw: bytes
    content: Record | Rejected


class Rejection(NamedTuple):
    line: Line
    error: Rejected


@dataclass(slots=True)
class Loaded:
    """What became of a batch: how many records changed the store, how many were there, which were rejected."""

    last_line: int = 0
    loaded: int = 0
    unchanged: int = 0
    rejections: list[Rejection] = field(default_factory=list)

    def add(self, other: Loaded) -> None:
        self.last_line = max(self.last_line, other.last_line)
        self.loaded += other.loaded
        self.unchanged += other.unchanged
        self.rejections += other.rejections


def load_record(record: dict[str, Any]) -> None:
    """Loads one record, given as a dict of the interchange's members; raises Rejected, having written nothing."""
    line = Line(1, b"", interchange.record(record))
    for rejection in load_batch([line]).rejections:
        raise rejection.error


def load(
    lines: Iterable[bytes], batch: int = BATCH_RECORDS, after_line: int = 0, dry_run: bool = False
) -> Iterator[Loaded]:
    """Loads ``lines`` of NDJSON from the one that follows ``after_line``, and yields what became of each batch.

    A batch is committed when it is yielded. With ``dry_run`` everything is done and then undone. The next batch is read
    and checked while the database works on this one; memory holds these two. Blank lines count, and hold nothing.
    """
    batches = _batches(lines, batch, after_line)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        upcoming = reader.submit(next, batches, None)
        while (now := upcoming.result()) is not None:
            upcoming = reader.submit(next, batches, None)
            yield load_batch(now, dry_run)


def _batches(lines: Iterable[bytes], size: int, after_line: int) -> Iterator[list[Line]]:
    batch: list[Line] = []
    weight = 0
    for number, raw in islice(enumerate(lines, start=1), after_line, None):
        if raw.isspace():
            continue
        try:
            content: Record | Rejected = interchange.parse(raw)
        except Rejected as error:
            content = error
        batch.append(Line(number, raw, content))
        weight += len(raw)
        if len(batch) == size or weight >= BATCH_BYTES:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def load_batch(batch: Sequence[Line], dry_run: bool = False) -> Loaded:
    """Loads a batch in one transaction: its good records, whatever the bad ones."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with transaction.atomic():
                loaded = _load(batch)
                if dry_run:
                    transaction.set_rollback(True)
                return loaded
        except (Raced, IntegrityError):
            if attempt == ATTEMPTS:
                raise
        except DataError as error:
            # A value that passed every check and that the database refuses all the same: found by halves, so that the
            # rest of the batch still loads.
            return _halved(batch, dry_run, error)
    raise AssertionError("unreachable")


def _halved(batch: Sequence[Line], dry_run: bool, error: DataError) -> Loaded:
    if len(batch) == 1:
        rejection = Rejection(batch[0], Rejected(Reason.DATABASE, str(error).partition("\n")[0]))
        return Loaded(batch[0].number, rejections=[rejection])
    loaded = Loaded()
    for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
        loaded.add(load_batch(half, dry_run))
    return loaded


def _load(batch: Sequence[Line]) -> Loaded:
    loaded = Loaded(last_line=batch[-1].number)
    good = [line.content for line in batch if isinstance(line.content, Record)]
    tenants = {tenant.slug: tenant for tenant in Tenant.objects.filter(slug__in={record.tenant for record in good})}
    existing = Job.all_tenants.filter(pk__in={record.public_id for record in good})
    # Locked in ascending order of their ids, as everyone does who locks several.
    before = {record.public_id: record for record in records(existing.order_by("pk").select_for_update(no_key=True))}
    now = dict(before)
    for line in batch:
        try:
            if isinstance(line.content, Rejected):
                raise line.content
            record = line.content
            if record.tenant not in tenants:
                raise Rejected(Reason.TENANT, f"tenant: there is none with the slug “{record.tenant}”")
            check_keys(record.all_artifacts(), tenants[record.tenant].storage_prefix)
            stored = now.get(record.public_id)
            after = merge(stored, record)
        except Rejected as error:
            loaded.rejections.append(Rejection(line, error))
        else:
            if after is stored:
                loaded.unchanged += 1
            else:
                loaded.loaded += 1
                now[record.public_id] = after
    write(
        [
            Change(before.get(public_id), after, tenants[after.tenant].pk)
            for public_id, after in sorted(now.items())
            if after is not before.get(public_id)
        ]
    )
    return loaded
