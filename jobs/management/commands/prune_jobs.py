"""``manage.py prune_jobs``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson
from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from ulid import ULID

from jobs.artifacts.signing import ArtifactStore, artifact_store
from jobs.ingest import removal
from jobs.ingest.artifacts import referenced_keys
from jobs.ingest.command_audit import record_command_act
from jobs.ingest.removal import RemovedBatch, RemovedJob
from jobs.management.arguments import duration, duration_text
from jobs.management.batches import BatchCommand, IncompleteRun, Run
from jobs.management.errors import DATABASE_ERRORS, STORE_ERRORS, FileError, database_failed, reason
from jobs.management.files import Sink
from jobs.management.id_list import absent, check_list, read_list
from jobs.management.progress import counted
from jobs.management.waiting import DatabaseWait
from jobs.models import AuditAction, Job
from jobs.postgresql.base import CommitOutcomeUnknown
from jobs.ulid import parse_ulid
from tenants.models import Tenant

OBJECTS_AT_ONCE = 1000  # as many as S3 takes in one request

Tenants = dict[int, Tenant]
Keys = dict[ULID, list[str]]  # storage keys by job
# The ids of jobs to remove, and the cursor after them: a time (None where jobs are walked by id) and an id.
Batch = tuple[list[ULID], tuple[datetime | None, ULID]]


@dataclass
class Totals:
    jobs: int = 0
    events: int = 0
    artifacts: int = 0
    objects: int = 0

    def __str__(self) -> str:
        numbers = {"job": self.jobs, "event": self.events, "artifact": self.artifacts}
        if self.objects:
            numbers["object"] = self.objects
        return ", ".join(counted(number, noun) for noun, number in numbers.items())


class Command(BatchCommand):
    help = (
        "Removes jobs with their events and artifact rows: those without a recent event (--older-than), or those that "
        "the original of this copy no longer has (--absent-from). The API then answers 404 for them. A line of JSON "
        "with the job's id and its storage keys is appended to the record before a job is removed. After a crash the "
        "record may name jobs that are still there. With --objects the files are removed too, where they lie under the "
        "tenant's storage prefix and no other artifact refers to them. An incomplete run can be repeated."
    )
    example = "--older-than 90d --keep-failures --objects --record pruned.ndjson"
    exit_codes = "0: every such job was removed; 1: the run is incomplete"

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "--older-than",
            metavar="AGE",
            type=duration,
            help="Remove jobs whose last event is older than this: 90d, 12h, 30m.",
        )
        which.add_argument(
            "--absent-from",
            metavar="FILE",
            help="Remove jobs that are not in this list, which export_jobs --ids wrote in the original store, and that "
            "have no later change. Load the export that belongs to the list first.",
        )
        parser.add_argument("--keep-failures", action="store_true", help="Keep jobs that failed or partly failed.")
        parser.add_argument("--objects", action="store_true", help="Remove the files of the artifacts too.")
        parser.add_argument(
            "--record",
            metavar="FILE",
            default="-",
            help="Append a line for each removed job to FILE (gzip for .gz). Default: standard output.",
        )
        super().add_arguments(parser)

    def handle(self, *, older_than: timedelta | None, absent_from: str | None, **options: Any) -> None:
        tenant = self.tenant_named(options["tenant"])
        jobs: QuerySet[Job] = Job.all_tenants.filter(tenant=tenant) if tenant else Job.all_tenants.all()
        if older_than:
            jobs = removal.inactive_since(jobs, timezone.now() - older_than, options["keep_failures"])
        elif absent_from:
            if options["keep_failures"]:
                raise CommandError("--keep-failures goes with --older-than. With --absent-from the list decides.")
            # A job with a change after the list was written came with a later export, and stays.
            jobs = jobs.filter(updated_at__lte=check_list(absent_from, options["tenant"]))
        which = f"absent from {absent_from}" if older_than is None else f"older than {duration_text(older_than)}"
        # All that selects jobs: other ones would lie before the place where a checkpoint stands.
        failures = " but failures" if options["keep_failures"] else ""
        checkpoint = self.checkpoint_of(options, f"{self.name} of {tenant or 'all tenants'} {which}{failures}")
        self.state = checkpoint.read()
        self.totals = Totals(**self.state.get("totals", {}))
        self.store = artifact_store() if options["objects"] else None
        batches = partial(self.batches, jobs, options["batch"], absent_from, options["tenant"])
        number = sum(len(ids) for ids, _ in batches()) if absent_from else jobs.count()
        if options["dry_run"]:
            self.stderr.write(f"Dry run, nothing removed: {counted(number, 'job')}")
            return
        own = [(f"--{name.replace('_', '-')}", options[name]) for name in ("keep_failures", "objects", "record")]
        age = older_than and duration_text(older_than)
        resume_command = self.resume_command(options, ("--older-than", age), ("--absent-from", absent_from), *own)
        try:
            if number:  # before the first removal, so that a run that is killed has left its entry
                record_command_act(AuditAction.JOBS_PRUNED, tenant, resume_command, f"up to {counted(number, 'job')}")
            with (
                Sink.opened(options["record"], append=True) as record,
                self.running(options, checkpoint, self.totals.jobs + number) as run,
            ):
                finished = self.prune(jobs, batches, record, run)
        except BrokenPipeError:
            raise
        except (*DATABASE_ERRORS, FileError, *STORE_ERRORS) as error:
            self.stderr.write(f"{self.totals} removed")
            raise IncompleteRun(failure_text(error), resume_command) from error
        self.stderr.write(f"{self.totals} removed")
        if not finished:
            raise IncompleteRun("Stopped", resume_command)
        checkpoint.remove()

    def batches(self, jobs: QuerySet[Job], size: int, absent_from: str | None, tenant: str | None) -> Iterator[Batch]:
        """Those that follow the last one that was removed."""
        at, after = self.state.get("after", (None, None))
        after = after and parse_ulid(after)
        if absent_from:
            for ids, last in absent(jobs, read_list(absent_from, tenant), after, size):
                yield ids, (None, last)
        else:
            yield from removal.batches_by_age(jobs, (datetime.fromisoformat(at), after) if after else None, size)

    def prune(self, jobs: QuerySet[Job], batches: Callable[[], Iterator[Batch]], record: Sink, run: Run) -> bool:
        """True if the end was reached."""
        wait = DatabaseWait(run.stop, self.say)
        for ids, (at, last) in wait.iterate(batches):
            removed, tenants, keys = wait.run(partial(self.remove, jobs, ids, record, wait))
            self.totals.jobs += len(removed.jobs)
            self.totals.events += removed.events
            self.totals.artifacts += removed.artifacts
            if self.store:
                self.remove_objects(self.store, removed.jobs, tenants, keys, wait)
            self.state = {"after": [at and at.isoformat(), str(last)], "totals": asdict(self.totals)}
            if not run.checkpoint_batch(self.totals.jobs, str(self.totals), self.state):
                return False
        return True

    def remove(
        self, jobs: QuerySet[Job], ids: list[ULID], record: Sink, wait: DatabaseWait
    ) -> tuple[RemovedBatch, Tenants, Keys]:
        try:
            with transaction.atomic():
                # A job that got an event meanwhile stays: the condition is checked again under the lock.
                these = list(jobs.filter(pk__in=ids).order_by("pk").select_for_update().values_list("pk", flat=True))
                keys = removal.storage_keys_by_job(these)
                removed = removal.remove(Job.all_tenants.filter(pk__in=these).order_by("pk"))
                tenants = Tenant.objects.in_bulk({job.tenant_id for job in removed.jobs})
                self.write_record(removed.jobs, tenants, keys, record)
        except CommitOutcomeUnknown:
            if wait.run(Job.all_tenants.filter(pk__in=these).exists):
                raise  # it was not committed
        return removed, tenants, keys

    def write_record(self, removed: Iterable[RemovedJob], tenants: Tenants, keys: Keys, record: Sink) -> None:
        at = datetime.now(UTC)
        record.write(
            orjson.dumps(
                {
                    "public_id": str(job.public_id),
                    "tenant": tenants[job.tenant_id].slug,
                    "job_type": job.job_type,
                    "status": job.status,
                    "created_at": job.created_at,
                    "updated_at": job.updated_at,
                    "pruned_at": at,
                    "storage_keys": keys[job.public_id],
                },
                option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
            )
            for job in removed
        )
        record.sync()

    def remove_objects(
        self, store: ArtifactStore, removed: Iterable[RemovedJob], tenants: Tenants, keys: Keys, wait: DatabaseWait
    ) -> None:
        prefix_of = {job.public_id: tenants[job.tenant_id].storage_prefix for job in removed}
        own = sorted(
            {key for job, prefix in prefix_of.items() if prefix for key in keys[job] if key.startswith(prefix)}
        )
        for start in range(0, len(own), OBJECTS_AT_ONCE):
            some = own[start : start + OBJECTS_AT_ONCE]
            referenced = wait.run(partial(referenced_keys, some))
            free = [key for key in some if key not in referenced]
            if free:
                store.delete_objects(free)
                self.totals.objects += len(free)


def failure_text(error: Exception) -> str:
    if isinstance(error, FileError):
        return str(error)
    if isinstance(error, DATABASE_ERRORS):
        return database_failed(error)
    return f"The artifact store failed: {reason(error)}. The record names the objects that are left"
