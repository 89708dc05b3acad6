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
from jobs.management.batches import DATABASE_ERRORS, BatchCommand, CutShort, Run, database_failed
from jobs.management.checkpoint import Checkpoint
from jobs.management.files import Inputs, Source
from jobs.management.stopping import stoppable

SHOWN_REJECTIONS = 20  # on standard error; --rejects keeps them all


@dataclass
class Tally:
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

    def add(self, batch: bulk.Loaded) -> None:
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
    def opened(cls, name: str, tally: Tally) -> Iterator[Rejects]:
        mode = "ab" if tally.line else "wb"
        with Path(name).open(mode) as lines, Path(f"{name}.reasons").open(mode) as reasons:
            if tally.rejects_bytes is not None and tally.reasons_bytes is not None:
                # What a run that was killed wrote after its last checkpoint comes again.
                lines.truncate(tally.rejects_bytes)
                reasons.truncate(tally.reasons_bytes)
            yield cls(lines, reasons, name.endswith(".gz"))

    def add(self, rejections: Sequence[bulk.Rejection], tally: Tally) -> None:
        lines = b"".join(each.line.raw.removesuffix(b"\n") + b"\n" for each in rejections)
        self.lines.write(gzip.compress(lines, mtime=0) if lines and self.compress else lines)
        self.reasons.write("".join(f"{_reason(each, tally.file)}\n" for each in rejections).encode())
        for file in (self.lines, self.reasons):
            file.flush()
        tally.rejects_bytes, tally.reasons_bytes = self.lines.tell(), self.reasons.tell()


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
        kept = self.checkpoint_of(options, file)
        tally = Tally(**{"file": options["from_object"], "line": options["after_line"]} | kept.read())
        try:
            finished = self.load(file, kept, tally, options)
        except (OSError, EOFError) as error:
            raise CommandError(f"{file}: {error}") from error
        except DATABASE_ERRORS as error:
            raise self.cut_short(database_failed(error), file, tally, options) from error
        except (BotoCoreError, ClientError) as error:
            raise self.cut_short(str(error), file, tally, options) from error
        self.report(tally, options["dry_run"])
        if not finished:
            raise self.cut_short("Stopped", file, tally, options)
        kept.remove()
        if tally.rejected:
            raise CommandError(f"{sum(tally.rejected.values())} records were rejected.")

    def load(self, file: str, kept: Checkpoint, tally: Tally, options: dict[str, Any]) -> bool:
        """Whether everything was read to its end."""
        keeping = Rejects.opened(options["rejects"], tally) if options["rejects"] else nullcontext()
        with stoppable() as stop:
            inputs = Inputs(file, stop, options["follow"])
            with keeping as rejects, self.running(options, kept, inputs.size, stop) as run:
                for name, before, opening in inputs.each(tally.file):
                    if inputs.is_bucket and name != tally.file:
                        tally.file, tally.line = name, 0
                    with opening as source:
                        self.load_lines(source, before, tally, rejects, run, options)
                    if not source.is_complete:
                        return False
        return True

    def load_lines(
        self, source: Source, before: int, tally: Tally, rejects: Rejects | None, run: Run, options: dict[str, Any]
    ) -> None:
        how = {name: options[name] for name in ("batch", "tenant", "dry_run")}
        for batch in bulk.load(source, after_line=tally.line, **how):
            if rejects:
                rejects.add(batch.rejections, tally)
            elif batch.rejections:
                run.progress.clear()
                self.show(batch.rejections[: max(0, SHOWN_REJECTIONS - sum(tally.rejected.values()))], tally)
            tally.add(batch)
            # What has been read when a stop is requested is loaded too: a pipe would not give it again.
            run.goes_on(before + source.position, f"line {tally.place}: {tally}", asdict(tally))

    def show(self, rejections: Sequence[bulk.Rejection], tally: Tally) -> None:
        for rejection in rejections:
            self.stderr.write(f"line {_reason(rejection, tally.file).replace(chr(9), ': ')}")

    def report(self, tally: Tally, dry_run: bool) -> None:
        self.stdout.write(f"{'Dry run, nothing written: ' if dry_run else ''}{tally}")
        for reason, number in sorted(tally.rejected.items(), key=lambda item: (-item[1], item[0])):
            self.stdout.write(f"  {number} × {reason}")

    def cut_short(self, why: str, file: str, tally: Tally, options: dict[str, Any]) -> CutShort:
        own = file, ("--rejects", options["rejects"]), ("--follow", options["follow"])
        at = [("--from-object", tally.file or None), ("--after-line", tally.line)]
        return CutShort(f"{why}, after line {tally.place}", self.again(options, *own, at=at))
