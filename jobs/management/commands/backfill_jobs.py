"""``manage.py backfill_jobs``."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from jobs.ingest import bulk
from jobs.management.arguments import at_least
from jobs.management.batches import BatchCommand, IncompleteRun, Run
from jobs.management.checkpoint import Checkpoint
from jobs.management.errors import (
    DATABASE_ERRORS,
    STORE_ERRORS,
    FileError,
    database_failed,
    reason,
    writing,
)
from jobs.management.files import BUCKET, Inputs, Source, bucket_and_prefix, cut_to, is_bucket, sync, write_whole
from jobs.management.progress import counted
from jobs.management.stopping import stoppable
from jobs.management.waiting import DatabaseWait

SHOWN_REJECTIONS = 20  # on standard error; --rejects keeps them all


@dataclass
class Totals:
    """The outcome of the lines up to ``line`` of ``file``, and the sizes of the --rejects files then, in bytes."""

    file: str = ""
    line: int = 0
    loaded: int = 0
    unchanged: int = 0
    skipped: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    unknown_agent_events: int = 0
    rejects_bytes: int | None = None
    reasons_bytes: int | None = None

    @property
    def place(self) -> str:
        return _place(self.line, self.file)

    def add(self, batch: bulk.BatchResult) -> None:
        self.line = batch.last_line
        self.loaded += batch.loaded
        self.unchanged += batch.unchanged
        self.skipped += batch.skipped
        self.unknown_agent_events += batch.unknown_agent_events
        self.rejected = dict(Counter(self.rejected) + Counter(str(each.error.reason) for each in batch.rejections))

    def __str__(self) -> str:
        skipped = f", skipped {self.skipped} of other tenants" if self.skipped else ""
        rejected = sum(self.rejected.values())
        unknown = f", {counted(self.unknown_agent_events, 'agent event')} of an unknown type kept"
        return (
            f"loaded {self.loaded}, unchanged {self.unchanged}{skipped}, rejected {rejected}"
            f"{unknown if self.unknown_agent_events else ''}"
        )


class Rejects:
    """Two files: the rejected lines as they were read, and the line number and reason of each."""

    def __init__(self, name: str, lines: Any, reasons: Any, compress: bool) -> None:
        self.name = name
        self.lines = lines
        self.reasons = reasons
        self.compress = compress

    @classmethod
    @contextmanager
    def opened(cls, name: str, totals: Totals, follow: bool) -> Iterator[Rejects]:
        mode = "ab" if follow or totals.line or totals.file else "wb"
        with ExitStack() as stack:
            with writing(name):
                lines = stack.enter_context(Path(name).open(mode, buffering=0))
                reasons = stack.enter_context(Path(f"{name}.reasons").open(mode, buffering=0))
            # A run that was killed may have written lines after its last checkpoint. They are read again.
            cut_to(lines, name, totals.rejects_bytes)
            cut_to(reasons, f"{name}.reasons", totals.reasons_bytes)
            yield cls(name, lines, reasons, name.endswith(".gz"))

    def add(self, rejections: Sequence[bulk.Rejection], totals: Totals) -> None:
        lines = b"".join(each.line.raw.removesuffix(b"\n") + b"\n" for each in rejections)
        with writing(self.name):
            write_whole(self.lines, gzip.compress(lines, mtime=0) if lines and self.compress else lines)
            write_whole(self.reasons, "".join(f"{_reason(each, totals.file)}\n" for each in rejections).encode())
        totals.rejects_bytes, totals.reasons_bytes = self.lines.tell(), self.reasons.tell()

    def sync(self) -> None:
        """Waits until the lines are on disk (fsync)."""
        with writing(self.name):
            for file in (self.lines, self.reasons):
                sync(file)


def _reason(rejection: bulk.Rejection, file: str) -> str:
    return f"{_place(rejection.line.number, file)}\t{rejection.error.reason}: {rejection.error}"


def _place(line: int, file: str) -> str:
    return f"{line} of {file}" if file else str(line)


class Command(BatchCommand):
    help = (
        "Loads jobs from a file of interchange records, one JSON object on each line. Loading a file again changes "
        "nothing, so an incomplete run can be repeated."
    )

    example = "jobs.ndjson.gz --rejects bad.ndjson --checkpoint jobs.checkpoint"
    exit_codes = "0: every record is in the store; 1: some were rejected, or the run is incomplete"
    batch_of, batch_size = "RECORDS", bulk.BATCH_RECORDS

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "file",
            metavar="FILE",
            help="NDJSON file, read as gzip if its name ends with .gz. - reads standard input. s3://BUCKET/PREFIX "
            "reads every object whose key begins with the prefix, in key order, with the artifact store's settings.",
        )
        parser.add_argument(
            "--rejects",
            metavar="FILE",
            help="Write rejected lines to FILE, and the line number and reason of each to FILE.reasons.",
        )
        parser.add_argument(
            "--after-line", metavar="NUMBER", type=at_least(0), default=0, help="Start after this line of the file."
        )
        parser.add_argument(
            "--from-object",
            metavar="KEY",
            default="",
            help="Start with this object of the bucket.",
        )
        parser.add_argument(
            "--follow",
            action="store_true",
            help="For a pipe that stays open: load each record within a second of its arrival.",
        )

    def handle(self, *, file: str, **options: Any) -> None:
        self.tenant_named(options["tenant"])
        if options["follow"] and (options["checkpoint"] or options["after_line"]):
            raise CommandError("--follow reads on where the pipe is. Leave out --checkpoint and --after-line.")
        tenant = options["tenant"]
        checkpoint = self.checkpoint_of(options, f"{file} of {tenant}" if tenant else file)
        totals = Totals(**{"file": options["from_object"], "line": options["after_line"]} | checkpoint.read())
        failure: Exception | None = None
        try:
            finished = self.load(file, checkpoint, totals, options)
        except DATABASE_ERRORS as error:
            failure, why = error, database_failed(error)
        except FileError as error:
            failure, why = error, str(error)
        except STORE_ERRORS as error:
            failure, why = error, f"Cannot read {file}: {reason(error)}"
        self.report(totals, options["dry_run"])
        if failure:
            raise self.incomplete_run(why, file, totals, options) from failure
        if not finished:
            raise self.incomplete_run("Stopped", file, totals, options)
        checkpoint.remove()
        if number := sum(totals.rejected.values()):
            raise CommandError(f"{counted(number, 'record')} {'was' if number == 1 else 'were'} rejected.")

    def load(self, file: str, checkpoint: Checkpoint, totals: Totals, options: dict[str, Any]) -> bool:
        """True if everything was read to its end."""
        keeping = Rejects.opened(options["rejects"], totals, options["follow"]) if options["rejects"] else nullcontext()
        with stoppable() as stop:
            inputs = Inputs(file, stop, options["follow"])
            if inputs.is_bucket and not inputs.objects:
                raise FileError(f"{file} names no object: no key in the bucket begins with this prefix")
            with keeping as rejects, self.running(options, checkpoint, inputs.size, stop) as run:
                for name, before, opening in inputs.each(totals.file):
                    if inputs.is_bucket and name != totals.file:
                        totals.file, totals.line = name, 0
                    with opening as source:
                        self.load_lines(source, before, totals, rejects, run, options)
                    if source.error:
                        raise FileError(
                            f"Cannot read {self.full_name(file, name)} to its end: {reason(source.error)}"
                        ) from source.error
                    if not source.is_complete:
                        return False
        return True

    def load_lines(
        self, source: Source, before: int, totals: Totals, rejects: Rejects | None, run: Run, options: dict[str, Any]
    ) -> None:
        how = {name: options[name] for name in ("batch", "tenant", "dry_run")}
        wait = DatabaseWait(run.stop, self.say)
        for batch in bulk.load(source, after_line=totals.line, attempt=wait.run, **how):
            if rejects:
                rejects.add(batch.rejections, totals)
            elif batch.rejections:
                run.progress.clear()
                self.show(batch.rejections[: max(0, SHOWN_REJECTIONS - sum(totals.rejected.values()))], totals)
            totals.add(batch)
            if rejects and run.checkpoint.path is not None:
                rejects.sync()  # before the checkpoint, which says how many are there
            # Lines that were read before the stop are loaded too: a pipe cannot be read again.
            run.checkpoint_batch(before + source.position, f"line {totals.place}: {totals}", asdict(totals))

    @staticmethod
    def full_name(file: str, name: str) -> str:
        return f"{BUCKET}{bucket_and_prefix(file)[0]}/{name}" if is_bucket(file) else name

    def show(self, rejections: Sequence[bulk.Rejection], totals: Totals) -> None:
        for rejection in rejections:
            self.stderr.write(f"line {_reason(rejection, totals.file).replace(chr(9), ': ')}")

    def report(self, totals: Totals, dry_run: bool) -> None:
        self.stdout.write(f"{'Dry run, nothing written: ' if dry_run else ''}{totals}")
        for rule, number in sorted(totals.rejected.items(), key=lambda item: (-item[1], item[0])):
            self.stdout.write(f"  {number} × {rule}")

    def incomplete_run(self, why: str, file: str, totals: Totals, options: dict[str, Any]) -> IncompleteRun:
        own = file, ("--rejects", options["rejects"]), ("--follow", options["follow"])
        # What follows in a pipe has not been read: nothing of it may be left out.
        line = None if options["follow"] else totals.line
        at = [("--from-object", totals.file or None), ("--after-line", line)]
        return IncompleteRun(f"{why}, after line {totals.place}", self.resume_command(options, *own, at=at))
