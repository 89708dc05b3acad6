"""System checks of the settings of webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core import checks


@checks.register
def check_allowed_networks(**_: Any) -> Iterator[checks.CheckMessage]:
    if any(not network.prefixlen for network in settings.WEBHOOK_ALLOWED_NETWORKS):
        yield checks.Error(
            "WEBHOOK_ALLOWED_NETWORKS holds every address there is, so an endpoint could be the gateway's own database "
            "or the machine's metadata service.",
            hint="Name the receivers' network, such as 10.1.0.0/16.",
            id="webhooks.E001",
        )


@checks.register
def check_bounds(**_: Any) -> Iterator[checks.CheckMessage]:
    for name in ("WEBHOOK_REQUESTS_PER_ENDPOINT", "WEBHOOK_REQUESTS_PER_WORKER"):
        if getattr(settings, name) < 1:
            yield checks.Error(
                f"{name} is {getattr(settings, name)}: no event would be delivered.",
                hint="Set it to 1 or more, or leave it out.",
                id="webhooks.E002",
            )
