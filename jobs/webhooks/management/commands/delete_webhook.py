"""``manage.py delete_webhook``."""

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
    help = "Deletes a webhook endpoint with its secrets and its log. Nothing is delivered to it any more."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=f"Example: manage.py {subcommand} 3", **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add_endpoint_argument(parser)

    def handle(self, *, endpoint: int, **options: Any) -> None:
        row = endpoint_of(endpoint)
        with transaction.atomic():
            record_command_act(
                AuditAction.WEBHOOK_REMOVED, row.tenant, command_line("delete_webhook", endpoint), str(row)
            )
            endpoints.delete(row)
        self.stdout.write(f"Deleted webhook endpoint {endpoint} of tenant {row.tenant.slug}.")
