"""Renders stored values for one tenant: strings are redacted, storage keys become presigned URLs (CONTRACT section 5).

Nothing else signs a URL or redacts a string of an API response.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any

from django.http import HttpRequest
from django.utils.functional import cached_property
from prometheus_client import Counter

from jobs.artifacts.redaction import Redactor, redactor
from jobs.artifacts.signing import artifact_store, links
from jobs.artifacts.storage_keys import check_storage_key
from jobs.database.artifacts import ArtifactRow
from tenants.callers import Caller
from tenants.fast_settings import settings

logger = logging.getLogger("jobs.artifacts")

_storage_key = itemgetter(ArtifactRow._fields.index("storage_key"))


@cache  # created on first use: only processes that sign URLs export it
def _presigned() -> Counter:
    return Counter("gateway_presigned_links", "Presigned URLs of artifacts in responses.")


@cache
def _omitted() -> Counter:
    return Counter(
        "gateway_omitted_artifacts",
        "Artifacts left out of responses: storage keys outside the tenant's prefix, or that cannot be signed.",
    )


@dataclass(slots=True)
class Tally:
    """Artifacts that a renderer, and those it made for documents, have rendered or left out."""

    presigned: int = 0
    omitted: int = 0


def count_presigned(number: int) -> None:
    """So many presigned URLs are in a response."""
    _presigned().inc(number)


class TenantRenderer:
    """Renders the response to one request of one tenant, or a webhook, which no request has asked for.

    ``asked_at`` is the origin that the request came to ("https://jobs.example.com"), ``base_url`` the one that links
    start with. Without a request the origin is given in its place. Raises CannotSign and DisallowedHost.
    """

    def __init__(self, request: HttpRequest | str, caller: Caller) -> None:
        self.asked_at = asked_at = request if isinstance(request, str) else f"{request.scheme}://{request.get_host()}"
        self.base_url = settings.PUBLIC_BASE_URL or asked_at
        self.links = links(self.base_url)
        self._caller = caller
        # By storage key, None for those left out: the final artifacts of a job are often those of its last event too.
        self._urls: dict[str, str | None] = {}
        self._logged: set[str] = set()
        self.tally = Tally()

    @cached_property
    def fingerprint(self) -> tuple[object, ...]:
        """Everything besides the rows that a response depends on. Two requests that are rendered alike have the same
        value.

        ``links.window`` changes with the signing window and with the credentials, their expiry included.
        """
        prefix = self._caller.storage_prefix
        return self.asked_at, self.base_url, self.links.window, prefix, artifact_store().base_urls

    # Made at its first use: an answer without a body redacts nothing.
    @cached_property
    def _redactor(self) -> Redactor:
        return redactor(self._caller.storage_prefix, self.asked_at)

    @cached_property
    def redact_text(self) -> Callable[[str], str]:
        return self._redactor.redact_text

    @cached_property
    def redact_value(self) -> Callable[[Any], Any]:
        return self._redactor.redact_value

    def for_document(self, document: str, artifacts: list[list[Any]]) -> TenantRenderer:
        """A renderer of the strings of ``document``, a JSON text that has ``artifacts``, each an ArtifactRow.

        It does not check the strings one by one if one search of the whole text shows that none of them refers to the
        store, as is the case for most documents.
        """
        if not self._redactor.is_clean(document, [*map(_storage_key, artifacts)]):
            return self
        renderer = object.__new__(TenantRenderer)
        unchanged = dict.fromkeys(("redact_text", "redact_optional_text", "redact_value"), _unchanged)
        renderer.__dict__ = self.__dict__ | unchanged
        return renderer

    def redact_optional_text(self, text: str | None) -> str | None:
        return None if text is None else self.redact_text(text)

    def artifact_responses(self, rows: list[list[Any]]) -> list[dict[str, Any]]:
        """``ArtifactResponse`` for each of ``rows``, which are ArtifactRows.

        A row whose key lies outside the tenant's prefix, or cannot be signed, is left out, logged and counted.
        """
        if not rows:
            return []
        url, text, value, optional_text = self._url, self.redact_text, self.redact_value, self.redact_optional_text
        responses = [
            {
                "image_url": image_url,
                "kind": text(artifact.kind),
                "role": artifact.role,
                "label": optional_text(artifact.label),
                "meta": value(artifact.meta),
            }
            for artifact in map(ArtifactRow._make, rows)
            if (image_url := url(artifact.storage_key)) is not None
        ]
        count_presigned(len(responses))
        self.tally.presigned += len(responses)
        if len(responses) < len(rows):
            _omitted().inc(len(rows) - len(responses))
            self.tally.omitted += len(rows) - len(responses)
        return responses

    def presigned_url(self, storage_key: str) -> str:
        """Raises ValueError for a key that lies outside the tenant's prefix or cannot be signed."""
        check_storage_key(storage_key, self._caller.storage_prefix)
        return self.links.url(storage_key)

    def _url(self, storage_key: str) -> str | None:
        urls = self._urls
        if storage_key not in urls:
            try:
                urls[storage_key] = self.presigned_url(storage_key)
            except ValueError as error:
                urls[storage_key] = None
                self._log_once(str(error))
        return urls[storage_key]

    def _log_once(self, reason: str) -> None:
        """Logs each reason once a request, because a page may have a thousand such artifacts. No reason contains the
        key."""
        if reason not in self._logged:
            self._logged.add(reason)
            logger.error("Artifacts of tenant %s were left out of a response. %s", self._caller.slug, reason)


def _unchanged(value: Any) -> Any:
    return value
