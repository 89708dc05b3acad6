"""``manage.py revoke_token``."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from tenants import tokens
from tenants.acts import command_acted
from tenants.models import ApiToken, Tenant


class Command(BaseCommand):
    help = "Revokes a token. From then on the gateway rejects it. Revoking it again changes nothing."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        example = f"Example: manage.py {subcommand} jgw_4f7k2m9x0abc"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "prefix",
            metavar="PREFIX",
            help="The token up to its second _, such as jgw_4f7k2m9x0abc. The whole token works too.",
        )

    def handle(self, *, prefix: str, **options: Any) -> None:
        # A whole token is accepted too. The output never shows its secret.
        prefix = prefix.removeprefix("jgw_").partition("_")[0]
        try:
            with transaction.atomic():
                revoked_now = tokens.revoke(prefix)
                if revoked_now:
                    tenant = Tenant.objects.get(tokens__prefix=prefix)
                    command = f"revoke_token jgw_{prefix}"
                    command_acted.send(Command, action="token_revoked", tenant=tenant, subject=prefix, command=command)
        except ApiToken.DoesNotExist as error:
            raise CommandError(f"No token with the prefix jgw_{prefix}. Nothing was revoked.") from error
        if revoked_now:
            self.stdout.write(
                f"Revoked jgw_{prefix}. A running gateway refuses it within {settings.TOKEN_CACHE_SECONDS:g} s."
            )
        else:
            self.stdout.write(f"jgw_{prefix} was revoked before; nothing changed.")
