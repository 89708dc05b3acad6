"""``manage.py export_jobs``."""

from __future__ import annotations

import sys
from typing import IO, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from ulid import ULID

from jobs.ingest import stored
from jobs.ingest.interchange import dump
from jobs.management.arguments import MAX_BATCH, at_least, ulid
from jobs.management.files import opened_for_writing
from jobs.management.progress import Progress
from jobs.management.stopping import command_line, stoppable
from jobs.models import Job
from tenants.models import Tenant


class Command(BaseCommand):
    help = (
        "Writes jobs as interchange records, one JSON object a line, in ascending order of their ids. The same jobs "
        "are the same bytes, whichever database they come from; backfill_jobs reads them."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        example = f"Example: manage.py {subcommand} --tenant acme acme.ndjson.gz"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            metavar="FILE",
            nargs="?",
            default="-",
            help="gzip where the name ends with .gz; - (the default) is standard output.",
        )
        parser.add_argument("--tenant", metavar="SLUG", help="The jobs of this tenant; of all unless given.")
        parser.add_argument("--dry-run", action="store_true", help="Count the jobs and write nothing.")
        parser.add_argument(
            "--batch",
            metavar="JOBS",
            type=at_least(1, MAX_BATCH),
            default=500,
            help="Jobs read at once; %(default)s unless given.",
        )
        parser.add_argument("--after", metavar="ULID", type=ulid, help="Begin after this job, and append to FILE.")

    def handle(self, *, file: str, tenant: str | None, after: ULID | None, **options: Any) -> None:
        jobs = Job.all_tenants.all()
        if tenant is not None:
            try:
                jobs = jobs.filter(tenant=Tenant.objects.get(slug=tenant))
            except Tenant.DoesNotExist as error:
                raise CommandError(f"No tenant “{tenant}”.") from error
        if after is not None:
            jobs = jobs.filter(public_id__gt=after)
        if options["dry_run"]:
            self.stderr.write(f"Dry run, nothing written: {jobs.count():,} jobs")
            return
        try:
            with opened_for_writing(file, append=after is not None) as out:
                last = self.export(jobs, out, options["batch"])
        except BrokenPipeError:
            # Python writes what is left to standard output when it ends, and would fail again.
            sys.stdout = None
            raise CommandError("Whoever read the output has gone.") from None
        except OSError as error:
            raise CommandError(f"{file}: {error}") from error
        if last is not None:
            again = command_line(
                "export_jobs", file, ("--tenant", tenant), ("--batch", options["batch"]), ("--after", last)
            )
            raise CommandError(f"Stopped. Resume with:\n{again}{' >> FILE' if file == '-' else ''}")

    def export(self, jobs: Any, out: IO[bytes], batch: int) -> ULID | None:
        """The last job that was written where the command was stopped; None at the end."""
        written = 0
        progress = Progress(self.stderr, jobs.count() if self.stderr.isatty() else None)
        with stoppable() as stop:
            for records in stored.batches(jobs, batch):
                out.writelines(map(dump, records))
                out.flush()
                written += len(records)
                progress.show(written, f"{written:,} jobs")
                if stop.requested:
                    return records[-1].public_id
        progress.clear()
        self.stderr.write(f"{written:,} jobs exported")
        return None
