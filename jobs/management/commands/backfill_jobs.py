"""``manage.py backfill_jobs``."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError, CommandParser

from jobs.ingest import bulk
from jobs.management.arguments import at_least
from jobs.management.batches import DATABASE_ERRORS, BatchCommand, database_failed, stopped
from jobs.management.checkpoint import Checkpoint
from jobs.management.files import Source
from jobs.management.stopping import stoppable

SHOWN_REJECTIONS = 20  # on standard error; --rejects keeps them all


@dataclass
class Tally:
    """What became of the lines up to ``line``, and how long the files of --rejects were then."""

    line: int = 0
    loaded: int = 0
    unchanged: int = 0
    skipped: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    rejects_bytes: int | None = None
    reasons_bytes: int | None = None

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
        self.reasons.write("".join(f"{_reason(each)}\n" for each in rejections).encode())
        for file in (self.lines, self.reasons):
            file.flush()
        tally.rejects_bytes, tally.reasons_bytes = self.lines.tell(), self.reasons.tell()


def _reason(rejection: bulk.Rejection) -> str:
    return f"{rejection.line.number}\t{rejection.error.reason}: {rejection.error}"


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
            "file", metavar="FILE", help="NDJSON; gzip where the name ends with .gz; - is standard input."
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
            "--follow", action="store_true", help="Load what has come within a second, however few: for a lasting pipe."
        )

    def handle(self, *, file: str, **options: Any) -> None:
        self.tenant_named(options["tenant"])
        kept = self.checkpoint_of(options, file)
        tally = Tally(**{"line": options["after_line"]} | kept.read())
        try:
            finished = self.load(file, kept, tally, options)
        except (OSError, EOFError) as error:
            raise CommandError(f"{file}: {error}") from error
        except DATABASE_ERRORS as error:
            raise self.cut_short(database_failed(error), file, tally, options) from error
        self.report(tally, options["dry_run"])
        if not finished:
            raise self.cut_short("Stopped", file, tally, options)
        kept.remove()
        if tally.rejected:
            raise CommandError(f"{sum(tally.rejected.values())} records were rejected.")

    def load(self, file: str, kept: Checkpoint, tally: Tally, options: dict[str, Any]) -> bool:
        """Whether the file was read to its end."""
        keeping = Rejects.opened(options["rejects"], tally) if options["rejects"] else nullcontext()
        with (
            stoppable() as stop,
            Source.opened(file, stop, options["follow"]) as source,
            keeping as rejects,
            self.running(options, kept, source.size, stop) as run,
        ):
            how = {name: options[name] for name in ("batch", "tenant", "dry_run")}
            for batch in bulk.load(source, after_line=tally.line, **how):
                if rejects:
                    rejects.add(batch.rejections, tally)
                elif batch.rejections:
                    run.progress.clear()
                    self.show(batch.rejections[: max(0, SHOWN_REJECTIONS - sum(tally.rejected.values()))])
                tally.add(batch)
                # What has been read when a stop is requested is loaded too: a pipe would not give it again.
                run.goes_on(source.position, f"line {tally.line}: {tally}", asdict(tally))
        return source.is_complete

    def show(self, rejections: Sequence[bulk.Rejection]) -> None:
        for rejection in rejections:
            self.stderr.write(f"line {_reason(rejection).replace(chr(9), ': ')}")

    def report(self, tally: Tally, dry_run: bool) -> None:
        self.stdout.write(f"{'Dry run, nothing written: ' if dry_run else ''}{tally}")
        for reason, number in sorted(tally.rejected.items(), key=lambda item: (-item[1], item[0])):
            self.stdout.write(f"  {number} × {reason}")

    def cut_short(self, why: str, file: str, tally: Tally, options: dict[str, Any]) -> CommandError:
        own = file, ("--rejects", options["rejects"]), ("--follow", options["follow"])
        again = self.again(options, *own, at=("--after-line", tally.line))
        return stopped(f"{why}, after line {tally.line}", again)
