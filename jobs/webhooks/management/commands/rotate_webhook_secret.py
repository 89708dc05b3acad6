"""``manage.py rotate_webhook_secret``."""

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
        "Makes a new secret for a webhook endpoint and prints it as the last line of standard output. For 24 hours "
        "payloads are signed with the old secret too, so that its receiver can be changed meanwhile."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=f"Example: manage.py {subcommand} 3", **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add_endpoint_argument(parser)

    def handle(self, *, endpoint: int, **options: Any) -> None:
        row = endpoint_of(endpoint)
        with transaction.atomic():
            secret = endpoints.rotate_secret(row)
            command = command_line("rotate_webhook_secret", endpoint)
            record_command_act(AuditAction.WEBHOOK_CHANGED, row.tenant, command, str(row))
        self.stderr.write("The new secret follows. Keep it: it cannot be shown again.")
        self.stdout.write(secret)
