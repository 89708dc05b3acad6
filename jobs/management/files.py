"""Files of lines: gzip if the name ends with .gz, - for standard input and output, s3://bucket/prefix for objects."""

from __future__ import annotations

import gzip
import os
import select
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.management.base import CommandError

from jobs.artifacts.s3 import SignedS3Storage
from jobs.management.errors import READ_ERRORS, reading, writing
from jobs.management.stopping import POLL_SECONDS, Stop

FLUSH_SECONDS = 0.5  # with --follow: how long a line waits at most before it is loaded
CHUNK_BYTES = 2**16
BUCKET = "s3://"
STANDARD_OUTPUT = "standard output"


class Source:
    """The lines of a file, with their newlines. They end early after a stop or an error.

    With ``follow`` an empty line means: load the lines before it now.
    """

    def __init__(self, raw: IO[bytes], lines: Iterable[bytes], size: int | None, stop: Stop) -> None:
        self.raw = raw
        self.lines = lines
        self.size = size  # of the file, in bytes; None for a pipe
        self.stop = stop
        self.is_complete = False
        self.error: Exception | None = None  # why it could not be read to its end

    @classmethod
    @contextmanager
    def opened(cls, name: str, stop: Stop, follow: bool = False) -> Iterator[Source]:
        if name == "-":
            yield cls(sys.stdin.buffer, arriving(sys.stdin.fileno(), stop, follow), None, stop)
            return
        with reading(name):
            raw = Path(name).open("rb")  # noqa: SIM115 - closed below
        with raw, cls.of(raw, name, os.fstat(raw.fileno()).st_size, stop) as source:
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
        """Bytes of the file that were read. Some of them may not be loaded yet."""
        return self.raw.tell() if self.size else 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            for line in self.lines:
                if self.stop.requested:
                    return
                yield line
        except READ_ERRORS as error:
            self.error = error  # the lines before it are good, and are loaded
            return
        self.is_complete = not self.stop.requested


class Inputs:
    """The inputs that a name stands for: a file, standard input, or the objects under a prefix, in key order."""

    def __init__(self, name: str, stop: Stop, follow: bool = False) -> None:
        self.name = name
        self.stop = stop
        self.follow = follow
        self.is_bucket = is_bucket(name)
        if self.is_bucket:
            bucket, prefix = bucket_and_prefix(name)
            self.store = bucket_named(bucket)
            # Sorted here, because servers differ, so that a later run can resume.
            self.objects = sorted(self.store.list_objects(prefix, ""))

    def each(self, begin: str = "") -> Iterator[tuple[str, int, AbstractContextManager[Source]]]:
        """For each input from ``begin`` on: its name, the bytes of those before it, and a context with its lines."""
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
        """The total size in bytes; None for a pipe."""
        if self.is_bucket:
            return sum(found.size for found in self.objects)
        if self.name == "-":
            return None
        with reading(self.name):
            return Path(self.name).stat().st_size or None


def is_bucket(name: str) -> bool:
    return name.startswith(BUCKET)


def bucket_and_prefix(name: str) -> tuple[str, str]:
    """("archive", "2026/") of s3://archive/2026/."""
    bucket, _, prefix = name.removeprefix(BUCKET).partition("/")
    return bucket, prefix


def bucket_named(name: str) -> SignedS3Storage:
    """A bucket, with the settings of the artifact store if that is a bucket too, else with boto3's."""
    artifacts = settings.STORAGES["artifacts"]
    shared = artifacts["OPTIONS"] if artifacts["BACKEND"] == "jobs.artifacts.s3.SignedS3Storage" else {}
    return SignedS3Storage(**shared | {"bucket_name": name})


def arriving(descriptor: int, stop: Stop, follow: bool) -> Iterator[bytes]:
    """The lines of a pipe. It waits in short steps, so that a stop is noticed."""
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


def is_regular(raw: Any) -> bool:
    """Not a pipe or a device, which can be neither cut off nor synchronised."""
    return stat.S_ISREG(os.fstat(raw.fileno()).st_mode)


def sync(raw: Any) -> None:
    """Waits until what was written is on disk (fsync). Raises OSError."""
    if is_regular(raw):
        os.fsync(raw.fileno())


def cut_to(raw: Any, name: str, size: int | None) -> None:
    """Cuts off what a file has beyond ``size`` bytes, as a checkpoint says. Raises CommandError if it has less."""
    if size is None or not is_regular(raw):
        return
    with writing(name):
        found = os.fstat(raw.fileno()).st_size
        if found >= size:
            raw.truncate(size)
            raw.seek(size)
            return
    raise CommandError(
        f"{name} has {found:,} bytes, and the checkpoint was written when it had {size:,}. It is not the file of that "
        "run any more: remove the checkpoint, and begin anew."
    )


def write_all(raw: Any, data: bytes) -> None:
    """Raises OSError. One call of ``write`` may take a part, and says so, as where a disk becomes full."""
    rest = memoryview(data)
    while rest:
        rest = rest[raw.write(rest) :]
    raw.flush()


def write_whole(raw: Any, data: bytes) -> None:
    """Writes all of ``data`` to a file that this process has opened, without a buffer; nothing where only a part can be
    written. Raises OSError.
    """
    size = os.fstat(raw.fileno()).st_size
    try:
        write_all(raw, data)
    except OSError:
        if is_regular(raw):
            raw.truncate(size)
        raise


class Sink:
    """A file that is written in batches. In a gzip file each batch is a member.

    The gzip header has no time, so that the same batches give the same file. A batch that cannot be written, as on a
    full disk, leaves nothing behind: what is appended later would be glued to it.
    """

    def __init__(self, raw: Any, name: str, compress: bool) -> None:
        self.raw = raw
        self.name = name
        self.compress = compress

    @classmethod
    @contextmanager
    def opened(cls, name: str, append: bool = False, size: int | None = None) -> Iterator[Sink]:
        """``size`` in bytes is that of the last checkpoint. What a killed run wrote after it is cut off.

        Raises FileError, and CommandError for a file that has less.
        """
        if name == "-":
            yield cls(sys.stdout.buffer, STANDARD_OUTPUT, compress=False)
            return
        with writing(name):
            # Without a buffer, which would be written once more, and fail again, when the file is closed.
            raw = Path(name).open("ab" if append else "wb", buffering=0)  # noqa: SIM115 - closed below
        with raw:
            cut_to(raw, name, size)
            yield cls(raw, name, name.endswith(".gz"))

    def write(self, lines: Iterable[bytes]) -> int | None:
        """Returns the new size of the file in bytes; None for a pipe."""
        batch = b"".join(lines)
        with writing(self.name):
            if self.name == STANDARD_OUTPUT:  # which may be a file that others append to
                write_all(self.raw, batch)
            else:
                write_whole(self.raw, gzip.compress(batch, compresslevel=6, mtime=0) if self.compress else batch)
        return self.raw.tell() if self.raw.seekable() else None

    def sync(self) -> None:
        """Waits until the data is on disk (fsync). Does nothing for a pipe or a device."""
        if self.raw.seekable():
            with writing(self.name):
                sync(self.raw)
