"""``manage.py simulate``."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import IntegrityError, connection

from jobs.demo.access import DEMO
from jobs.demo.simulator import Simulator
from jobs.ingest.ledger import LedgerBusy
from jobs.management.arguments import at_least, factor, interval, percentage
from jobs.management.batches import IncompleteRun, StoppableCommand
from jobs.management.errors import DATABASE_ERRORS, STORE_ERRORS, database_failed, reason
from jobs.management.progress import Progress, counted
from jobs.management.stopping import Stop, command_line, stoppable
from jobs_gateway.settings import limit_pools_of_a_worker
from tenants.models import Tenant

# Between two attempts, while the database or the artifact store fails.
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 10.0


class Command(StoppableCommand):
    help = (
        "Simulates a studio at work, until Ctrl-C or SIGTERM: opens jobs of the demo tenant, and moves each through "
        "the stages of its workflow with pictures that it draws. Some jobs fail; some are operations on several "
        "agents. Of the simulated jobs the oldest are removed, with their pictures; no other job is changed. The next "
        "run ends jobs that this one leaves unfinished."
    )
    example = "--every 5s --speed 2 --fail 25%"
    exit_codes = "0: it was stopped; 1: it could not start, the tenant was removed, or the database stayed away"
    resume = ""
    requires_system_checks = ()  # they import the API, which takes half a second and is not needed here

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--tenant", metavar="SLUG", default=DEMO, help="The tenant that gets the jobs. Default: %(default)s."
        )
        parser.add_argument(
            "--every",
            metavar="TIME",
            type=interval,
            default="10s",
            help="The time from one job to the next: 10s, 0.5s, 2m. Default: %(default)s.",
        )
        parser.add_argument(
            "--speed",
            metavar="NUMBER",
            type=factor,
            default="1",
            help="How many times as fast each job runs. At 1 it takes about 15 seconds. Default: %(default)s.",
        )
        parser.add_argument(
            "--fail",
            metavar="PERCENT",
            type=percentage,
            default="10%",
            help="How many of the jobs fail. Default: 10%%.",
        )
        parser.add_argument(
            "--keep",
            metavar="JOBS",
            type=at_least(1),
            default=200,
            help="How many simulated jobs are kept. Older ones are removed when they are over. Default: %(default)s.",
        )
        parser.add_argument("--yes", action="store_true", help=f"Allow a tenant other than {DEMO}.")
        parser.add_argument(
            "--parent",
            metavar="PID",
            type=at_least(1),
            help="Stop when the process with this id has ended, which started this one. For serve --demo.",
        )

    def handle(
        self,
        *,
        tenant: str,
        every: float,
        speed: float,
        fail: float,
        keep: int,
        yes: bool,
        parent: int | None,
        verbosity: int,
        **options: Any,
    ) -> None:
        if self._called_from_command_line:  # type: ignore[attr-defined]  # Django's own
            limit_pools_of_a_worker()  # an error of the database comes soon, so that a stop does not wait for it
        simulator = Simulator(self.tenant_named(tenant, yes), every=every, speed=speed, fail_share=fail, keep=keep)
        self.resume = command_line(
            self.name,
            ("--tenant", tenant),
            ("--every", f"{every:g}s"),
            ("--speed", f"{speed:g}"),
            ("--fail", f"{fail * 100:g}%"),
            ("--keep", keep),
            ("--yes", yes),
        )
        progress = Progress(self.stderr, None, self.name)
        is_shown = verbosity > 0
        if is_shown:
            self.say(f"Simulating jobs of tenant {tenant}, one every {every:g} s. Ctrl-C stops it.")
        with stoppable(parent) as stop:
            self.repeat(simulator.start, stop, tenant)
            while not stop.requested:
                stop.pause(simulator.next_step_at() - time.monotonic())
                if not stop.requested:
                    self.repeat(simulator.step, stop, tenant)
                if is_shown:
                    progress.show(0, f"{simulator.totals}, {simulator.in_progress} in progress")
            progress.clear()
        if is_shown:
            self.say(f"Stopped: {simulator.totals}, {counted(simulator.in_progress, 'job')} left unfinished")

    def tenant_named(self, slug: str, is_confirmed: bool) -> Tenant:
        """Raises CommandError for an unknown tenant, and for any but the demo's without a confirmation."""
        if slug != DEMO and not is_confirmed:
            raise CommandError(
                f"Simulated jobs are for the tenant “{DEMO}”. Give --yes to add them to the jobs of “{slug}”."
            )
        try:
            return Tenant.objects.get(slug=slug)
        except Tenant.DoesNotExist as error:
            create = "seed_demo" if slug == DEMO else f"create_tenant {slug}"
            raise CommandError(f"No tenant “{slug}”. Create it with: manage.py {create}") from error
        except DATABASE_ERRORS as error:
            raise CommandError(database_failed(error)) from error

    def repeat(self, step: Any, stop: Stop, slug: str) -> None:
        """Runs ``step`` until it succeeds or a stop is requested. Says why it waits, and when it goes on.

        Raises IncompleteRun when the database has been away for ``DATABASE_WAIT_SECONDS``.
        """
        said, wait_seconds = "", SHORTEST_WAIT_SECONDS
        failed_at: float | None = None  # when the database went away
        while not stop.requested:
            try:
                step()
            except IntegrityError as error:
                if Tenant.objects.filter(slug=slug).exists():
                    raise
                raise CommandError(f"Tenant “{slug}” was removed.") from error
            except (LedgerBusy, *DATABASE_ERRORS, *STORE_ERRORS) as error:
                failed_at = (failed_at or time.monotonic()) if isinstance(error, DATABASE_ERRORS) else None
                if failed_at and time.monotonic() - failed_at >= settings.DATABASE_WAIT_SECONDS:
                    raise IncompleteRun(database_failed(error), self.resume) from error
                if (why := failure_text(error)) != said:
                    self.say(f"{why}. The simulation waits until this is over.")
                    said = why
            else:
                if said:
                    self.say("The simulation goes on.")
                return
            stop.pause(wait_seconds)
            wait_seconds = min(wait_seconds * 2, LONGEST_WAIT_SECONDS)
            connection.close_if_unusable_or_obsolete()


def failure_text(error: Exception) -> str:
    if isinstance(error, LedgerBusy):
        return "Another transaction holds a lock that is needed"
    if isinstance(error, DATABASE_ERRORS):
        return database_failed(error)
    return f"The artifact store failed: {reason(error)}"
