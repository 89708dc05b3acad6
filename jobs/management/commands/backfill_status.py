"""``manage.py backfill_status``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import QuerySet
from ulid import ULID

from jobs.ingest import counts
from jobs.ingest.refold import Difference, refold
from jobs.management.arguments import MAX_BATCH, at_least, ulid
from jobs.management.progress import Progress
from jobs.management.stopping import Stop, command_line, stoppable
from jobs.models import Job
from tenants.models import Tenant


class Command(BaseCommand):
    help = (
        "Folds the events of every job again and repairs the rows that differ, then the counts of each tenant. "
        "A job whose status came without the events that explain it is left as it was given."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        example = (
            f"Example: manage.py {subcommand} --dry-run --tenant acme. "
            "Exit code 0: nothing differs, or it has been repaired; 1: a dry run found something, or it was stopped."
        )
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", help="This tenant; all unless given.")
        parser.add_argument("--dry-run", action="store_true", help="Report what differs and write nothing.")
        parser.add_argument(
            "--batch",
            metavar="JOBS",
            type=at_least(1, MAX_BATCH),
            default=500,
            help="Jobs in one transaction; %(default)s unless given.",
        )
        parser.add_argument("--after", metavar="ULID", type=ulid, help="Begin after this job.")

    def handle(self, *, tenant: str | None, after: ULID | None, dry_run: bool, batch: int, **options: Any) -> None:
        self.stderr.style_func = None  # progress is no error
        jobs, tenants = Job.all_tenants.all(), Tenant.objects.all()
        if tenant is not None:
            tenants = tenants.filter(slug=tenant)
            if not tenants:
                raise CommandError(f"No tenant “{tenant}”.")
            jobs = jobs.filter(tenant__in=tenants)
        if after is not None:
            jobs = jobs.filter(public_id__gt=after)
        with stoppable() as stop:
            different, last = self.refold(jobs, batch, dry_run, stop)
            if stop.requested:
                again = ("--tenant", tenant), ("--dry-run", dry_run), ("--batch", batch), ("--after", last or after)
                raise CommandError(f"Stopped. Resume with:\n{command_line('backfill_status', *again)}")
        drifted = sum([self.count(each, dry_run) for each in tenants])
        if dry_run and (different or drifted):
            raise CommandError(f"{different:,} jobs and the counts of {drifted:,} tenants differ.")

    def refold(self, jobs: QuerySet[Job], batch: int, dry_run: bool, stop: Stop) -> tuple[int, ULID | None]:
        """How many jobs differed, and the last job of the last batch."""
        checked, columns, different, last = 0, Counter[str](), 0, None
        progress = Progress(self.stderr, jobs.count() if self.stderr.isatty() else None)
        for done in refold(jobs, batch, repair=not dry_run):
            checked += done.jobs
            different += len(done.differences)
            last = done.last
            columns.update(name for difference in done.differences for name in difference.columns)
            progress.clear()
            for difference in done.differences:
                self.stdout.write(self.told(difference))
            progress.show(checked, f"{checked:,} jobs checked, {different:,} differ")
            if stop.requested:
                break
        progress.clear()
        self.stdout.write(f"{checked:,} jobs checked, {different:,} {'differ' if dry_run else 'repaired'}")
        for name, number in columns.most_common():
            self.stdout.write(f"  {number:,} × {name}")
        return different, last

    def told(self, difference: Difference) -> str:
        columns = ", ".join(f"{name} {before} → {after}" for name, (before, after) in difference.columns.items())
        return f"{difference.public_id}: {columns}"

    def count(self, tenant: Tenant, dry_run: bool) -> bool:
        """Whether the tenant's counts had drifted."""
        drift = counts.drift(tenant.pk, repair=not dry_run)
        for status, (kept, true) in drift.items():
            self.stdout.write(f"{tenant.slug}: {status} counted as {kept:,}, {true:,} in truth")
        return bool(drift)
