"""``manage.py create_tenant``."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from tenants.acts import command_acted
from tenants.models import Tenant


class Command(BaseCommand):
    help = "Creates a tenant: a customer with its own jobs, tokens and artifacts."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        example = f"Example: manage.py {subcommand} acme --name Acme --shop acme.myshopify.com"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "slug",
            metavar="SLUG",
            help="The name of the tenant in commands, records and storage keys: letters, digits, - and _.",
        )
        parser.add_argument("--name", default="", help="The name that the support console shows.")
        parser.add_argument(
            "--shop", metavar="DOMAIN", help="The tenant's Shopify shop. Session tokens of this shop are accepted."
        )
        parser.add_argument(
            "--storage-prefix",
            metavar="PREFIX",
            help="The folder of the tenant's artifacts in the artifact store, with a / at the end. "
            "Default: tenants/SLUG/. An empty one ('') turns off the check that artifacts are in the folder.",
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
        with transaction.atomic():
            tenant.save()
            command = f"create_tenant {slug}"
            command_acted.send(Command, action="tenant_added", tenant=tenant, subject="", command=command)
        self.stdout.write(f"Created tenant {slug}. The prefix of its artifacts is “{tenant.storage_prefix}”.")
        self.stdout.write(f"Next: manage.py issue_token {slug}")
