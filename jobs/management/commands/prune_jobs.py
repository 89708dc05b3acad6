"""``manage.py prune_jobs``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from django.core.management.base import CommandParser
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from ulid import ULID

from jobs.egress.s3 import StoreRefused
from jobs.egress.signing import ArtifactStore, artifact_store
from jobs.ingest import removal
from jobs.ingest.artifacts import named
from jobs.ingest.removal import Gone, Place
from jobs.management.arguments import duration, duration_text
from jobs.management.batches import DATABASE_ERRORS, BatchCommand, CutShort, Run, database_failed
from jobs.management.files import Sink
from jobs.models import Job
from jobs.ulid import parse_ulid
from tenants.models import Tenant

STORE_ERRORS = (OSError, BotoCoreError, ClientError, StoreRefused)
OBJECTS_AT_ONCE = 1000  # as many as S3 takes in one request


@dataclass
class Tally:
    jobs: int = 0
    events: int = 0
    artifacts: int = 0
    objects: int = 0

    def __str__(self) -> str:
        objects = f", {self.objects:,} objects" if self.objects else ""
        return f"{self.jobs:,} jobs, {self.events:,} events, {self.artifacts:,} artifacts{objects}"


class Command(BatchCommand):
    help = (
        "Removes jobs that have been silent for long, whatever their status, with their events and artifacts' rows; "
        "the API then knows them no more. A line of JSON for each goes to the record just before it is removed for "
        "good, with its artifacts' storage keys; a run that is killed in between leaves one line too many. With "
        "--objects the files of these artifacts go too: those under the tenant's own storage prefix that no other "
        "artifact names. A run that was cut short may simply be run again."
    )
    example = "--older-than 90d --keep-failures --objects --record pruned.ndjson"
    exit_codes = "0: nothing as old is left; 1: it was stopped, or could not go on"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            metavar="AGE",
            type=duration,
            required=True,
            help="How long ago a job's last event has to be: 90d, 12h, 30m.",
        )
        parser.add_argument("--keep-failures", action="store_true", help="Leave jobs that failed, or failed in part.")
        parser.add_argument("--objects", action="store_true", help="Remove the artifacts' files too.")
        parser.add_argument(
            "--record",
            metavar="FILE",
            default="-",
            help="Append what went to FILE, gzip where its name ends with .gz; standard output unless given.",
        )
        super().add_arguments(parser)

    def handle(self, *, older_than: timedelta, **options: Any) -> None:
        tenant = self.tenant_named(options["tenant"])
        kept = self.checkpoint_of(options, f"{self.name} of {tenant or 'all tenants'}")
        state = kept.read()
        self.tally = Tally(**state.get("tally", {}))
        self.tenants = {each.pk: each for each in Tenant.objects.all()}
        self.store = artifact_store() if options["objects"] else None
        place = (datetime.fromisoformat(state["after"][0]), parse_ulid(state["after"][1])) if state else None
        jobs = removal.silent(
            Job.all_tenants.filter(tenant=tenant) if tenant else Job.all_tenants.all(),
            timezone.now() - older_than,
            options["keep_failures"],
        )
        if options["dry_run"]:
            self.stderr.write(f"Dry run, nothing removed: {jobs.count():,} jobs")
            return
        own = [(f"--{name.replace('_', '-')}", options[name]) for name in ("keep_failures", "objects", "record")]
        again = self.again(options, ("--older-than", duration_text(older_than)), *own)
        try:
            with (
                Sink.opened(options["record"], append=True) as record,
                self.running(options, kept, self.tally.jobs + jobs.count()) as run,
            ):
                finished = self.prune(jobs, place, options["batch"], record, run)
        except DATABASE_ERRORS as error:
            raise CutShort(database_failed(error), again) from error
        except STORE_ERRORS as error:
            raise CutShort(f"{error}\nThe record names the objects that are left", again) from error
        self.stderr.write(f"{self.tally} removed")
        if not finished:
            raise CutShort("Stopped", again)
        kept.remove()

    def prune(self, jobs: QuerySet[Job], place: Place | None, batch: int, record: Sink, run: Run) -> bool:
        """Whether it came to the end."""
        for ids, last in removal.by_age(jobs, place, batch):
            with transaction.atomic():
                # What got an event meanwhile stays: the age is asked for again with the lock.
                these = list(jobs.filter(pk__in=ids).order_by("pk").select_for_update().values_list("pk", flat=True))
                keys = removal.keys_of(these)
                removed = removal.remove(Job.all_tenants.filter(pk__in=these).order_by("pk"))
                self.remember(removed.jobs, keys, record)
            self.tally.jobs += len(removed.jobs)
            self.tally.events += removed.events
            self.tally.artifacts += removed.artifacts
            if self.store:
                self.remove_objects(self.store, removed.jobs, keys)
            state = {"after": [last[0].isoformat(), str(last[1])], "tally": asdict(self.tally)}
            if not run.goes_on(self.tally.jobs, str(self.tally), state):
                return False
        return True

    def remember(self, gone: Iterable[Gone], keys: dict[ULID, list[str]], record: Sink) -> None:
        at = datetime.now(UTC)
        record.write(
            orjson.dumps(
                {
                    "public_id": str(job.public_id),
                    "tenant": self.tenants[job.tenant_id].slug,
                    "job_type": job.job_type,
                    "status": job.status,
                    "created_at": job.created_at,
                    "updated_at": job.updated_at,
                    "pruned_at": at,
                    "storage_keys": keys[job.public_id],
                },
                option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
            )
            for job in gone
        )
        record.sync()

    def remove_objects(self, store: ArtifactStore, gone: Iterable[Gone], keys: dict[ULID, list[str]]) -> None:
        prefix_of = {job.public_id: self.tenants[job.tenant_id].storage_prefix for job in gone}
        own = {key for job, prefix in prefix_of.items() if prefix for key in keys[job] if key.startswith(prefix)}
        free = sorted(own - named(own))
        for start in range(0, len(free), OBJECTS_AT_ONCE):
            some = free[start : start + OBJECTS_AT_ONCE]
            store.remove_keys(some)
            self.tally.objects += len(some)
