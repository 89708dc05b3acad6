"""Objects of the artifact store: items of a listing, their metadata, and reading them by ranges."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from typing import IO, NamedTuple

# Formats with the image size in their first bytes. (Of WebP and AVIF Pillow reads the whole file.)
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "TIFF", "BMP")
CHUNK_BYTES = 2**15


class StoredObject(NamedTuple):
    """An item of a listing: size in bytes, and the checksum of the content if the listing has one."""

    storage_key: str
    size: int
    checksum: str | None


class ObjectMetadata(NamedTuple):
    """``size`` is in bytes, ``width`` and ``height`` in pixels, None if the object is not an image.

    ``checksum`` starts with its kind: ``sha256:`` of the content, or the store's ``etag:``, which is the MD5 of the
    content if that was uploaded unencrypted and in one part.
    """

    size: int
    content_type: str
    checksum: str
    width: int | None
    height: int | None


class RangeReader(io.RawIOBase):
    """A remote file; ``read_range(start, end)`` returns its bytes from ``start`` up to, not including, ``end``."""

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


def image_size(file: IO[bytes]) -> tuple[int, int] | tuple[None, None]:
    """Width and height in pixels, from the header alone: nothing is decoded, so no image is too large."""
    from PIL import Image  # the API does not need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                return image.size
    except (
        OSError,
        Image.DecompressionBombError,
        SyntaxError,
        ValueError,
        struct.error,
    ):  # bad headers
        return None, None
