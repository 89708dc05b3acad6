"""Short-lived links to artifacts, the same for all that ask within one signing window."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages

from jobs.artifacts.objects import ObjectMetadata, StoredObject
from jobs.artifacts.storage_keys import check_storage_key

MAX_TTL_SECONDS = 7 * 24 * 3600  # S3 honours no presigned URL that lives longer


class CannotSign(ImproperlyConfigured):
    """There are no credentials to sign links with, or those there were have expired."""


class Links:
    """What turns storage keys into links, for one signing window.

    ``window`` is opaque and changes exactly when the links do; ``expires_at`` is in seconds since 1970.
    """

    __slots__ = ("_sign", "expires_at", "window")

    def __init__(self, sign: Callable[[str], str], expires_at: int) -> None:
        self._sign = sign
        self.expires_at = expires_at
        self.window = hashlib.sha256(sign("window").encode()).hexdigest()[:16]

    def url(self, storage_key: str) -> str:
        """A GET link to one artifact; it has at least two thirds of ``PRESIGN_TTL_SECONDS`` to live.

        ``storage_key`` is a path in the artifact store ("tenants/acme/01JA/front.png"), never a URL. Signing is local,
        about 4 µs: no request is made, so a link to a deleted object still signs and answers 404 at the store.
        Raises ValueError for a key that cannot be signed: empty, ``.`` or ``..`` as a segment, a leading slash, NUL.
        """
        check_storage_key(storage_key, "")
        return self._sign(storage_key)


class ArtifactStore(Protocol):
    """What the storage behind ``STORAGES["artifacts"]`` offers besides Django's own."""

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The URLs it is reached by, as :class:`jobs.artifacts.redaction.Redactor` takes them."""

    def links(self, base_url: str) -> Links:
        """Links of the current window. Raises CannotSign."""

    def probe(self) -> None:
        """Asks the store for an answer; raises any exception where a link that is made now would lead nowhere."""

    def below(self, prefix: str) -> Iterator[list[Any]]:
        """Everything under ``prefix`` ("tenants/acme/", never empty), up to a thousand at a time, old versions too."""

    def remove(self, some: list[Any]) -> None:
        """Removes what :meth:`below` found, for good. Raises OSError or what the network raises."""

    def walk(self, prefix: str, after: str) -> Iterator[StoredObject]:
        """All objects under ``prefix`` behind the key ``after`` ("" for the first), in the order of their keys' bytes.

        Some servers that speak S3 sort by folder instead, so that "a/1" comes before "a-b/1".
        """

    def holds(self, storage_key: str) -> bool:
        """Whether there is such an object, now."""

    def describe(self, found: StoredObject) -> ObjectMetadata:
        """Reads as little of the object as tells what it is. Raises FileNotFoundError where it has gone meanwhile."""

    def remove_keys(self, storage_keys: list[str]) -> None:
        """Removes a thousand objects at most; one that is not there is no error. Old versions stay."""


def artifact_store() -> ArtifactStore:
    return cast(ArtifactStore, storages["artifacts"])


def links(base_url: str) -> Links:
    """Links for an answer to a request that came to ``base_url`` ("https://jobs.example.com"). Raises CannotSign."""
    return artifact_store().links(base_url)


def signing_times(now: float, ttl_seconds: int) -> tuple[int, int]:
    """When links that are handed out ``now`` count as signed and when they stop, in whole seconds since 1970.

    Both stay the same through a window of a third of the lifetime, and at every moment of it at least two thirds are
    left. S3 counts in whole seconds, so links meant for 1 or 2 seconds may live up to two thirds of one longer.
    """
    ttl_seconds = min(ttl_seconds, MAX_TTL_SECONDS)
    window = max(1, ttl_seconds // 3)
    signed_at = int(now) // window * window
    return signed_at, max(signed_at + ttl_seconds, math.ceil(now + ttl_seconds * 2 / 3))
