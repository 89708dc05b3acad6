"""The bulk loader: reads records, checks them and merges them with the stored jobs, one transaction for each batch."""

from __future__ import annotations

import gc
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from django.db import DataError, IntegrityError, OperationalError, transaction
from prometheus_client import Counter

from jobs.fold import is_unknown_agent_event
from jobs.ingest import interchange
from jobs.ingest.bulk_writer import Change, ConcurrentInsert, write
from jobs.ingest.interchange import Reason, Record, Rejected
from jobs.ingest.merge import check_keys, merge
from jobs.ingest.record_reader import records
from jobs.models import Job
from tenants.models import Tenant

BATCH_RECORDS = 1_000
BATCH_BYTES = 8 * 2**20  # of text: a batch with long timelines ends earlier
RECORDS = Counter("gateway_backfill_records", "Interchange records read, by outcome.", ["outcome"])
PROGRAM_LIMIT_EXCEEDED = "54000"  # PostgreSQL's code for a value that is too long for an index
ATTEMPTS = 5  # at a batch, when another writer adds the same jobs at the same time


class Line(NamedTuple):
    """One line of a file: its number from 1, its bytes, and its record or why it was rejected.

    ``new_job`` is the job that the record makes where none is stored.
    """

    number: int
    raw: bytes
    content: Record | Rejected
    new_job: Record | Rejected


class Rejection(NamedTuple):
    line: Line
    error: Rejected


class Batch(NamedTuple):
    lines: list[Line]
    last_line: int
    skipped: int


@dataclass(slots=True)
class BatchResult:
    """The outcome of a batch: numbers of records that changed the store, changed nothing or were of another tenant."""

    last_line: int = 0
    loaded: int = 0
    unchanged: int = 0
    skipped: int = 0
    unknown_agent_events: int = 0  # stored ones, whose type changes no status
    rejections: list[Rejection] = field(default_factory=list)

    def count(self) -> None:
        for outcome in ("loaded", "unchanged", "skipped"):
            RECORDS.labels(outcome).inc(getattr(self, outcome))
        RECORDS.labels("rejected").inc(len(self.rejections))


def load_record(record: dict[str, Any]) -> None:
    """Loads one record, given as a dict of the interchange's members; raises Rejected, having written nothing."""
    line = line_of(interchange.record(record))
    for rejection in load_batch([line]).rejections:
        raise rejection.error


def load(
    lines: Iterable[bytes],
    *,
    batch: int = BATCH_RECORDS,
    after_line: int = 0,
    tenant: str | None = None,
    dry_run: bool = False,
    attempt: Callable[[Callable[[], BatchResult]], BatchResult] = lambda work: work(),
) -> Iterator[BatchResult]:
    """Loads ``lines`` of NDJSON that follow line ``after_line``, and yields the outcome of each batch.

    A batch is committed before it is yielded. With ``dry_run`` it is rolled back instead. With ``tenant`` (a slug) the
    records of other tenants are skipped. ``attempt`` runs the work on a batch, and may repeat it. A thread reads and
    checks the next batch while the database writes this one, so memory holds two batches. Blank lines are counted and
    ignored. An empty line without a newline ends the batch.
    """
    batches = _batches(lines, batch, after_line, tenant)
    with _infrequent_garbage_collection(), ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        upcoming = reader.submit(next, batches, None)
        while (now := upcoming.result()) is not None:
            upcoming = reader.submit(next, batches, None)
            loaded = attempt(partial(load_batch, now.lines, dry_run))
            loaded.last_line, loaded.skipped = now.last_line, now.skipped
            if not dry_run:
                loaded.count()
            yield loaded


@contextmanager
def _infrequent_garbage_collection() -> Iterator[None]:
    """A batch is about 50,000 objects that live until it is written. Collecting every 700 costs 16 % more."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _batches(lines: Iterable[bytes], size: int, after_line: int, tenant: str | None) -> Iterator[Batch]:
    batch: list[Line] = []
    number, skipped, weight = after_line, 0, 0
    for raw in islice(_without_byte_order_mark(lines), after_line, None):
        number += bool(raw)
        weight += len(raw)
        if raw and not raw.isspace():
            line = line_of(_content(raw), number, raw)
            if tenant is None or not isinstance(line.content, Record) or line.content.tenant == tenant:
                batch.append(line)
            else:
                skipped += 1
        if (batch or skipped) and (not raw or len(batch) + skipped >= size or weight >= BATCH_BYTES):
            yield Batch(batch, number, skipped)
            batch, skipped, weight = [], 0, 0
    if batch or skipped:
        yield Batch(batch, number, skipped)


def _without_byte_order_mark(lines: Iterable[bytes]) -> Iterator[bytes]:
    iterator = iter(lines)
    for first in iterator:
        if first:  # an empty one only ends a batch
            yield first.removeprefix(BOM_UTF8)
            break
        yield first
    yield from iterator


def line_of(content: Record | Rejected, number: int = 1, raw: bytes = b"") -> Line:
    """Most records are of new jobs. What these need is computed here, while the database writes the batch before."""
    if isinstance(content, Rejected):
        return Line(number, raw, content, content)
    try:
        return Line(number, raw, content, merge(None, content))
    except Rejected as error:
        return Line(number, raw, content, error.without_traceback())


def _content(raw: bytes) -> Record | Rejected:
    try:
        return interchange.parse(raw)
    except Rejected as error:
        return error.without_traceback()


def load_batch(batch: Sequence[Line], dry_run: bool = False) -> BatchResult:
    """Loads the good records of a batch in one transaction. Rejected records do not affect the others."""
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
            # A value passed every check, but the database refuses it. Halving the batch finds the record, so that the
            # others are loaded.
            return _load_by_halves(batch, dry_run, error)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) != PROGRAM_LIMIT_EXCEEDED:
                raise
            return _load_by_halves(batch, dry_run, error)
    raise AssertionError("unreachable")


def _load_by_halves(batch: Sequence[Line], dry_run: bool, error: Exception) -> BatchResult:
    if len(batch) == 1:
        return BatchResult(rejections=[Rejection(batch[0], Rejected(Reason.DATABASE, str(error).partition("\n")[0]))])
    halves = [load_batch(half, dry_run) for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :])]
    return BatchResult(
        loaded=sum(half.loaded for half in halves),
        unchanged=sum(half.unchanged for half in halves),
        unknown_agent_events=sum(half.unknown_agent_events for half in halves),
        rejections=[rejection for half in halves for rejection in half.rejections],
    )


def _load(batch: Sequence[Line]) -> BatchResult:
    loaded = BatchResult()
    good = [line.content for line in batch if isinstance(line.content, Record)]
    tenants = {tenant.slug: tenant for tenant in Tenant.objects.filter(slug__in={record.tenant for record in good})}
    existing = Job.all_tenants.filter(pk__in={record.public_id for record in good})
    # Locked in ascending order of their ids, like everywhere, so that there are no deadlocks.
    before = {record.public_id: record for record in records(existing.order_by("pk").select_for_update(no_key=True))}
    now = dict(before)
    for line in batch:
        if isinstance(line.content, Rejected):
            loaded.rejections.append(Rejection(line, line.content))
            continue
        record = line.content
        stored = now.get(record.public_id)
        try:
            after = _after(stored, line, record, tenants.get(record.tenant))
        except Rejected as error:
            loaded.rejections.append(Rejection(line, error.without_traceback()))
            continue
        if after is stored:
            loaded.unchanged += 1
        else:
            loaded.loaded += 1
            now[record.public_id] = after
    changes = [
        Change(before.get(public_id), after, tenants[after.tenant].pk)
        for public_id, after in sorted(now.items())
        if after is not before.get(public_id)
    ]
    write(changes)
    loaded.unknown_agent_events = sum(is_unknown_agent_event(event) for change in changes for event in change.events)
    return loaded


def _after(stored: Record | None, line: Line, record: Record, tenant: Tenant | None) -> Record:
    if tenant is None:
        raise Rejected(Reason.TENANT, f"tenant: no tenant has the slug “{record.tenant}”")
    check_keys(record.all_artifacts(), tenant.storage_prefix)
    if stored is not None:
        return merge(stored, record)
    if isinstance(line.new_job, Rejected):
        raise line.new_job
    return line.new_job
