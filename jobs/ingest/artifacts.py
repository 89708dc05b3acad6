"""The artifacts' rows by storage key: read in the order of a store's listing, and completed with its metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import BooleanField, F
from django.db.models.expressions import RawSQL
from django.db.models.functions import Collate
from ulid import ULID

from jobs.models import Artifact, Job

METADATA_COLUMNS = ("size", "content_type", "checksum", "width", "height")


class ArtifactRow(NamedTuple):
    """An artifact's row: its job and tenant, its storage key, and the metadata of its object so far."""

    pk: int
    job_id: ULID
    tenant: str  # slug
    storage_prefix: str
    storage_key: str
    size: int | None
    checksum: str | None


def _by_key() -> Any:
    """All artifacts that the index ``artifact_by_key`` holds, with an alias ``key`` that sorts by bytes."""
    if connection.vendor != "postgresql":
        return Artifact.all_tenants.alias(key=F("storage_key"))  # SQLite sorts all text by bytes
    # The same expression as in the index, without a parameter, so that the planner uses the index.
    is_short = RawSQL("octet_length(jobs_artifact.storage_key) <= 1024", (), BooleanField())
    return Artifact.all_tenants.alias(key=Collate("storage_key", "C")).filter(is_short)


def _under(prefix: str) -> Any:
    if not prefix:
        return _by_key()
    # A prefix ends with a slash; the next character in byte order is 0.
    return _by_key().filter(key__gte=prefix, key__lt=f"{prefix[:-1]}0")


def rows_after(after: str, prefix: str) -> int:
    """The number of rows under ``prefix`` with ``after`` < key."""
    number: int = _under(prefix).filter(key__gt=after).count()
    return number


def rows_between(after: str, until: str | None, prefix: str, page: int) -> Iterator[list[ArtifactRow]]:
    """The rows under ``prefix`` with ``after`` < key <= ``until`` (None: to the end), in pages that split no key.

    A page has ``page`` rows, and further rows if they have the key of the last one.
    """
    while True:
        rows = _under(prefix).filter(key__gt=after)
        if until is not None:
            rows = rows.filter(key__lte=until)
        found = _read(rows.order_by("key", "pk")[:page])
        if not found:
            return
        after = found[-1].storage_key
        if len(found) == page:
            known = {row.pk for row in found}
            found += [row for row in rows_with_keys([after]) if row.pk not in known]
        yield found


def rows_with_keys(storage_keys: Iterable[str]) -> list[ArtifactRow]:
    return _read(_by_key().filter(key__in=list(storage_keys)))


def referenced_keys(storage_keys: Iterable[str]) -> set[str]:
    """Those of ``storage_keys`` that some artifact refers to."""
    return set(_by_key().filter(key__in=list(storage_keys)).values_list("storage_key", flat=True))


def _read(rows: Any) -> list[ArtifactRow]:
    columns = "pk", "job_id", "tenant__slug", "tenant__storage_prefix", "storage_key", "size", "checksum"
    return [ArtifactRow(*row) for row in rows.values_list(*columns)]


@transaction.atomic
def fill(described: dict[int, tuple[Any, ...]], jobs: Iterable[ULID]) -> None:
    """Writes the metadata of objects: for each artifact's id the values of ``METADATA_COLUMNS``. ``jobs`` are theirs.

    The jobs' versions stay, because no answer of the API shows these columns. The jobs are locked in ascending order
    of their ids, like everywhere, so that there is no deadlock with a command that removes them.
    """
    list(Job.all_tenants.filter(pk__in=set(jobs)).order_by("pk").select_for_update(no_key=True).values_list("pk"))
    Artifact.all_tenants.bulk_update(
        [Artifact(pk=pk, **dict(zip(METADATA_COLUMNS, values, strict=True))) for pk, values in described.items()],
        METADATA_COLUMNS,
        batch_size=1_000,  # PostgreSQL takes 65,535 parameters
    )
