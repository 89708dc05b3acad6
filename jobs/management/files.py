"""Files of lines, gzip by name, - for the standard streams, and s3://bucket/prefix for all files below it."""

from __future__ import annotations

import gzip
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from django.conf import settings

from jobs.artifacts.s3 import SignedS3Storage
from jobs.management.stopping import POLL_SECONDS, Stop

FLUSH_SECONDS = 0.5  # with --follow: what has come is loaded that soon, also where more keeps coming
CHUNK_BYTES = 2**16
BUCKET = "s3://"


class Source:
    """The lines of a file as they are, newline included; they end early where a stop is requested.

    With ``follow`` an empty line says that what has come should not wait for more.
    """

    def __init__(self, raw: IO[bytes], lines: Iterable[bytes], size: int | None, stop: Stop) -> None:
        self.raw = raw
        self.lines = lines
        self.size = size  # bytes, as they lie in the file; None for a pipe
        self.stop = stop
        self.is_complete = False

    @classmethod
    @contextmanager
    def opened(cls, name: str, stop: Stop, follow: bool = False) -> Iterator[Source]:
        if name == "-":
            yield cls(sys.stdin.buffer, arriving(sys.stdin.fileno(), stop, follow), None, stop)
            return
        with Path(name).open("rb") as raw, cls.of(raw, name, os.fstat(raw.fileno()).st_size, stop) as source:
            yield source

    @classmethod
    @contextmanager
    def of(cls, raw: IO[bytes], name: str, size: int, stop: Stop) -> Iterator[Source]:
        if not name.endswith(".gz"):
            yield cls(raw, raw, size or None, stop)
        else:
            with gzip.open(raw) as lines:
                yield cls(raw, lines, size or None, stop)

    @property
    def position(self) -> int:
        """Bytes of the file that have been read: the reader is ahead of what is loaded."""
        return self.raw.tell() if self.size else 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self.lines:
            if self.stop.requested:
                return
            yield line
        self.is_complete = not self.stop.requested


class Inputs:
    """What a name stands for: a file, standard input, or all objects of a bucket under a prefix, in key order."""

    def __init__(self, name: str, stop: Stop, follow: bool = False) -> None:
        self.name = name
        self.stop = stop
        self.follow = follow
        self.is_bucket = is_bucket(name)
        if self.is_bucket:
            bucket, _, prefix = name.removeprefix(BUCKET).partition("/")
            self.store = bucket_named(bucket)
            # By key whatever the server's own order, so that a later run goes on where this one was.
            self.objects = sorted(self.store.list_objects(prefix, ""))

    def each(self, begin: str = "") -> Iterator[tuple[str, int, AbstractContextManager[Source]]]:
        """From ``begin`` on: the name of each, the bytes of those before it, and its lines once entered."""
        if not self.is_bucket:
            yield self.name, 0, Source.opened(self.name, self.stop, self.follow)
            return
        before = 0
        for found in self.objects:
            if found.storage_key >= begin:
                raw = self.store.open_object(found)
                yield found.storage_key, before, Source.of(raw, found.storage_key, found.size, self.stop)
            before += found.size

    @property
    def size(self) -> int | None:
        """Bytes in all; None of a pipe."""
        if self.is_bucket:
            return sum(found.size for found in self.objects)
        return None if self.name == "-" else Path(self.name).stat().st_size or None


def is_bucket(name: str) -> bool:
    return name.startswith(BUCKET)


def bucket_named(name: str) -> SignedS3Storage:
    """A bucket, reached as the artifact store is where that is one too, else as boto3 is set up."""
    artifacts = settings.STORAGES["artifacts"]
    shared = artifacts["OPTIONS"] if artifacts["BACKEND"] == "jobs.artifacts.s3.SignedS3Storage" else {}
    return SignedS3Storage(**shared | {"bucket_name": name})


def arriving(descriptor: int, stop: Stop, follow: bool) -> Iterator[bytes]:
    """The lines of a pipe, which may be silent for long: waited for in steps, so that a stop is noticed."""
    unfinished, due = b"", 0.0
    while not stop.requested:
        is_silent = not select.select([descriptor], [], [], POLL_SECONDS)[0]
        if follow and (is_silent or time.monotonic() >= due):
            yield b""
            due = time.monotonic() + FLUSH_SECONDS
        if is_silent:
            continue
        chunk = os.read(descriptor, CHUNK_BYTES)
        *lines, unfinished = (unfinished + chunk).split(b"\n") if b"\n" in chunk else [unfinished + chunk]
        for line in lines:
            yield line + b"\n"
        if not chunk:
            if unfinished:
                yield unfinished
            return


class Sink:
    """A file that grows by whole batches: each is a member of its own where the file is gzip.

    Gzip leaves its time out, so that the same lines in the same batches are the same file.
    """

    def __init__(self, raw: IO[bytes], compress: bool) -> None:
        self.raw = raw
        self.compress = compress

    @classmethod
    @contextmanager
    def opened(cls, name: str, append: bool = False, size: int | None = None) -> Iterator[Sink]:
        """``size`` is what the file had when all was well; what a run that was killed wrote after that goes."""
        if name == "-":
            yield cls(sys.stdout.buffer, compress=False)
            return
        with Path(name).open("ab" if append else "wb") as raw:
            if size is not None:
                raw.truncate(size)
            yield cls(raw, name.endswith(".gz"))

    def write(self, lines: Iterable[bytes]) -> int | None:
        """The size of the file with them; None of a pipe."""
        batch = b"".join(lines)
        self.raw.write(gzip.compress(batch, compresslevel=6, mtime=0) if self.compress else batch)
        self.raw.flush()
        return self.raw.tell() if self.raw.seekable() else None

    def sync(self) -> None:
        """Returns when what was written would outlive a crash of the machine; a pipe gives no such promise."""
        if self.raw.seekable():
            os.fsync(self.raw.fileno())
