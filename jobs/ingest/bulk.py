"""Many records at once: read, checked and merged with what the store has, a batch to a transaction."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from django.db import DataError, IntegrityError, transaction
from prometheus_client import Counter

from jobs.ingest import interchange
from jobs.ingest.bulk_writer import Change, ConcurrentInsert, write
from jobs.ingest.interchange import Reason, Record, Rejected
from jobs.ingest.merge import check_keys, merge
from jobs.ingest.record_reader import records
from jobs.models import Job
from tenants.models import Tenant

BATCH_RECORDS = 1_000
BATCH_BYTES = 8 * 2**20  # of text: a batch of long timelines is cut here, whatever their number
RECORDS = Counter("gateway_backfill_records", "Interchange records read, by what became of them.", ["outcome"])
ATTEMPTS = 5  # at a batch whose new jobs another writer adds at the same time


class Line(NamedTuple):
    """One line of a file: its number from 1, its bytes as they were, and what they hold."""

    number: int
    raw: bytes
    content: Record | Rejected


class Rejection(NamedTuple):
    line: Line
    error: Rejected


class Batch(NamedTuple):
    lines: list[Line]
    last_line: int
    skipped: int


@dataclass(slots=True)
class BatchResult:
    """What became of a batch: the records that changed the store, were there already, were not asked for, were bad."""

    last_line: int = 0
    loaded: int = 0
    unchanged: int = 0
    skipped: int = 0
    rejections: list[Rejection] = field(default_factory=list)

    def count(self) -> None:
        for outcome in ("loaded", "unchanged", "skipped"):
            RECORDS.labels(outcome).inc(getattr(self, outcome))
        RECORDS.labels("rejected").inc(len(self.rejections))


def load_record(record: dict[str, Any]) -> None:
    """Loads one record, given as a dict of the interchange's members; raises Rejected, having written nothing."""
    line = Line(1, b"", interchange.record(record))
    for rejection in load_batch([line]).rejections:
        raise rejection.error


def load(
    lines: Iterable[bytes],
    *,
    batch: int = BATCH_RECORDS,
    after_line: int = 0,
    tenant: str | None = None,
    dry_run: bool = False,
) -> Iterator[BatchResult]:
    """Loads ``lines`` of NDJSON from the one that follows ``after_line``, and yields what became of each batch.

    A batch is committed when it is yielded. With ``dry_run`` everything is done and then undone; with ``tenant`` (a
    slug) the records of others are skipped. The next batch is read and checked while the database works on this one;
    memory holds these two. Blank lines count, and hold nothing; an empty one (not even its newline) ends the batch.
    """
    batches = _batches(lines, batch, after_line, tenant)
    with _infrequent_garbage_collection(), ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        upcoming = reader.submit(next, batches, None)
        while (now := upcoming.result()) is not None:
            upcoming = reader.submit(next, batches, None)
            loaded = load_batch(now.lines, dry_run)
            loaded.last_line, loaded.skipped = now.last_line, now.skipped
            if not dry_run:
                loaded.count()
            yield loaded


@contextmanager
def _infrequent_garbage_collection() -> Iterator[None]:
    """A batch is some 50,000 objects that live until it is written: looked through every 700 it costs a sixth more."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _batches(lines: Iterable[bytes], size: int, after_line: int, tenant: str | None) -> Iterator[Batch]:
    batch: list[Line] = []
    number, skipped, weight = after_line, 0, 0
    for raw in islice(lines, after_line, None):
        number += bool(raw)
        weight += len(raw)
        if raw and not raw.isspace():
            line = Line(number, raw, _content(raw))
            if tenant is None or not isinstance(line.content, Record) or line.content.tenant == tenant:
                batch.append(line)
            else:
                skipped += 1
        if (batch or skipped) and (not raw or len(batch) + skipped >= size or weight >= BATCH_BYTES):
            yield Batch(batch, number, skipped)
            batch, skipped, weight = [], 0, 0
    if batch or skipped:
        yield Batch(batch, number, skipped)


def _content(raw: bytes) -> Record | Rejected:
    try:
        return interchange.parse(raw)
    except Rejected as error:
        return error.without_traceback()


def load_batch(batch: Sequence[Line], dry_run: bool = False) -> BatchResult:
    """Loads a batch in one transaction: its good records, whatever the bad ones."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with transaction.atomic():
                loaded = _load(batch)
                if dry_run:
                    transaction.set_rollback(True)
                return loaded
        except (ConcurrentInsert, IntegrityError):
            if attempt == ATTEMPTS:
                raise
        except DataError as error:
            # A value that passed every check and that the database refuses all the same: found by halves, so that the
            # rest of the batch still loads.
            return _load_by_halves(batch, dry_run, error)
    raise AssertionError("unreachable")


def _load_by_halves(batch: Sequence[Line], dry_run: bool, error: DataError) -> BatchResult:
    if len(batch) == 1:
        return BatchResult(rejections=[Rejection(batch[0], Rejected(Reason.DATABASE, str(error).partition("\n")[0]))])
    halves = [load_batch(half, dry_run) for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :])]
    return BatchResult(
        loaded=sum(half.loaded for half in halves),
        unchanged=sum(half.unchanged for half in halves),
        rejections=[rejection for half in halves for rejection in half.rejections],
    )


def _load(batch: Sequence[Line]) -> BatchResult:
    loaded = BatchResult()
    good = [line.content for line in batch if isinstance(line.content, Record)]
    tenants = {tenant.slug: tenant for tenant in Tenant.objects.filter(slug__in={record.tenant for record in good})}
    existing = Job.all_tenants.filter(pk__in={record.public_id for record in good})
    # Locked in ascending order of their ids, as everyone does who locks several.
    before = {record.public_id: record for record in records(existing.order_by("pk").select_for_update(no_key=True))}
    now = dict(before)
    for line in batch:
        if isinstance(line.content, Rejected):
            loaded.rejections.append(Rejection(line, line.content))
            continue
        record = line.content
        stored = now.get(record.public_id)
        try:
            after = _after(stored, record, tenants.get(record.tenant))
        except Rejected as error:
            loaded.rejections.append(Rejection(line, error.without_traceback()))
            continue
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


def _after(stored: Record | None, record: Record, tenant: Tenant | None) -> Record:
    if tenant is None:
        raise Rejected(Reason.TENANT, f"tenant: there is none with the slug “{record.tenant}”")
    check_keys(record.all_artifacts(), tenant.storage_prefix)
    return merge(stored, record)
