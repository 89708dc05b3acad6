"""What all commands share that go through the store in batches: options, stopping, checkpoints, progress, going on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError

from jobs.management.arguments import MAX_BATCH, at_least, seconds
from jobs.management.checkpoint import Checkpoint
from jobs.management.progress import LogLines, Progress
from jobs.management.stopping import Stop, command_line, stoppable
from tenants.models import Tenant

DATABASE_ERRORS = (OperationalError, InterfaceError)


class Run:
    """One run of a command: told of each batch that is safe in the store, it says whether another may follow."""

    def __init__(self, stop: Stop, checkpoint: Checkpoint, progress: Progress, pause_seconds: float) -> None:
        self.stop = stop
        self.checkpoint = checkpoint
        self.progress = progress
        self.pause_seconds = pause_seconds

    def checkpoint_batch(self, done: float, note: str, state: dict[str, Any]) -> bool:
        """``state`` is what a later run needs to go on after this batch."""
        self.checkpoint.write(state)
        self.progress.show(done, note)
        self.stop.pause(self.pause_seconds)
        return not self.stop.requested


class IncompleteRun(CommandError):
    """The command did what it did so far; ``resume_command`` is the command that does the rest."""

    def __init__(self, why: str, resume_command: str) -> None:
        super().__init__(f"{why}. Resume with:\n{resume_command}")
        self.why = why
        self.resume_command = resume_command


class StoppableCommand(BaseCommand):
    """A command that may be stopped, and then says with which command it goes on."""

    example = ""  # words behind the command's name
    exit_codes = ""  # what 0 and 1 mean

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        epilog = f"Example: manage.py {subcommand} {self.example}. Exit code {self.exit_codes}."
        return super().create_parser(prog_name, subcommand, epilog=epilog, **kwargs)

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.stderr.style_func = None  # progress and reasons are no errors
        if not self._called_from_command_line or self.stderr.isatty():  # type: ignore[attr-defined]  # Django's own
            return super().execute(*args, **options)
        self.stderr = log = LogLines(self.stderr, self.name)
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            if options["traceback"]:
                raise
            if isinstance(error, IncompleteRun):
                log.log("error", error.why, resume=error.resume_command)
            else:
                log.log("error", str(error))
            raise SystemExit(error.returncode) from error

    def say(self, message: str, **members: object) -> None:
        """``members`` of the line of JSON that the message is off a terminal, for those who read it by program."""
        if isinstance(self.stderr, LogLines):
            self.stderr.log("info", message, **members)
        else:
            self.stderr.write(message)

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


class BatchCommand(StoppableCommand):
    """One that goes through the store in batches, and may be stopped after any."""

    requires_system_checks = ()  # they import the whole API, half a second that a load has no use for
    batch_of, batch_size = "JOBS", 500

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", help="What is this tenant's; of all unless given.")
        parser.add_argument("--dry-run", action="store_true", help="Report what would be done and change nothing.")
        parser.add_argument(
            "--batch",
            metavar=self.batch_of,
            type=at_least(1, MAX_BATCH),
            default=self.batch_size,
            help="How much is done in one transaction; %(default)s unless given.",
        )
        parser.add_argument(
            "--throttle", metavar="SECONDS", type=seconds, default=0.0, help="Rest this long after each batch."
        )
        parser.add_argument(
            "--checkpoint",
            metavar="FILE",
            help="Keep in FILE how far the run is; one that was cut short goes on from there. Removed at the end.",
        )

    def tenant_named(self, slug: str | None) -> Tenant | None:
        """Raises CommandError where there is none."""
        if slug is None:
            return None
        try:
            return Tenant.objects.get(slug=slug)
        except Tenant.DoesNotExist as error:
            raise CommandError(f"No tenant “{slug}”. Create it with: manage.py create_tenant {slug}") from error

    def checkpoint_of(self, options: dict[str, Any], subject: str) -> Checkpoint:
        return Checkpoint(None if options["dry_run"] else options["checkpoint"], subject)

    @contextmanager
    def running(
        self,
        options: dict[str, Any],
        checkpoint: Checkpoint,
        total: float | None = None,
        stop_request: Stop | None = None,
    ) -> Iterator[Run]:
        """``total`` is what ``done`` grows to. ``stop_request`` is a stop that something else heeds too."""
        with nullcontext(stop_request) if stop_request else stoppable() as stop:
            progress = Progress(self.stderr, total, self.name)
            yield Run(stop, checkpoint, progress, options["throttle"])
            progress.clear()

    def resume_command(self, options: dict[str, Any], *own: object, at: Sequence[tuple[str, object]] = ()) -> str:
        """The command that goes on: ``own`` arguments around the shared options, those that are no option first.

        ``at`` are the options that say where, for a run without a checkpoint.
        """
        is_kept = options["checkpoint"] and not options["dry_run"]
        return command_line(
            self.name,
            *(each for each in own if not isinstance(each, tuple)),
            ("--tenant", options["tenant"]),
            ("--dry-run", options["dry_run"]),
            *(each for each in own if isinstance(each, tuple)),
            ("--batch", options["batch"]),
            ("--throttle", options["throttle"] or None),
            ("--checkpoint", options["checkpoint"]),
            *(() if is_kept else at),
        )


def database_failed(error: Exception) -> str:
    return f"The database failed: {str(error).strip().partition(chr(10))[0]}"
