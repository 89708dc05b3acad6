"""``manage.py create_webhook``."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from jobs.ingest.command_audit import record_command_act
from jobs.management.stopping import command_line
from jobs.models import AuditAction
from jobs.webhooks import endpoints
from tenants.models import Tenant


class Command(BaseCommand):
    help = (
        "Registers a webhook: events of the tenant that happen from now on are posted to the URL. The secret that its "
        "receiver verifies signatures with is the last line of standard output. It cannot be shown again."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        example = f"Example: manage.py {subcommand} acme https://acme.example/hook --event-type succeeded"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="The tenant whose events are delivered.")
        parser.add_argument("url", metavar="URL", help="An https URL of a public address, or of an allowed network.")
        parser.add_argument(
            "--event-type",
            metavar="TYPE",
            action="append",
            default=[],
            dest="event_types",
            help="Deliver events of this type only, such as succeeded. May be repeated. Default: all types.",
        )

    def handle(self, *, slug: str, url: str, event_types: list[str], **options: Any) -> None:
        try:
            with transaction.atomic():
                endpoint, secret = endpoints.create(Tenant.objects.get(slug=slug), url, event_types)
                # Without the URL, whose query may hold a secret.
                command = command_line("create_webhook", slug)
                record_command_act(AuditAction.WEBHOOK_ADDED, endpoint.tenant, command, str(endpoint))
        except Tenant.DoesNotExist as error:
            raise CommandError(f"No tenant “{slug}”. Create it with: manage.py create_tenant {slug}") from error
        except ValidationError as error:
            raise CommandError(f"No webhook was registered. {' '.join(error.messages)}") from error
        self.stderr.write(
            f"Webhook endpoint {endpoint.pk} of tenant {slug}. Its secret follows. Keep it: it cannot be shown again."
        )
        self.stderr.write(f"Next: manage.py test_webhook {endpoint.pk}")
        self.stdout.write(secret)
