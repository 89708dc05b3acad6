"""Artifacts in a folder of this machine, behind signed, expiring links that the gateway answers itself."""

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

from django.conf import settings
from django.core.files.storage import FileSystemStorage
from django.core.signing import b64_encode
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.deconstruct import deconstructible

from jobs.artifacts.objects import Described, Found, pixels
from jobs.artifacts.signing import Links, signing_times

_QUERY = re.compile(r"expires=([1-9][0-9]{0,11})&signature=([A-Za-z0-9_-]{43})")


class LocalSigner:
    """Signs links below ``root`` ("https://jobs.example.com/artifacts/") that stop at one time, with one secret."""

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


def expiry_of_link(storage_key: str, query: str) -> int | None:
    """When a link with this key and query string stops, in seconds since 1970; None unless the gateway made it so.

    Also holds for links made with one of ``SECRET_KEY_FALLBACKS``. The query is taken as it was written: another
    order, another spelling or one parameter more, and it is not what was signed.
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
def _links(root: str, secret: str, expires_at: int) -> Links:
    return Links(LocalSigner(root, secret, expires_at).url, expires_at)


@deconstructible(path="jobs.artifacts.local.SignedFileSystemStorage")
class SignedFileSystemStorage(FileSystemStorage):
    """The embedded default's artifact store: a folder, and nothing else to install or start."""

    store_bases: tuple[str, ...] = ()  # reached under the gateway's own addresses only, which redaction knows
    _probed = False

    def links(self, base_url: str) -> Links:
        """Links of the current window below ``PUBLIC_BASE_URL``, else ``base_url``; 2 µs."""
        _, expires_at = signing_times(time.time(), settings.PRESIGN_TTL_SECONDS)
        return _links(f"{settings.PUBLIC_BASE_URL or base_url.rstrip('/')}/artifacts/", settings.SECRET_KEY, expires_at)

    def url(self, name: str | None) -> str:
        """The link as an API answer has it, from the root of the gateway where ``PUBLIC_BASE_URL`` is not set."""
        return self.links("").url(name or "")

    def probe(self) -> None:
        """Raises OSError where the folder is missing or may not be read.

        The first call of a process creates it. A folder that is missing later is a disk that is not mounted.
        """
        if not self._probed:
            Path(self.location).mkdir(parents=True, exist_ok=True)
            self._probed = True
        os.scandir(self.location).close()

    def below(self, prefix: str) -> Iterator[list[Path]]:
        """Raises OSError where the folder is a link to another."""
        root = Path(os.path.realpath(self.location))
        folder = root / prefix
        if not prefix or Path(os.path.realpath(folder)) != folder:
            raise OSError(f"“{prefix}” is no folder of the artifact store")
        files = (
            Path(path, name)
            for path, folders, names in os.walk(folder)
            for name in names + [each for each in folders if Path(path, each).is_symlink()]  # which are not followed
        )
        while some := list(islice(files, 1000)):
            yield some

    def remove(self, some: list[Path]) -> None:
        for path in some:
            path.unlink(missing_ok=True)
        # What is empty now goes too: its name says whose it was.
        for folder in sorted({parent for path in some for parent in path.parents}, reverse=True):
            if Path(os.path.realpath(self.location)) in folder.parents:
                with suppress(OSError):
                    folder.rmdir()

    def walk(self, prefix: str, after: str) -> Iterator[Found]:
        """One folder's names in memory at a time for each level; what is no regular file is none of its objects."""
        return _walk(Path(self.location) / prefix, prefix, after)

    def holds(self, storage_key: str) -> bool:
        return os.path.isfile(self._path_of(storage_key))  # noqa: PTH113 - a key is text; Path would tidy it

    def describe(self, found: Found) -> Described:
        """Reads all of it once, for its checksum."""
        with open(self._path_of(found.storage_key), "rb") as file:  # noqa: PTH123
            content_type = mimetypes.guess_type(found.storage_key)[0] or "application/octet-stream"
            checksum = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            size = file.tell()
            file.seek(0)
            return Described(size, content_type, checksum, *pixels(file))

    def remove_keys(self, storage_keys: list[str]) -> None:
        """Leaves alone what a link or a spelling leads to: the file of another key."""
        root = os.path.realpath(self.location)
        paths = [os.path.join(root, each) for each in storage_keys]  # noqa: PTH118
        self.remove([Path(each) for each in paths if os.path.realpath(each) == each])

    def _path_of(self, storage_key: str) -> str:
        return os.path.join(self.location, storage_key)  # noqa: PTH118


def _walk(folder: Path, prefix: str, after: str) -> Iterator[Found]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        # A folder sorts by what its keys begin with, slash included.
        names = [f"{each.name}/" if each.is_dir(follow_symlinks=False) else each.name for each in entries]
        for name in sorted(names, key=os.fsencode):
            key = prefix + name
            if not name.endswith("/"):
                if os.fsencode(key) > os.fsencode(after) and stat.S_ISREG((folder / name).lstat().st_mode):
                    yield Found(key, (folder / name).lstat().st_size, None)
            elif os.fsencode(key) > os.fsencode(after) or after.startswith(key):
                yield from _walk(folder / name, key, after)
