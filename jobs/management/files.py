"""Files of lines, gzip by name, and - for the standard streams."""

from __future__ import annotations

import gzip
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jobs.management.stopping import POLL_SECONDS, Stop

FLUSH_SECONDS = 0.5  # with --follow: what has come is loaded that soon, also where more keeps coming
CHUNK_BYTES = 2**16


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
        with Path(name).open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size or None
            if not name.endswith(".gz"):
                yield cls(raw, raw, size, stop)
            else:
                with gzip.open(raw) as lines:
                    yield cls(raw, lines, size, stop)

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
