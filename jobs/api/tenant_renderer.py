"""Where an answer leaves for a tenant: free-form fields are redacted, storage keys become short-lived links."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from prometheus_client import Counter

from jobs.artifacts.redaction import redactor
from jobs.artifacts.signing import artifact_store, links
from tenants.callers import Caller


@cache  # made by the first link, so that processes which make none share none
def _presigned() -> Counter:
    return Counter("gateway_presigned_links", "Links to pictures that were handed out.")


class Boundary:
    """The way out for one request of one tenant."""

    def __init__(self, request: HttpRequest, caller: Caller) -> None:
        self._asked_at = f"{request.scheme}://{request.get_host()}"
        self._storage_prefix = caller.storage_prefix
        self.base_url = settings.PUBLIC_BASE_URL or self._asked_at
        self.links = links(self.base_url)
        self._redactor = redactor(caller.storage_prefix, self._asked_at)
        self.text = self._redactor.text
        self.value = self._redactor.value
        self._urls: dict[str, str] = {}  # the final artifacts of a job are those of its last event too

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """All that an answer depends on beside the rows it shows: equal for two requests that are rendered alike.

        ``links.window`` changes with the signing window and with the credentials, their expiry included.
        """
        return (self._asked_at, self.base_url, self.links.window, self._storage_prefix, artifact_store().store_bases)

    def of(self, document: str, artifacts: list[list[Any]]) -> Boundary:
        """The way out for the strings of ``document``, a JSON text, whose ``artifacts`` are rows of it.

        Mostly nothing else in it can be a reference, as one look at the text tells: then none is looked at by itself.
        """
        if not self._redactor.finds_nothing(document, apart_from=[row[0] for row in artifacts]):
            return self
        clear = object.__new__(Boundary)
        clear.__dict__ = self.__dict__ | {"text": _as_it_is, "optional_text": _as_it_is, "value": _as_it_is}
        return clear

    def optional_text(self, text: str | None) -> str | None:
        return None if text is None else self.text(text)

    def artifacts(self, rows: list[list[Any]]) -> list[dict[str, Any]]:
        """``ArtifactResponse`` for each row, an ``ArtifactRow``."""
        if rows:
            _presigned().inc(len(rows))
        url, text, value, optional_text = self._url, self.text, self.value, self.optional_text
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

    def _url(self, storage_key: str) -> str:
        url = self._urls.get(storage_key)
        if url is None:
            url = self._urls[storage_key] = self.links.url(storage_key)
        return url


def _as_it_is(value: Any) -> Any:
    return value
