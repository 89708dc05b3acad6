"""``manage.py test_webhook``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.webhooks import endpoints
from jobs.webhooks.management.lookup import add_endpoint_argument, endpoint_of
from jobs.webhooks.models import Outcome


class Command(BaseCommand):
    help = (
        "Sends a test event of type webhook.test to a webhook endpoint, and prints what the receiver answered. Exit "
        "code 0: it accepted the event."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=f"Example: manage.py {subcommand} 3", **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add_endpoint_argument(parser)

    def handle(self, *, endpoint: int, **options: Any) -> None:
        attempt = endpoints.send_test(endpoint_of(endpoint))
        answer = f"status {attempt.status}" if attempt.status else attempt.error
        if attempt.outcome != Outcome.DELIVERED:
            raise CommandError(f"The receiver did not accept the event: {answer}. {attempt.answer}".strip())
        self.stdout.write(f"The receiver accepted the event: {answer}, in {attempt.duration_ms} ms.")
