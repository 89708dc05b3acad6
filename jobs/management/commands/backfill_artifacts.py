"""``manage.py backfill_artifacts``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import orjson
from django.core.management.base import CommandError, CommandParser

from jobs.artifacts.objects import ObjectMetadata, StoredObject
from jobs.artifacts.signing import ArtifactStore, artifact_store
from jobs.ingest.artifacts import ArtifactRow, fill, rows_after, rows_between, rows_with_keys
from jobs.management.batches import BatchCommand, IncompleteRun, Run
from jobs.management.errors import DATABASE_ERRORS, STORE_ERRORS, FileError, database_failed, reason
from jobs.management.progress import counted
from jobs.management.waiting import DatabaseWait
from tenants.models import Tenant

REQUESTS_AT_ONCE = 8  # to the artifact store


@dataclass
class Totals:
    """The findings so far, and the keys reached: of the listing's last object and of the last row."""

    object_key: str = ""
    row_key: str = ""
    artifacts: int = 0
    objects: int = 0
    filled: int = 0
    unchanged: int = 0
    missing: int = 0
    orphaned: int = 0
    wrong_tenant: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        names = ("filled", "unchanged", "missing", "orphaned", "wrong_tenant", "unreadable")
        return ", ".join(f"{name.replace('_', ' ')} {getattr(self, name):,}" for name in names)


class Command(BatchCommand):
    help = (
        "Compares the artifact store with the artifacts' rows, both in key order. Saves the size, content "
        "type, checksum and dimensions of each artifact. Writes a line of JSON for each artifact whose object is "
        "missing, unreadable or under another tenant's prefix, and for each object that no artifact refers to. Deletes "
        "nothing. A file is read again only if the listing shows that it changed."
    )
    example = "--tenant acme --checkpoint acme.checkpoint > findings.ndjson"
    exit_codes = "0: every artifact has its object and its metadata; 1: some have not, or the run is incomplete"
    batch_of, batch_size = "OBJECTS", 1000

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--after", metavar="KEY", help="Start after this storage key.")

    def handle(self, *, after: str | None, **options: Any) -> None:
        tenant = self.tenant_named(options["tenant"])
        if tenant and not tenant.storage_prefix:
            raise CommandError(f"Tenant {tenant} has no storage prefix. Run without --tenant.")
        checkpoint = self.checkpoint_of(options, f"{self.name} of {tenant or 'all tenants'}")
        self.totals = totals = Totals(**({"object_key": after, "row_key": after} if after else checkpoint.read()))
        self.store: ArtifactStore = artifact_store()
        self.is_dry = options["dry_run"]
        self.prefixes = {each.storage_prefix: each.slug for each in Tenant.objects.exclude(storage_prefix="")}
        prefix = tenant.storage_prefix if tenant else ""
        try:
            with (
                ThreadPoolExecutor(REQUESTS_AT_ONCE) as self.pool,
                self.running(options, checkpoint, totals.artifacts + rows_after(totals.row_key, prefix)) as run,
            ):
                self.wait = DatabaseWait(run.stop, self.say)
                finished = self.walk(prefix, options["batch"], run)
        except DATABASE_ERRORS as error:
            raise self.incomplete_run(database_failed(error), options) from error
        except BrokenPipeError:
            raise
        except FileError as error:
            raise self.incomplete_run(str(error), options) from error
        except STORE_ERRORS as error:
            raise self.incomplete_run(f"The artifact store failed: {reason(error)}", options) from error
        self.stderr.write(f"{'Dry run, nothing written: ' if self.is_dry else ''}{totals}")
        if not finished:
            raise self.incomplete_run("Stopped", options)
        checkpoint.remove()
        if bad := totals.missing + totals.wrong_tenant + totals.unreadable:
            raise CommandError(
                f"{counted(bad, 'artifact')} without an object that belongs to the tenant and can be read."
            )

    def incomplete_run(self, why: str, options: dict[str, Any]) -> IncompleteRun:
        return IncompleteRun(
            why, self.resume_command(options, at=[("--after", self.totals.object_key or self.totals.row_key or None)])
        )

    def walk(self, prefix: str, batch: int, run: Run) -> bool:
        """True if the end of both was reached."""
        totals = self.totals
        listing = self.store.list_objects(prefix, totals.object_key)
        while some := list(islice(listing, batch)):
            objects = {found.storage_key: found for found in some}
            # Not every server lists in byte order. So an object without a row nearby is looked up by its key, and a row
            # without an object nearby is requested from the store, before it is reported. This also covers rows and
            # objects that were added meanwhile.
            until = max(totals.row_key, *objects)
            for rows in self.rows(totals.row_key, until, prefix, batch):
                self.compare(rows, objects)
            left = [found.storage_key for found in some if found.storage_key in objects]
            self.compare(self.wait.run(partial(rows_with_keys, left)), objects)
            for found in objects.values():
                self.tell("orphaned", found.storage_key, tenant=self.owner(found.storage_key))
            totals.objects += len(some)
            totals.object_key, totals.row_key = some[-1].storage_key, until
            if not run.checkpoint_batch(totals.artifacts, str(totals), asdict(totals)):
                return False
        for rows in self.rows(totals.row_key, None, prefix, batch):
            self.compare(rows, {})
            totals.row_key = rows[-1].storage_key
            if not run.checkpoint_batch(totals.artifacts, str(totals), asdict(totals)):
                return False
        return True

    def rows(self, after: str, until: str | None, prefix: str, batch: int) -> Iterator[list[ArtifactRow]]:
        """As :func:`rows_between`, across an outage of the database."""

        def remaining() -> Iterator[list[ArtifactRow]]:
            return rows_between(after, until, prefix, batch)

        for rows in self.wait.iterate(remaining):
            yield rows
            after = rows[-1].storage_key

    def compare(self, rows: Iterable[ArtifactRow], objects: dict[str, StoredObject]) -> None:
        """Checks ``rows`` and removes the objects that they refer to from ``objects``."""
        rows_of: dict[str, list[ArtifactRow]] = defaultdict(list)
        for row in rows:
            rows_of[row.storage_key].append(row)
        own: dict[str, list[ArtifactRow]] = {}
        for key, naming in rows_of.items():
            own[key] = [row for row in naming if key.startswith(row.storage_prefix)]
            for row in naming:
                if row not in own[key]:
                    self.tell("wrong_tenant", key, tenant=row.tenant, job=str(row.job_id))
        found = {key: objects.pop(key) for key in rows_of if key in objects}
        elsewhere = [key for key, naming in own.items() if naming and key not in found]
        for key, is_there in zip(elsewhere, self.pool.map(self.store.object_exists, elsewhere), strict=True):
            if not is_there:
                self.tell_each("missing", own[key])
        self.fill({key: each for key, each in found.items() if own[key]}, own)
        self.totals.artifacts += sum(map(len, rows_of.values()))

    def fill(self, found: dict[str, StoredObject], rows_of: dict[str, list[ArtifactRow]]) -> None:
        stale = {key: [row for row in rows_of[key] if not is_filled(row, found[key])] for key in found}
        self.totals.unchanged += sum(len(rows_of[key]) - len(stale[key]) for key in found)
        unknown = [found[key] for key, rows in stale.items() if rows]
        if self.is_dry:
            self.totals.filled += sum(map(len, stale.values()))
            return
        filled: dict[int, tuple[Any, ...]] = {}
        for key, described in zip((each.storage_key for each in unknown), self.described(unknown), strict=True):
            if isinstance(described, FileNotFoundError):
                self.tell_each("missing", stale[key])
            elif isinstance(described, Exception):
                self.tell_each("unreadable", stale[key], why=reason(described))
            else:
                filled |= {row.pk: described for row in stale[key]}
        if filled:
            jobs = {row.job_id for rows in stale.values() for row in rows if row.pk in filled}
            self.wait.run(partial(fill, filled, jobs))
        self.totals.filled += len(filled)

    def described(self, objects: list[StoredObject]) -> Iterator[ObjectMetadata | Exception]:
        def describe(found: StoredObject) -> ObjectMetadata | Exception:
            try:
                return self.store.read_metadata(found)
            except STORE_ERRORS as error:
                return error

        return self.pool.map(describe, objects)

    def tell_each(self, finding: str, rows: list[ArtifactRow], **more: str) -> None:
        for row in rows:
            self.tell(finding, row.storage_key, tenant=row.tenant, job=str(row.job_id), **more)

    def tell(self, finding: str, storage_key: str, **more: str | None) -> None:
        setattr(self.totals, finding, getattr(self.totals, finding) + 1)
        line = {"finding": finding, "storage_key": storage_key.encode(errors="replace").decode(), **more}
        self.stdout.write(orjson.dumps(line).decode())

    def owner(self, storage_key: str) -> str | None:
        """The slug of the tenant whose prefix the key begins with. None if there is none."""
        folders = (storage_key[: end + 1] for end, letter in enumerate(storage_key) if letter == "/")
        return next((self.prefixes[folder] for folder in folders if folder in self.prefixes), None)


def is_filled(row: ArtifactRow, found: StoredObject) -> bool:
    return row.checksum is not None and row.size == found.size and found.checksum in (None, row.checksum)
