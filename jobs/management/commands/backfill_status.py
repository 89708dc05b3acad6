"""``manage.py backfill_status``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import IntegrityError
from django.db.models import QuerySet
from ulid import ULID

from jobs.ingest import counts
from jobs.ingest.recompute_status import Difference, RecomputedBatch, recompute_status
from jobs.management.arguments import ulid
from jobs.management.batches import BatchCommand, IncompleteRun, Run
from jobs.management.errors import DATABASE_ERRORS, FileError, database_failed
from jobs.management.progress import Progress, counted
from jobs.management.waiting import DatabaseWait
from jobs.models import Job
from jobs.ulid import parse_ulid
from tenants.models import Tenant


class Command(BatchCommand):
    help = (
        "Recomputes the status of every job from its events and repairs the rows that differ. Then does the same with "
        "each tenant's job counts and last position. A job that was loaded with a status but without its events keeps "
        "that status. It also reports positions that two events have, or that do not ascend within a job; these it "
        "cannot repair."
    )

    example = "--dry-run --tenant acme"
    exit_codes = (
        "0: nothing differs, or everything was repaired; 1: a dry run found a difference, the run is incomplete, or "
        "there are wrong positions"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--after", metavar="ULID", type=ulid, help="Start after this job.")

    def handle(self, *, after: ULID | None, dry_run: bool, **options: Any) -> None:
        options |= {"dry_run": dry_run}
        tenant = self.tenant_named(options["tenant"])
        checkpoint = self.checkpoint_of(options, f"{self.name} of {options['tenant'] or 'all tenants'}")
        position = checkpoint.read()
        self.last = after or (parse_ulid(position["after"]) if position else None)
        jobs = Job.all_tenants.all()
        if self.last is not None:
            jobs = jobs.filter(public_id__gt=self.last)
        if tenant is not None:
            jobs = jobs.filter(tenant=tenant)
        try:
            with self.running(options, checkpoint, jobs.count()) as run:
                different, unordered = self.recompute(jobs, options["batch"], dry_run, run)
                drifted, repeated = self.check_tenants(tenant, dry_run, run)
        except DATABASE_ERRORS as error:
            raise self.incomplete_run(database_failed(error), options) from error
        except FileError as error:
            raise self.incomplete_run(str(error), options) from error
        if run.stop.requested:
            raise self.incomplete_run("Stopped", options)
        checkpoint.remove()
        if unordered or repeated:
            raise CommandError(
                f"Positions are wrong in {counted(unordered, 'job')} and {counted(repeated, 'tenant')}. They cannot be "
                "repaired: clients that follow events may have missed some, and should read the list of jobs again."
            )
        if dry_run and (different or drifted):
            raise CommandError(
                f"{counted(different, 'job')} and the counts of {counted(drifted, 'tenant')} differ from the events."
            )

    def incomplete_run(self, why: str, options: dict[str, Any]) -> IncompleteRun:
        return IncompleteRun(why, self.resume_command(options, at=[("--after", self.last)]))

    def recompute(self, jobs: QuerySet[Job], batch: int, dry_run: bool, run: Run) -> tuple[int, int]:
        """Returns the number of jobs that differed, and of jobs whose positions do not ascend."""
        checked, columns, different, unordered = 0, Counter[str](), 0, 0

        def remaining() -> Iterator[RecomputedBatch]:
            after = jobs if self.last is None else jobs.filter(public_id__gt=self.last)
            return recompute_status(after, batch, repair=not dry_run)

        for done in DatabaseWait(run.stop, self.say).iterate(remaining):
            checked += done.jobs
            different += len(done.differences)
            unordered += len(done.unordered)
            self.last = done.last
            columns.update(name for difference in done.differences for name in difference.columns)
            run.progress.clear()
            for difference in done.differences:
                self.stdout.write(summary(difference))
            for public_id in done.unordered:
                self.stdout.write(f"{public_id}: positions do not ascend with seq")
            if not run.checkpoint_batch(
                checked, f"{counted(checked, 'job')} checked, {different:,} differ", {"after": str(done.last)}
            ):
                break
        run.progress.clear()
        self.stdout.write(f"{counted(checked, 'job')} checked, {different:,} {'differ' if dry_run else 'repaired'}")
        for name, number in columns.most_common():
            self.stdout.write(f"  {number:,} × {name}")
        return different, unordered

    def check_tenants(self, only: Tenant | None, dry_run: bool, run: Run) -> tuple[int, int]:
        """Returns the number of tenants whose counts or last position were wrong, and of those with one position for
        several events."""
        wait = DatabaseWait(run.stop, self.say)
        tenants = [only] if only else wait.run(lambda: list(Tenant.objects.order_by("pk")))
        progress = Progress(self.stderr, len(tenants), self.name)
        drifted = repeated = 0
        for done, tenant in enumerate(tenants):
            if run.stop.requested:
                break
            progress.show(done, f"counts of {done:,} of {counted(len(tenants), 'tenant')} checked")
            try:
                drift = wait.run(partial(counts.drift, tenant.pk, repair=not dry_run))
            except IntegrityError:
                if wait.run(Tenant.objects.filter(pk=tenant.pk).exists):
                    raise
                continue  # it was erased meanwhile
            positions = wait.run(partial(counts.repeated_positions, tenant.pk))
            progress.clear()
            for line in (*drift_lines(drift), *(f"position {each:,} belongs to several events" for each in positions)):
                self.stdout.write(f"{tenant.slug}: {line}")
            drifted += bool(drift)
            repeated += bool(positions)
        progress.clear()
        return drifted, repeated


def drift_lines(drift: dict[str, tuple[int, int]]) -> Iterator[str]:
    for name, (kept, true) in drift.items():
        if name == "last_position":
            yield f"last position is {kept:,}, but an event has {true:,}"
        else:
            yield f"{name} counted as {kept:,}, should be {true:,}"


def summary(difference: Difference) -> str:
    columns = ", ".join(f"{name} {before} → {after}" for name, (before, after) in difference.columns.items())
    return f"{difference.public_id}: {columns}"
