"""``manage.py create_tenant``."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tenants.models import Tenant


class Command(BaseCommand):
    help = "Creates a tenant: a customer with its own jobs, tokens and folder of pictures."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        example = f"Example: manage.py {subcommand} acme --name Acme --shop acme.myshopify.com"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="Letters, digits, - and _; names the tenant everywhere.")
        parser.add_argument("--name", default="", help="Its name for people.")
        parser.add_argument("--shop", metavar="DOMAIN", help="The shop whose session tokens are this tenant's.")
        parser.add_argument(
            "--storage-prefix",
            metavar="P",
            help="The folder of its pictures in the artifact store, with a / at the end; tenants/SLUG/ unless given. "
            "'' switches the check off that pictures lie in it.",
        )

    def handle(self, *, slug: str, name: str, shop: str | None, storage_prefix: str | None, **options: Any) -> None:
        tenant = Tenant(slug=slug, name=name, shop_domain=shop or None)
        if storage_prefix is not None:
            tenant.storage_prefix = storage_prefix
        try:
            tenant.full_clean()
        except ValidationError as error:
            problems = [f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()]
            raise CommandError("No tenant was created. " + " ".join(problems)) from error
        tenant.save()
        self.stdout.write(f"Created tenant {slug}, with its pictures under “{tenant.storage_prefix}”.")
        self.stdout.write(f"Next: manage.py issue_token {slug}")
