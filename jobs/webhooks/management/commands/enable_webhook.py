"""``manage.py enable_webhook``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from jobs.ingest.command_audit import record_command_act
from jobs.management.stopping import command_line
from jobs.models import AuditAction
from jobs.webhooks import endpoints
from jobs.webhooks.management.lookup import add_endpoint_argument, endpoint_of


class Command(BaseCommand):
    help = (
        "Enables a webhook endpoint that was disabled. It gets the events that it has not accepted, and then what "
        "happened meanwhile."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, epilog=f"Example: manage.py {subcommand} 3 --from-now", **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        add_endpoint_argument(parser)
        parser.add_argument(
            "--from-now", action="store_true", help="Leave out all that happened before, and begin with the next event."
        )

    def handle(self, *, endpoint: int, from_now: bool, **options: Any) -> None:
        row = endpoint_of(endpoint)
        if row.is_enabled:
            self.stdout.write(f"Webhook endpoint {endpoint} is enabled already; nothing changed.")
            return
        with transaction.atomic():
            endpoints.enable(row, from_now=from_now)
            command = command_line("enable_webhook", endpoint, ("--from-now", from_now))
            record_command_act(AuditAction.WEBHOOK_CHANGED, row.tenant, command, str(row))
        self.stdout.write(f"Enabled webhook endpoint {endpoint} of tenant {row.tenant.slug}.")
