"""``manage.py issue_token``."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from tenants import tokens
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
    help = "Issues a token of a tenant and prints it, alone, as the last line of standard output. It is shown only now."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        example = f"Example: manage.py {subcommand} acme --label 'build server' --expires-in 90"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="The tenant the token will stand for.")
        parser.add_argument("--label", default="", help="Its purpose, so that you can find it again to revoke it.")
        parser.add_argument(
            "--expires-in",
            metavar="DAYS",
            type=in_days,
            dest="expires_at",
            help="Days from now until it expires; it never does unless given.",
        )

    def handle(self, *, slug: str, label: str, expires_at: datetime | None, **options: Any) -> None:
        try:
            tenant = Tenant.objects.get(slug=slug)
            token = tokens.issue(tenant, label, expires_at)
        except Tenant.DoesNotExist as error:
            raise CommandError(f"No tenant “{slug}”. Create it with: manage.py create_tenant {slug}") from error
        except ValidationError as error:
            raise CommandError(f"No token was issued. {' '.join(error.messages)}") from error
        until = f", valid until {expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else ""
        self.stderr.write(f"A token of tenant {slug}{until}. Keep it: it cannot be shown again.")
        if not tenant.is_active:
            self.stderr.write(f"Tenant {slug} is not active: the token opens nothing until it is.")
        self.stdout.write(token)
