"""``manage.py list_webhooks``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.webhooks.models import Endpoint
from tenants.models import Tenant


class Command(BaseCommand):
    help = "Lists the webhook endpoints: number, tenant, state, event types and URL, with a tab between them."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=f"Example: manage.py {subcommand} acme", **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", nargs="?", help="Only the endpoints of this tenant.")

    def handle(self, *, slug: str | None, **options: Any) -> None:
        rows = Endpoint.objects.select_related("tenant")
        if slug is not None:
            if not Tenant.objects.filter(slug=slug).exists():
                raise CommandError(f"No tenant “{slug}”.")
            rows = rows.filter(tenant__slug=slug)
        for row in rows:
            types = ",".join(row.event_types) or "all"
            self.stdout.write("\t".join([str(row.pk), row.tenant.slug, row.state, types, row.url]))
