"""What the commands of webhooks share."""

from __future__ import annotations

from django.core.management.base import CommandError, CommandParser

from jobs.management.arguments import at_least
from jobs.webhooks.models import Endpoint


def add_endpoint_argument(parser: CommandParser) -> None:
    parser.add_argument(
        "endpoint", metavar="ENDPOINT", type=at_least(1), help="The number of the endpoint, as list_webhooks prints it."
    )


def endpoint_of(number: int) -> Endpoint:
    """Raises CommandError."""
    try:
        return Endpoint.objects.select_related("tenant").get(pk=number)
    except Endpoint.DoesNotExist as error:
        raise CommandError(f"No webhook endpoint {number}. manage.py list_webhooks lists them.") from error
