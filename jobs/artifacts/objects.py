"""What lies in the artifact store: a listing of its objects, and what can be known of one without reading all of it."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from typing import IO, NamedTuple

# Formats whose dimensions stand in their first bytes. (Of WebP and AVIF Pillow asks for the whole file.)
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "TIFF", "BMP")
CHUNK_BYTES = 2**15


class StoredObject(NamedTuple):
    """An object as a listing has it: its size in bytes and, where the store knows one, the checksum of its content."""

    storage_key: str
    size: int
    checksum: str | None


class ObjectMetadata(NamedTuple):
    """What an object is. ``checksum`` begins with its kind: ``sha256:`` of the content, or the store's own ``etag:``,
    which is the content's MD5 where it was uploaded in one piece and unencrypted. Pixels are None of what is no image.
    """

    size: int
    content_type: str
    checksum: str
    width: int | None
    height: int | None


class Remote(io.RawIOBase):
    """A file elsewhere, of which ``read_range(start, end)`` gets the bytes from ``start`` to before ``end``."""

    def __init__(self, size: int, read_range: Callable[[int, int], bytes]) -> None:
        self.size = size
        self.read_range = read_range
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readall(self) -> bytes:
        some = self.read_range(self.at, self.size) if self.at < self.size else b""
        self.at += len(some)
        return some

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self.at + len(buffer), self.size)
        some = self.read_range(self.at, end) if end > self.at else b""
        buffer[: len(some)] = some
        self.at += len(some)
        return len(some)

    def buffered(self, chunk_bytes: int = CHUNK_BYTES) -> IO[bytes]:
        return io.BufferedReader(self, chunk_bytes)


def pixels(file: IO[bytes]) -> tuple[int, int] | tuple[None, None]:
    """Width and height of an image, from its header alone; nothing is decoded, so none is too large."""
    from PIL import Image  # the API does without it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                return image.size
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError, struct.error):  # Pillow's, of a bad header
        return None, None
