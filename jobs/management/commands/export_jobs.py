"""``manage.py export_jobs``."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet
from ulid import ULID

from jobs.ingest import record_reader
from jobs.ingest.change_cursor import ChangeCursor
from jobs.ingest.interchange import dump
from jobs.management.arguments import ulid
from jobs.management.batches import DATABASE_ERRORS, BatchCommand, IncompleteRun, Run, database_failed
from jobs.management.files import Sink
from jobs.management.id_list import write_list
from jobs.models import Job
from jobs.ulid import parse_ulid


class Command(BatchCommand):
    help = (
        "Writes jobs as interchange records, one JSON object a line, in ascending order of their ids. The same jobs "
        "are the same bytes, whichever database they come from; backfill_jobs reads them. On PostgreSQL it ends with a "
        "cursor, on standard error, and --since CURSOR writes the jobs that changed since that copy began, each whole: "
        "no change is lost, and some come twice. What was removed a copy learns by --ids, and prune_jobs --absent-from "
        "there. Tenants' new names it does not tell."
    )
    example = "--tenant acme acme.ndjson.gz"
    exit_codes = "0: every job was written; 1: it was stopped, or could not write"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            metavar="FILE",
            nargs="?",
            default="-",
            help="gzip where the name ends with .gz; - (the default) is standard output.",
        )
        super().add_arguments(parser)
        parser.add_argument(
            "--since", metavar="CURSOR", help="The jobs that changed since the copy that ended with it."
        )
        parser.add_argument("--after", metavar="ULID", type=ulid, help="Begin after this job, and append to FILE.")
        parser.add_argument(
            "--begun", metavar="CURSOR", help="What to end with, where --after goes on with an earlier run."
        )

        parser.add_argument(
            "--ids", metavar="FILE", help="When all is written, list the ids of all jobs there are in FILE."
        )

    def handle(self, *, file: str, since: str | None, after: ULID | None, begun: str | None, **options: Any) -> None:
        tenant = self.tenant_named(options["tenant"])
        checkpoint = self.checkpoint_of(options, f"{file} of {tenant or 'all tenants'} since {since or 'ever'}")
        state = {} if after else checkpoint.read()
        self.after = parse_ulid(state["after"]) if state else after
        now = ChangeCursor.now(tenant.slug if tenant else "")
        self.begun = state["begun"] if state else begun or (str(now) if now and not after else None)
        jobs: QuerySet[Job] = Job.all_tenants.filter(tenant=tenant) if tenant else Job.all_tenants.all()
        if since is not None:
            jobs = earlier(since, now).changed(jobs)
        if self.after is not None:
            jobs = jobs.filter(public_id__gt=self.after)
        if options["dry_run"]:
            self.stderr.write(f"Dry run, nothing written: {jobs.count():,} jobs")
            return
        own = file, ("--since", since), ("--ids", options["ids"]), ("--begun", self.begun)
        try:
            with (
                Sink.opened(file, self.after is not None, state.get("size")) as out,
                self.running(options, checkpoint, jobs.count()) as run,
            ):
                finished = self.export(jobs, out, options["batch"], run)
        except BrokenPipeError:
            # Python writes what is left to standard output when it ends, and would fail again.
            sys.stdout = None
            raise CommandError("Whoever read the output has gone.") from None
        except OSError as error:
            raise CommandError(f"{file}: {error}") from error
        except DATABASE_ERRORS as error:
            raise IncompleteRun(database_failed(error), self.resume(options, file, own)) from error
        if not finished:
            raise IncompleteRun("Stopped", self.resume(options, file, own))
        if options["ids"]:
            # After the copy: what is not listed has gone, or never was; and a job that came meanwhile is no harm.
            everyone = Job.all_tenants.filter(tenant=tenant) if tenant else Job.all_tenants.all()
            number = write_list(options["ids"], everyone, tenant.slug if tenant else None)
            self.stderr.write(f"{number:,} jobs listed in {options['ids']}")
        checkpoint.remove()

    def resume(self, options: dict[str, Any], file: str, own: tuple[object, ...]) -> str:
        if self.after is None:
            own = own[:-1]  # nothing has begun
        return f"{self.resume_command(options, *own, at=[('--after', self.after)])}{' >> FILE' if file == '-' else ''}"

    def export(self, jobs: QuerySet[Job], out: Sink, batch: int, run: Run) -> bool:
        """Whether it came to the end."""
        written = 0
        for records in record_reader.batches(jobs, batch):
            size = out.write(map(dump, records))
            written += len(records)
            self.after = records[-1].public_id
            state = {"after": str(self.after), "begun": self.begun, "size": size}
            if not run.checkpoint_batch(written, f"{written:,} jobs", state):
                return False
        run.progress.clear()
        self.stderr.write(f"{written:,} jobs exported")
        if self.begun:
            self.say(f"What changes from now on: --since {self.begun}", since=self.begun)
        return True


def earlier(since: str, now: ChangeCursor | None) -> ChangeCursor:
    if now is None:
        raise CommandError("SQLite does not tell what changed since: make a whole copy, without --since.")
    try:
        return now.since(since)
    except ValueError as error:
        raise CommandError(f"The cursor {error}.") from error
