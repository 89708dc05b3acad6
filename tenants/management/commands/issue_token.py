"""``manage.py issue_token``."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from tenants import tokens
from tenants.acts import command_acted
from tenants.models import Tenant


def in_days(text: str) -> datetime:
    """The time this many days from now."""
    try:
        days = int(text)
        expires_at = timezone.now() + timedelta(days=days)
    except (ValueError, OverflowError):
        days = 0
    if days < 1:
        raise ArgumentTypeError(f"“{text}” is not a number of days from 1 up")
    return expires_at


class Command(BaseCommand):
    help = (
        "Issues a token to a tenant and prints it as the last line of standard output. Only its hash is stored, so the "
        "token cannot be shown again."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        example = f"Example: manage.py {subcommand} acme --label 'build server' --expires-in 90"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="The tenant whose jobs the token gives access to.")
        parser.add_argument("--label", default="", help="A note on what the token is for. The console shows it.")
        parser.add_argument(
            "--expires-in",
            metavar="DAYS",
            type=in_days,
            dest="expires_at",
            help="Days until the token expires. Default: it does not expire.",
        )

    def handle(self, *, slug: str, label: str, expires_at: datetime | None, **options: Any) -> None:
        try:
            tenant = Tenant.objects.get(slug=slug)
            with transaction.atomic():
                token = tokens.issue(tenant, label, expires_at)
                prefix, command = token.split("_")[1], f"issue_token {slug}"
                command_acted.send(Command, action="token_issued", tenant=tenant, subject=prefix, command=command)
        except Tenant.DoesNotExist as error:
            raise CommandError(f"No tenant “{slug}”. Create it with: manage.py create_tenant {slug}") from error
        except ValidationError as error:
            raise CommandError(f"No token was issued. {' '.join(error.messages)}") from error
        until = f", valid until {expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else ""
        self.stderr.write(f"A token of tenant {slug}{until}. Keep it: it cannot be shown again.")
        if not tenant.is_active:
            self.stderr.write(f"Tenant {slug} is not active. The token is rejected until the tenant is active.")
        self.stdout.write(token)
