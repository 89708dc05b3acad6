"""System checks of the settings of the artifact store and its URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks

from jobs.artifacts.signing import MAX_TTL_SECONDS


@checks.register
def check_link_lifetime(**_: Any) -> list[checks.CheckMessage]:
    if 1 <= settings.PRESIGN_TTL_SECONDS <= MAX_TTL_SECONDS:
        return []
    return [
        checks.Error(
            f"PRESIGN_TTL_SECONDS is {settings.PRESIGN_TTL_SECONDS}; it may be 1 to {MAX_TTL_SECONDS}, a week.",
            hint="S3 rejects presigned URLs with a lifetime of more than a week.",
            id="jobs.E001",
        )
    ]


@checks.register
def check_store(**_: Any) -> Iterator[checks.CheckMessage]:
    options = settings.STORAGES["artifacts"]["OPTIONS"]
    endpoint = urlsplit(options.get("endpoint_url") or "https://s3.amazonaws.com")
    if endpoint.scheme not in ("http", "https") or not endpoint.netloc or endpoint.query or endpoint.username:
        yield checks.Error(
            f"AWS_S3_ENDPOINT_URL is {options['endpoint_url']!r}, which is not the URL of an S3 server.",
            hint="Write a URL such as https://s3.internal:8333, or leave it out for AWS. Credentials go "
            "into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            id="jobs.E003",
        )
    for setting, name, advice in (
        ("AWS_STORAGE_BUCKET_NAME", "bucket_name", "Write the bucket's name alone, such as studio-artifacts."),
        ("AWS_S3_REGION_NAME", "region_name", "Write a region such as eu-central-1, or leave it out for us-east-1."),
    ):
        if not re.fullmatch(r"[A-Za-z0-9._-]+", options.get(name, "x")):
            yield checks.Error(f"{setting} is {options[name]!r}.", hint=advice, id="jobs.E005")
    folder = options.get("location")
    if folder and Path(folder).exists() and not Path(folder).is_dir():
        yield checks.Error(
            f"ARTIFACTS_DIR is {folder!r}, which is not a folder.",
            hint="Write the path of a folder. It is created if it does not exist.",
            id="jobs.E006",
        )
    if options.get("addressing_style", "auto") not in ("path", "virtual", "auto"):
        yield checks.Error(
            f"AWS_S3_ADDRESSING_STYLE is {options['addressing_style']!r}.",
            hint="Write path (server/bucket/key), virtual (bucket.server/key) or auto.",
            id="jobs.E004",
        )


@checks.register
def check_public_base_url(**_: Any) -> list[checks.CheckMessage]:
    base = urlsplit(settings.PUBLIC_BASE_URL)
    if not settings.PUBLIC_BASE_URL or (base.scheme in ("http", "https") and base.netloc and not base.query):
        return []
    return [
        checks.Error(
            f"PUBLIC_BASE_URL is {settings.PUBLIC_BASE_URL!r}, which is not a URL that links can start with.",
            hint="Write a URL such as https://jobs.example.com, or leave it out.",
            id="jobs.E002",
        )
    ]
