"""Where an answer leaves for a tenant: free-form fields are redacted, storage keys become short-lived links."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from prometheus_client import Counter

from jobs.egress.redaction import redactor
from jobs.egress.signing import links
from tenants.callers import Caller


@cache  # made by the first link, so that processes which make none share none
def _presigned() -> Counter:
    return Counter("gateway_presigned_links", "Links to pictures that were handed out.")


class Boundary:
    """The way out for one request of one tenant."""

    def __init__(self, request: HttpRequest, caller: Caller) -> None:
        asked_at = f"{request.scheme}://{request.get_host()}"
        self.base_url = settings.PUBLIC_BASE_URL or asked_at
        self.links = links(self.base_url)
        redact = redactor(caller.storage_prefix, asked_at)
        self.text = redact.text
        self.value = redact.value

    def optional_text(self, text: str | None) -> str | None:
        return None if text is None else self.text(text)

    def artifacts(self, rows: list[list[Any]]) -> list[dict[str, Any]]:
        """``ArtifactResponse`` for each row of ``ARTIFACT_COLUMNS``."""
        if rows:
            _presigned().inc(len(rows))
        url, text, value, optional_text = self.links.url, self.text, self.value, self.optional_text
        return [
            {
                "image_url": url(storage_key),
                "kind": text(kind),
                "role": role,
                "label": optional_text(label),
                "meta": value(meta),
            }
            for storage_key, kind, role, label, meta in rows
        ]
