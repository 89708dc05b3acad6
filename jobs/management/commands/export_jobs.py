"""``manage.py export_jobs``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet
from ulid import ULID

from jobs.ingest import record_reader
from jobs.ingest.change_cursor import ChangeCursor
from jobs.ingest.interchange import Record, dump
from jobs.management.arguments import ulid
from jobs.management.batches import BatchCommand, IncompleteRun, Run
from jobs.management.errors import DATABASE_ERRORS, FileError, database_failed
from jobs.management.files import Sink
from jobs.management.id_list import write_list
from jobs.management.progress import counted
from jobs.management.stopping import stoppable
from jobs.management.waiting import DatabaseWait
from jobs.models import Job
from jobs.ulid import parse_ulid
from tenants.models import Tenant


class Command(BatchCommand):
    help = (
        "Writes jobs as interchange records, one JSON object on each line, in ascending order of their ids. "
        "backfill_jobs reads them. The output is the same for SQLite and PostgreSQL. On PostgreSQL the command ends by "
        "printing a cursor on standard error. A later run with --since CURSOR writes the jobs that changed after the "
        "first run began. No change is missed. Some jobs may be exported twice. Removed jobs are not exported: write "
        "the ids of all jobs with --ids, and give that file to prune_jobs --absent-from in the copy. Changes of "
        "tenants are not exported."
    )
    example = "--tenant acme acme.ndjson.gz"
    exit_codes = "0: every job was written; 1: the run is incomplete"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            metavar="FILE",
            nargs="?",
            default="-",
            help="The file to write, as gzip if its name ends with .gz. - (the default) is standard output.",
        )
        super().add_arguments(parser)
        parser.add_argument(
            "--since",
            metavar="CURSOR",
            help="Write only the jobs that changed since the export that printed this cursor.",
        )
        parser.add_argument("--after", metavar="ULID", type=ulid, help="Start after this job and append to FILE.")
        parser.add_argument("--begun", metavar="CURSOR", help="With --after: the cursor of the run that is resumed.")

        parser.add_argument(
            "--ids", metavar="FILE", help="After the export, write the ids of all existing jobs to FILE."
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
            self.stderr.write(f"Dry run, nothing written: {counted(jobs.count(), 'job')}")
            return
        own = file, ("--since", since), ("--ids", options["ids"]), ("--begun", self.begun)
        try:
            with (
                Sink.opened(file, self.after is not None, state.get("size")) as out,
                self.running(options, checkpoint, jobs.count()) as run,
            ):
                finished = self.export(jobs, out, options["batch"], run)
            if finished and options["ids"]:
                finished = self.write_ids(options["ids"], tenant)
        except BrokenPipeError:
            # Python flushes standard output when it exits, and would fail again.
            sys.stdout = None
            raise CommandError("The program that read the output has ended.") from None
        except FileError as error:
            raise IncompleteRun(str(error), self.resume(options, file, own)) from error
        except DATABASE_ERRORS as error:
            raise IncompleteRun(database_failed(error), self.resume(options, file, own)) from error
        if not finished:
            raise IncompleteRun("Stopped", self.resume(options, file, own))
        checkpoint.remove()

    def write_ids(self, file: str, tenant: Tenant | None) -> bool:
        """After the export: a job that is not listed was removed. A job that was added meanwhile may be listed.

        True if the end was reached.
        """
        everyone = Job.all_tenants.filter(tenant=tenant) if tenant else Job.all_tenants.all()
        with stoppable() as stop:
            write = partial(write_list, file, everyone, tenant.slug if tenant else None, stop)
            number = DatabaseWait(stop, self.say).run(write)
        if number is None:
            return False
        self.stderr.write(f"{counted(number, 'job')} listed in {file}")
        return True

    def resume(self, options: dict[str, Any], file: str, own: tuple[object, ...]) -> str:
        if self.after is None:
            own = own[:-1]  # no batch was written, so no cursor is kept
        return f"{self.resume_command(options, *own, at=[('--after', self.after)])}{' >> FILE' if file == '-' else ''}"

    def export(self, jobs: QuerySet[Job], out: Sink, batch: int, run: Run) -> bool:
        """True if the end was reached."""
        written = 0

        def remaining() -> Iterator[list[Record]]:
            return record_reader.batches(jobs if self.after is None else jobs.filter(pk__gt=self.after), batch)

        for records in DatabaseWait(run.stop, self.say).iterate(remaining):
            size = out.write(map(dump, records))
            written += len(records)
            self.after = records[-1].public_id
            if run.checkpoint.path is not None:
                out.sync()  # before the checkpoint, which says how much is there
            state = {"after": str(self.after), "begun": self.begun, "size": size}
            if not run.checkpoint_batch(written, counted(written, "job"), state):
                return False
        run.progress.clear()
        self.stderr.write(f"{counted(written, 'job')} exported")
        if self.begun:
            self.say(f"To export later changes: --since {self.begun}", since=self.begun)
        return True


def earlier(since: str, now: ChangeCursor | None) -> ChangeCursor:
    if now is None:
        raise CommandError("SQLite does not record which jobs changed. Export all jobs, without --since.")
    try:
        return now.since(since)
    except ValueError as error:
        raise CommandError(f"The cursor {error}.") from error
