"""``manage.py deliver_webhooks``."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from jobs.database import row_security
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

    def handle(self, *args: Any, **options: Any) -> None:
        limit_pools_of_a_worker()  # one event loop and one thread, as in a worker of the server
        row_security.check_before_serving()
        if settings.METRICS_PORT:
            metrics.serve()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(deliver())


async def deliver() -> None:
    worker = Worker()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    await worker.run()
