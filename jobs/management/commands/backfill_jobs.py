"""``manage.py backfill_jobs``."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from botocore.exceptions import BotoCoreError, ClientError
from django.core.management.base import CommandError, CommandParser

from jobs.ingest import bulk
from jobs.management.arguments import at_least
from jobs.management.batches import DATABASE_ERRORS, BatchCommand, IncompleteRun, Run, database_failed
from jobs.management.checkpoint import Checkpoint
from jobs.management.files import Inputs, Source
from jobs.management.stopping import stoppable

SHOWN_REJECTIONS = 20  # on standard error; --rejects keeps them all


@dataclass
class Totals:
    """What became of the lines up to ``line`` of ``file``, and how long the files of --rejects were then."""

    file: str = ""
    line: int = 0
    loaded: int = 0
    unchanged: int = 0
    skipped: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
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
        self.rejected = dict(Counter(self.rejected) + Counter(str(each.error.reason) for each in batch.rejections))

    def __str__(self) -> str:
        skipped = f", skipped {self.skipped} of other tenants" if self.skipped else ""
        rejected = sum(self.rejected.values())
        return f"loaded {self.loaded}, unchanged {self.unchanged}{skipped}, rejected {rejected}"


class Rejects:
    """The bad lines as they were in the file, and beside them the number and reason of each."""

    def __init__(self, lines: IO[bytes], reasons: IO[bytes], compress: bool) -> None:
        self.lines = lines
        self.reasons = reasons
        self.compress = compress

    @classmethod
    @contextmanager
    def opened(cls, name: str, totals: Totals) -> Iterator[Rejects]:
        mode = "ab" if totals.line else "wb"
        with Path(name).open(mode) as lines, Path(f"{name}.reasons").open(mode) as reasons:
            if totals.rejects_bytes is not None and totals.reasons_bytes is not None:
                # What a run that was killed wrote after its last checkpoint comes again.
                lines.truncate(totals.rejects_bytes)
                reasons.truncate(totals.reasons_bytes)
            yield cls(lines, reasons, name.endswith(".gz"))

    def add(self, rejections: Sequence[bulk.Rejection], totals: Totals) -> None:
        lines = b"".join(each.line.raw.removesuffix(b"\n") + b"\n" for each in rejections)
        self.lines.write(gzip.compress(lines, mtime=0) if lines and self.compress else lines)
        self.reasons.write("".join(f"{_reason(each, totals.file)}\n" for each in rejections).encode())
        for file in (self.lines, self.reasons):
            file.flush()
        totals.rejects_bytes, totals.reasons_bytes = self.lines.tell(), self.reasons.tell()


def _reason(rejection: bulk.Rejection, file: str) -> str:
    return f"{_place(rejection.line.number, file)}\t{rejection.error.reason}: {rejection.error}"


def _place(line: int, file: str) -> str:
    return f"{line} of {file}" if file else str(line)


class Command(BatchCommand):
    help = (
        "Loads jobs from a file of interchange records, one JSON object a line. Loading a file again changes nothing, "
        "so a run that was cut short may simply be run again."
    )

    example = "jobs.ndjson.gz --rejects bad.ndjson --checkpoint jobs.checkpoint"
    exit_codes = "0: every record is in the store; 1: some were rejected, or the run was stopped"
    batch_of, batch_size = "RECORDS", bulk.BATCH_RECORDS

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "file",
            metavar="FILE",
            help="NDJSON; gzip where the name ends with .gz; - is standard input; s3://BUCKET/PREFIX is every object "
            "under the prefix, in the order of their keys, reached with the settings of the artifact store.",
        )
        parser.add_argument(
            "--rejects",
            metavar="FILE",
            help="Keep the rejected lines in FILE, number and reason of each in FILE.reasons.",
        )
        parser.add_argument(
            "--after-line", metavar="NUMBER", type=at_least(0), default=0, help="Begin after this line of the file."
        )
        parser.add_argument(
            "--from-object",
            metavar="KEY",
            default="",
            help="Of a bucket, begin with this object.",
        )
        parser.add_argument(
            "--follow", action="store_true", help="Load what has come within a second, however few: for a lasting pipe."
        )

    def handle(self, *, file: str, **options: Any) -> None:
        self.tenant_named(options["tenant"])
        checkpoint = self.checkpoint_of(options, file)
        totals = Totals(**{"file": options["from_object"], "line": options["after_line"]} | checkpoint.read())
        try:
            finished = self.load(file, checkpoint, totals, options)
        except (OSError, EOFError) as error:
            raise CommandError(f"{file}: {error}") from error
        except DATABASE_ERRORS as error:
            raise self.incomplete_run(database_failed(error), file, totals, options) from error
        except (BotoCoreError, ClientError) as error:
            raise self.incomplete_run(str(error), file, totals, options) from error
        self.report(totals, options["dry_run"])
        if not finished:
            raise self.incomplete_run("Stopped", file, totals, options)
        checkpoint.remove()
        if totals.rejected:
            raise CommandError(f"{sum(totals.rejected.values())} records were rejected.")

    def load(self, file: str, checkpoint: Checkpoint, totals: Totals, options: dict[str, Any]) -> bool:
        """Whether everything was read to its end."""
        keeping = Rejects.opened(options["rejects"], totals) if options["rejects"] else nullcontext()
        with stoppable() as stop:
            inputs = Inputs(file, stop, options["follow"])
            with keeping as rejects, self.running(options, checkpoint, inputs.size, stop) as run:
                for name, before, opening in inputs.each(totals.file):
                    if inputs.is_bucket and name != totals.file:
                        totals.file, totals.line = name, 0
                    with opening as source:
                        self.load_lines(source, before, totals, rejects, run, options)
                    if not source.is_complete:
                        return False
        return True

    def load_lines(
        self, source: Source, before: int, totals: Totals, rejects: Rejects | None, run: Run, options: dict[str, Any]
    ) -> None:
        how = {name: options[name] for name in ("batch", "tenant", "dry_run")}
        for batch in bulk.load(source, after_line=totals.line, **how):
            if rejects:
                rejects.add(batch.rejections, totals)
            elif batch.rejections:
                run.progress.clear()
                self.show(batch.rejections[: max(0, SHOWN_REJECTIONS - sum(totals.rejected.values()))], totals)
            totals.add(batch)
            # What has been read when a stop is requested is loaded too: a pipe would not give it again.
            run.checkpoint_batch(before + source.position, f"line {totals.place}: {totals}", asdict(totals))

    def show(self, rejections: Sequence[bulk.Rejection], totals: Totals) -> None:
        for rejection in rejections:
            self.stderr.write(f"line {_reason(rejection, totals.file).replace(chr(9), ': ')}")

    def report(self, totals: Totals, dry_run: bool) -> None:
        self.stdout.write(f"{'Dry run, nothing written: ' if dry_run else ''}{totals}")
        for reason, number in sorted(totals.rejected.items(), key=lambda item: (-item[1], item[0])):
            self.stdout.write(f"  {number} × {reason}")

    def incomplete_run(self, why: str, file: str, totals: Totals, options: dict[str, Any]) -> IncompleteRun:
        own = file, ("--rejects", options["rejects"]), ("--follow", options["follow"])
        at = [("--from-object", totals.file or None), ("--after-line", totals.line)]
        return IncompleteRun(f"{why}, after line {totals.place}", self.resume_command(options, *own, at=at))
