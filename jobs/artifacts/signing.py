"""Presigned URLs of artifacts: short-lived, and the same for every request within one signing window."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages

from jobs.artifacts.objects import ObjectMetadata, StoredObject
from jobs.artifacts.storage_keys import check_storage_key

MAX_TTL_SECONDS = 7 * 24 * 3600  # S3 honours no presigned URL that lives longer


class CannotSign(ImproperlyConfigured):
    """No credentials to sign URLs with, or they have expired."""


class LinkSigner:
    """Turns storage keys into presigned URLs, for one signing window.

    ``window`` is opaque and changes exactly when the URLs do. ``expires_at`` is in seconds since 1970.
    """

    __slots__ = ("_sign", "expires_at", "window")

    def __init__(self, sign: Callable[[str], str], expires_at: int) -> None:
        self._sign = sign
        self.expires_at = expires_at
        self.window = hashlib.sha256(sign("window").encode()).hexdigest()[:16]

    def url(self, storage_key: str) -> str:
        """A presigned GET URL of one artifact; it has at least two thirds of ``PRESIGN_TTL_SECONDS`` to live.

        ``storage_key`` is a path in the artifact store ("tenants/acme/01JA/front.png"), never a URL. Signing is local,
        about 4 µs: no request is made, so the URL of a deleted object can be signed too, and is 404 at the store.
        Raises ValueError for a key that cannot be signed: empty, ``.`` or ``..`` as a segment, a leading slash, NUL.
        """
        check_storage_key(storage_key, "")
        return self._sign(storage_key)


class ArtifactStore(Protocol):
    """The methods of the storage ``STORAGES["artifacts"]`` beside those of Django's storages."""

    @property
    def base_urls(self) -> tuple[str, ...]:
        """URLs of the store, in the form that :class:`jobs.artifacts.redaction.Redactor` takes."""

    def links(self, base_url: str) -> LinkSigner:
        """The signer of the current window, for a request to the origin ``base_url``. Raises CannotSign."""

    def probe(self) -> None:
        """Sends the store one request. Raises any exception if a URL that is signed now would not work."""

    def list_versions(self, prefix: str) -> Iterator[list[Any]]:
        """All objects under ``prefix`` ("tenants/acme/", never empty), old versions too, at most 1,000 at a time."""

    def delete_versions(self, some: list[Any]) -> None:
        """Deletes items of :meth:`list_versions` for good. Raises OSError, or a network error."""

    def list_objects(self, prefix: str, after: str) -> Iterator[StoredObject]:
        """All objects under ``prefix`` whose key follows ``after`` ("" for all), sorted by the bytes of their keys.

        Some S3 servers sort by folder instead: "a/1" comes before "a-b/1".
        """

    def object_exists(self, storage_key: str) -> bool:
        """Whether the store has this object now."""

    def read_metadata(self, found: StoredObject) -> ObjectMetadata:
        """Reads only the part of the object that it needs. Raises FileNotFoundError if the object was deleted."""

    def delete_objects(self, storage_keys: list[str]) -> None:
        """Deletes at most 1,000 objects; missing ones are no error. Old versions stay."""


def artifact_store() -> ArtifactStore:
    return cast(ArtifactStore, storages["artifacts"])


def links(base_url: str) -> LinkSigner:
    """The signer for the response to a request to ``base_url`` ("https://jobs.example.com"). Raises CannotSign."""
    return artifact_store().links(base_url)


def make_ready() -> None:
    """Loads what signing needs, for half a second, so that no request waits for it: credentials, botocore's S3.

    Without credentials nothing is raised: they may come later.
    """
    store = artifact_store()
    with suppress(CannotSign):
        store.links("https://localhost")
    _ = store.base_urls


def signing_times(now: float, ttl_seconds: int) -> tuple[int, int]:
    """The signing time and the expiry of URLs that are made ``now``, in whole seconds since 1970.

    Both are constant for a window of a third of the lifetime, and at least two thirds of the lifetime are always left.
    S3 counts whole seconds, so URLs with a lifetime of 1 or 2 seconds may live up to two thirds of a second longer.
    """
    ttl_seconds = min(ttl_seconds, MAX_TTL_SECONDS)
    window = max(1, ttl_seconds // 3)
    signed_at = int(now) // window * window
    return signed_at, max(signed_at + ttl_seconds, math.ceil(now + ttl_seconds * 2 / 3))
