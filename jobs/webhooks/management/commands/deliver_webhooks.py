"""``manage.py deliver_webhooks``."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseFailure

from jobs.artifacts import signing
from jobs.database import row_security
from jobs.management.arguments import at_least
from jobs.management.errors import database_failed
from jobs.management.stopping import POLL_SECONDS, command_line
from jobs.webhooks.worker import Worker
from jobs_gateway import metrics
from jobs_gateway.settings import limit_pools_of_a_worker


class Command(BaseCommand):
    help = (
        "Delivers events to the webhook endpoints of all tenants, until Ctrl-C or SIGTERM. Any number of these "
        "processes may run side by side, on any machine: they share the endpoints. On SQLite run one."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, epilog=f"Example: METRICS_PORT=9101 manage.py {subcommand}", **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--parent",
            metavar="PID",
            type=at_least(1),
            help="Stop when the process with this id has ended, which started this one. For serve --demo.",
        )

    def handle(self, *, parent: int | None, **options: Any) -> None:
        limit_pools_of_a_worker()  # one event loop and one thread, as in a worker of the server
        row_security.check_before_serving()
        if settings.METRICS_PORT:
            metrics.serve()
        signing.make_ready()
        try:
            # Not on uvloop, which looks up two names at a time: receivers whose name servers do not answer would delay
            # all others.
            asyncio.run(deliver(parent))
        except DatabaseFailure as error:
            # Every endpoint goes on from what is written.
            again = command_line("deliver_webhooks")
            raise CommandError(f"{database_failed(error)}. Start it again with: {again}") from error


async def deliver(parent: int | None) -> None:
    worker = Worker()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    watch = asyncio.create_task(stop_after(parent, worker)) if parent else None
    await worker.run()
    if watch:
        watch.cancel()


async def stop_after(parent: int, worker: Worker) -> None:
    """Stops the worker when the process that started this one has ended."""
    while os.getppid() == parent:
        await asyncio.sleep(POLL_SECONDS)
    worker.stop()
