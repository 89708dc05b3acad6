"""The base of commands that work in batches: shared options, stopping, checkpoints, progress and resuming."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from jobs.management.arguments import MAX_BATCH, at_least, seconds
from jobs.management.checkpoint import Checkpoint
from jobs.management.progress import LogLines, Progress
from jobs.management.stopping import Stop, command_line, stoppable
from tenants.models import Tenant


class Run:
    """One run of a command. Call :meth:`checkpoint_batch` after each batch that is committed."""

    def __init__(self, stop: Stop, checkpoint: Checkpoint, progress: Progress, pause_seconds: float) -> None:
        self.stop = stop
        self.checkpoint = checkpoint
        self.progress = progress
        self.pause_seconds = pause_seconds

    def checkpoint_batch(self, done: float, note: str, state: dict[str, Any]) -> bool:
        """Saves ``state``, from which a later run resumes. Returns False if the run has to stop now."""
        self.checkpoint.write(state)
        self.progress.show(done, note)
        self.stop.pause(self.pause_seconds)
        return not self.stop.requested


class IncompleteRun(CommandError):
    """The run ended early, for the reason ``why``. ``resume_command`` does the rest."""

    def __init__(self, why: str, resume_command: str) -> None:
        super().__init__(f"{why}. Resume with:\n{resume_command}")
        self.why = why
        self.resume_command = resume_command


class StoppableCommand(BaseCommand):
    """A command that can be stopped and then prints the command that resumes it."""

    example = ""  # arguments, shown in the help
    exit_codes = ""  # the meaning of 0 and 1, shown in the help

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        epilog = f"Example: manage.py {subcommand} {self.example}. Exit code {self.exit_codes}."
        return super().create_parser(prog_name, subcommand, epilog=epilog, **kwargs)

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.stderr.style_func = None  # progress and summaries are written here too; they are not errors
        if not self._called_from_command_line:  # type: ignore[attr-defined]  # Django's own
            return super().execute(*args, **options)
        if not self.stderr.isatty():
            self.stderr = LogLines(self.stderr, self.name)
        try:
            return super().execute(*args, **options)
        except KeyboardInterrupt:
            error = CommandError("Interrupted", returncode=130)  # as a shell reports a program that SIGINT ended
        except CommandError as failed:
            if options["traceback"]:
                raise
            error = failed
        except BrokenPipeError:
            sys.stdout = None  # Python flushes standard output when it exits, and would fail again
            error = CommandError("The program that read the output has ended")
        if not isinstance(self.stderr, LogLines):
            self.stderr.write(str(error))
        elif isinstance(error, IncompleteRun):
            self.stderr.log("ERROR", error.why, resume=error.resume_command)
        else:
            self.stderr.log("ERROR", str(error))
        raise SystemExit(error.returncode)

    def say(self, message: str, **members: object) -> None:
        """Writes a message. Off a terminal it is a line of JSON, to which ``members`` are added for programs."""
        if isinstance(self.stderr, LogLines):
            self.stderr.log("INFO", message, **members)
        else:
            self.stderr.write(message)

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


class BatchCommand(StoppableCommand):
    """A command that works in batches and can be stopped after each of them."""

    requires_system_checks = ()  # they import the API, which takes half a second and is not needed here
    batch_of, batch_size = "JOBS", 500

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", help="Only this tenant. Default: all tenants.")
        parser.add_argument("--dry-run", action="store_true", help="Report what would be done and change nothing.")
        parser.add_argument(
            "--batch",
            metavar=self.batch_of,
            type=at_least(1, MAX_BATCH),
            default=self.batch_size,
            help="Number in one transaction. Default: %(default)s.",
        )
        parser.add_argument(
            "--throttle", metavar="SECONDS", type=seconds, default=0.0, help="Wait this long after each batch."
        )
        parser.add_argument(
            "--checkpoint",
            metavar="FILE",
            help="Save progress in FILE. A run with the same FILE resumes from there. The file is removed at the end.",
        )

    def tenant_named(self, slug: str | None) -> Tenant | None:
        """None without a slug. Raises CommandError if no tenant has it."""
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
        """``total`` is the value of ``done`` at the end. Give ``stop_request`` if other code checks it too."""
        checkpoint.check()
        if checkpoint.path is not None and connection.vendor == "sqlite" and not connection.in_atomic_block:
            with connection.cursor() as cursor:  # a checkpoint must not survive a power cut that its commits do not
                cursor.execute("PRAGMA synchronous = FULL")
        with nullcontext(stop_request) if stop_request else stoppable() as stop:
            progress = Progress(self.stderr, total, self.name)
            yield Run(stop, checkpoint, progress, options["throttle"])
            progress.clear()

    def resume_command(self, options: dict[str, Any], *own: object, at: Sequence[tuple[str, object]] = ()) -> str:
        """The command line that resumes this run: ``own`` arguments and the shared options.

        ``at`` are the options that name the place to start from. They are left out where a checkpoint has it.
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
