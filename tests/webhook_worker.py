"""``deliver_webhooks`` with short times, as a process: ``python -m tests.webhook_worker``."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402

from jobs.webhooks import delivery, leases, sender, worker  # noqa: E402


def shorten() -> None:
    """Leases of 3 seconds, attempts of 1, and retries that are over in a few."""
    delivery.RETRY_SECONDS = (0.2, 0.4, 0.8, 1, 1, 1, 1, 1, 1)
    delivery.SLOW_SECONDS = 0.3
    delivery.LONGEST_PAUSE_SECONDS = 0.5
    delivery.PAUSE_AFTER_ERROR_SECONDS = worker.REFRESH_SECONDS = 0.2
    sender.ATTEMPT_SECONDS = 1.0
    sender.ANSWER_SECONDS = 0.2
    leases.LEASE_SECONDS = 3.0
    worker.RENEW_SECONDS = 0.4
    worker.MARGIN_SECONDS = 0.5


look_up = socket.getaddrinfo


def look_up_names(host: str, *args: Any, **options: Any) -> Any:
    """``silent….example`` has name servers that do not answer; every other name is this machine's."""
    if host.startswith("silent"):
        time.sleep(8)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")
    return look_up("127.0.0.1", *args, **options)


if __name__ == "__main__":
    shorten()
    if os.environ.get("NAMES"):
        setattr(socket, "getaddrinfo", look_up_names)  # noqa: B010 - mypy knows its signature
    call_command("deliver_webhooks")
