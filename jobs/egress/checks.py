"""System checks of the settings that say how artifacts leave."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks

from jobs.egress.signing import MAX_TTL_SECONDS


@checks.register
def check_link_lifetime(**_: Any) -> list[checks.CheckMessage]:
    if 1 <= settings.PRESIGN_TTL_SECONDS <= MAX_TTL_SECONDS:
        return []
    return [
        checks.Error(
            f"PRESIGN_TTL_SECONDS is {settings.PRESIGN_TTL_SECONDS}; it may be 1 to {MAX_TTL_SECONDS}, a week.",
            hint="S3 honours no presigned link that lives longer than a week.",
            id="jobs.E001",
        )
    ]


@checks.register
def check_public_base_url(**_: Any) -> list[checks.CheckMessage]:
    base = urlsplit(settings.PUBLIC_BASE_URL)
    if not settings.PUBLIC_BASE_URL or (base.scheme in ("http", "https") and base.netloc and not base.query):
        return []
    return [
        checks.Error(
            f"PUBLIC_BASE_URL is {settings.PUBLIC_BASE_URL!r}, which is no address that links can start with.",
            hint="Write it with its scheme, such as https://jobs.example.com, or leave it out.",
            id="jobs.E002",
        )
    ]
