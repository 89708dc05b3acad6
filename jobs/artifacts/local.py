"""Artifacts in a local folder, behind signed URLs that expire and that the gateway serves itself."""

from __future__ import annotations

import hashlib
import hmac
import mimetypes
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from django.core.files.storage import FileSystemStorage
from django.core.signing import b64_encode
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.deconstruct import deconstructible

from jobs.artifacts.objects import ObjectMetadata, StoredObject, image_size
from jobs.artifacts.signing import LinkSigner, signing_times
from tenants.fast_settings import settings

_QUERY = re.compile(r"expires=([1-9][0-9]{0,11})&signature=([A-Za-z0-9_-]{43})")


class LocalSigner:
    """Signs URLs below ``root`` ("https://jobs.example.com/artifacts/") with one expiry and one secret."""

    __slots__ = ("_expires_at", "_key", "_root")

    def __init__(self, root: str, secret: str, expires_at: int) -> None:
        self._root = root
        self._expires_at = expires_at
        self._key = salted_hmac("jobs.artifacts.local", str(expires_at), secret, algorithm="sha256").digest()

    def signature(self, storage_key: str) -> str:
        return b64_encode(hmac.digest(self._key, storage_key.encode(errors="surrogatepass"), "sha256")).decode()

    def url(self, storage_key: str) -> str:
        path = quote(storage_key, safe="/~")
        return f"{self._root}{path}?expires={self._expires_at}&signature={self.signature(storage_key)}"


def verified_expiry(storage_key: str, query: str) -> int | None:
    """When a URL with this key and query string expires, in seconds since 1970; None if the signature is not valid.

    Signatures made with ``SECRET_KEY_FALLBACKS`` are valid too. The query must be exactly as it was signed: same
    order, same spelling, no other parameter.
    """
    match = _QUERY.fullmatch(query)
    if match is None:
        return None
    expires_at, signature = int(match[1]), match[2]
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        if constant_time_compare(LocalSigner("", secret, expires_at).signature(storage_key), signature):
            return expires_at
    return None


@lru_cache(maxsize=64)
def _links(root: str, secret: str, expires_at: int) -> LinkSigner:
    return LinkSigner(LocalSigner(root, secret, expires_at).url, expires_at)


@deconstructible(path="jobs.artifacts.local.SignedFileSystemStorage")
class SignedFileSystemStorage(FileSystemStorage):
    """The default artifact store: a folder, with no server to install or start."""

    base_urls: tuple[str, ...] = ()  # only the gateway's own URLs, which redactor() adds
    _probed = False

    def links(self, base_url: str) -> LinkSigner:
        """The signer of the current window, below ``PUBLIC_BASE_URL`` or ``base_url``; 2 µs."""
        _, expires_at = signing_times(time.time(), settings.PRESIGN_TTL_SECONDS)
        return _links(f"{settings.PUBLIC_BASE_URL or base_url.rstrip('/')}/artifacts/", settings.SECRET_KEY, expires_at)

    def url(self, name: str | None) -> str:
        """The URL as in an API response, but without scheme and host if ``PUBLIC_BASE_URL`` is not set."""
        return self.links("").url(name or "")

    def probe(self) -> None:
        """Raises OSError if the folder is missing or cannot be read.

        The first call of a process creates it. A folder that is missing later is a disk that is not mounted.
        """
        if not self._probed:
            Path(self.location).mkdir(parents=True, exist_ok=True)
            self._probed = True
        os.scandir(self.location).close()

    def list_versions(self, prefix: str) -> Iterator[list[Path]]:
        """Raises OSError if the folder is a symbolic link, if a folder cannot be read, or if the store's is missing."""
        root = Path(os.path.realpath(self.location))
        folder = root / prefix
        if not prefix or Path(os.path.realpath(folder)) != folder:
            raise OSError(f"“{prefix}” is no folder of the artifact store")
        os.scandir(self.location).close()  # a disk that is not mounted has no files, and all of them may be there
        files = (
            Path(path, name)
            for path, folders, names in os.walk(folder, onerror=_unless_missing)
            for name in names + [each for each in folders if Path(path, each).is_symlink()]  # not followed
        )
        while some := list(islice(files, 1000)):
            yield some

    def delete_versions(self, some: list[Path]) -> None:
        for path in some:
            path.unlink(missing_ok=True)
        # Empty folders are deleted too: their names identify the tenant.
        for folder in sorted({parent for path in some for parent in path.parents}, reverse=True):
            if Path(os.path.realpath(self.location)) in folder.parents:
                with suppress(OSError):
                    folder.rmdir()

    def list_objects(self, prefix: str, after: str) -> Iterator[StoredObject]:
        """Holds the names of one folder a level in memory. Only regular files are objects."""
        return _list_objects(Path(self.location) / prefix, prefix, after)

    def object_exists(self, storage_key: str) -> bool:
        return os.path.isfile(self._path_of(storage_key))  # noqa: PTH113 - Path would normalise the key

    def read_metadata(self, found: StoredObject) -> ObjectMetadata:
        """Reads the whole file once, for its checksum."""
        with open(self._path_of(found.storage_key), "rb") as file:  # noqa: PTH123
            content_type = mimetypes.guess_type(found.storage_key)[0] or "application/octet-stream"
            checksum = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            size = file.tell()
            file.seek(0)
            return ObjectMetadata(size, content_type, checksum, *image_size(file))

    def delete_objects(self, storage_keys: list[str]) -> None:
        """Skips keys that lead to the file of another key, through a symbolic link or another spelling."""
        root = os.path.realpath(self.location)
        paths = [os.path.join(root, each) for each in storage_keys]  # noqa: PTH118
        self.delete_versions([Path(each) for each in paths if os.path.realpath(each) == each])

    def _path_of(self, storage_key: str) -> str:
        return os.path.join(self.location, storage_key)  # noqa: PTH118


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # no file of the tenant's yet, or a folder that was removed meanwhile
        raise error


def _list_objects(folder: Path, prefix: str, after: str) -> Iterator[StoredObject]:
    names = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        # Keys are sorted, so a folder sorts by its name with the slash.
        names = [f"{each.name}/" if each.is_dir(follow_symlinks=False) else each.name for each in entries]
    for name in sorted(names, key=os.fsencode):
        key = prefix + name
        if name.endswith("/"):
            if os.fsencode(key) > os.fsencode(after) or after.startswith(key):
                yield from _list_objects(folder / name, key, after)
        elif os.fsencode(key) > os.fsencode(after):
            try:
                found = (folder / name).lstat()
            except FileNotFoundError:  # it was removed or renamed meanwhile
                continue
            if stat.S_ISREG(found.st_mode):
                yield StoredObject(key, found.st_size, None)
