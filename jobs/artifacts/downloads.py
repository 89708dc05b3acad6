"""``/artifacts/<storage key>``: an ASGI application that serves files of the local store to holders of a signed URL."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from contextlib import ExitStack, suppress
from email.utils import formatdate
from io import BytesIO
from pathlib import PurePosixPath
from typing import BinaryIO

from django.core.files.storage import storages
from django.core.handlers.asgi import ASGIRequest
from django.utils.cache import get_conditional_response
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from jobs.artifacts.local import SignedFileSystemStorage, verified_expiry

PATH_PREFIX = "/artifacts/"
# A client that takes none of the data for this long is disconnected.
SEND_TIMEOUT_SECONDS = 30
# Image types that browsers may display. Any other file is a download: an HTML page, or an SVG image with a script in
# it, must not run on this origin.
IMAGE_TYPES = {
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}
# On every response, errors included: browsers must not guess a content type, and must run nothing in the file.
DEFAULT_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
# Other ranges are ignored (RFC 9110, section 14.2); Starlette would answer them with 400.
_BYTE_RANGE = r"\s*(?:[0-9]{1,100}-[0-9]{0,100}|-[0-9]{1,100})\s*"
_BYTE_RANGES = re.compile(rf"bytes={_BYTE_RANGE}(?:,{_BYTE_RANGE})*", re.IGNORECASE)


async def download(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers one HTTP request for the file that a signed URL names.

    200, 206 for a valid ``Range``, 304 and 412 for conditional requests; 400 for a request with a body, 403 if
    the URL was altered or has expired, 404 if there is no such file, 405 for methods other than GET and HEAD, 416 for a
    range beyond the file. Memory use is constant: 64 KiB a request, plus what the server buffers. If the client accepts
    no data for ``SEND_TIMEOUT_SECONDS``, the body ends early, and the server closes the connection.
    """

    async def bounded_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in DEFAULT_HEADERS.items():
                headers.setdefault(name, value)
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            await send(message)

    with ExitStack() as opened, suppress(TimeoutError):
        response = await _response(scope, opened)
        await response(_scope_for_starlette(scope), receive, bounded_send)


async def _response(scope: Scope, opened: ExitStack) -> Response:
    """The response to ``scope``; the file that it reads is closed with ``opened``."""
    if scope["method"] not in ("GET", "HEAD"):
        return _error(405, "Only GET and HEAD are allowed.", {"Allow": "GET, HEAD"})
    if _has_body(scope):  # the server reports an invalid one as a disconnect, which would cut the response off
        return _error(400, "A request for an artifact has no body.")
    key = scope["path"].removeprefix(PATH_PREFIX)
    store = storages["artifacts"]
    if not key or not isinstance(store, SignedFileSystemStorage):
        return _error(404, "There is no artifact at this address.")
    seconds_left = (verified_expiry(key, scope["query_string"].decode("latin-1")) or 0) - time.time()
    if seconds_left <= 0:
        return _error(403, "This link was altered or has expired. Request a new one from the API.")
    try:
        file = opened.enter_context(await asyncio.to_thread(_open, store.location, key))
    except OSError:
        return _error(404, "The file behind this link no longer exists.")
    found = os.fstat(file.fileno())
    etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    headers = {
        "ETag": etag,
        "Last-Modified": formatdate(int(found.st_mtime), usegmt=True),
        "Cache-Control": f"private, max-age={int(seconds_left)}",
    }
    condition = get_conditional_response(_conditions(scope), etag, int(found.st_mtime))
    if condition is not None:  # 304 or 412
        return Response(status_code=condition.status_code, headers=headers)
    content_type = IMAGE_TYPES.get(PurePosixPath(key).suffix.lower())
    if content_type is None:
        content_type = "application/octet-stream"
        headers["Content-Disposition"] = "attachment"
    # By the number of the open descriptor: the file that was checked is the one that is served, even if its name leads
    # to another one by now. /dev/fd leads to /proc/self/fd on Linux.
    return FileResponse(f"/dev/fd/{file.fileno()}", headers=headers, media_type=content_type, stat_result=found)


def _has_body(scope: Scope) -> bool:
    names = {name: value for name, value in scope["headers"] if name in (b"transfer-encoding", b"content-length")}
    return b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"


def _conditions(scope: Scope) -> ASGIRequest:
    """The request without the header that Django reads in vain, and fails on where it is malformed."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return ASGIRequest({**scope, "headers": headers}, BytesIO())


def _scope_for_starlette(scope: Scope) -> Scope:
    """``scope`` without what must not be used for a file: invalid ranges, those of HEAD, and the server's own sending
    of files by name (``http.response.pathsend``), which ``SEND_TIMEOUT_SECONDS`` could not stop.
    """
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name != b"range" or (scope["method"] == "GET" and _is_valid_range(value.decode("latin-1")))
    ]
    return {**scope, "headers": headers, "extensions": {}}


def _is_valid_range(value: str) -> bool:
    return bool(_BYTE_RANGES.fullmatch(value.strip())) and not any(
        int(first) > int(last) for first, last in re.findall(r"([0-9]+)-([0-9]+)", value)
    )


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers)


def _open(folder: str | os.PathLike[str], key: str) -> BinaryIO:
    """Opens a regular file below ``folder``; follows symbolic links within it. Raises OSError for anything else."""
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, key), strict=True)  # noqa: PTH118 - Path would normalise the key
    if not path.startswith(f"{root}/"):
        raise FileNotFoundError(path)
    # O_NONBLOCK: opening a named pipe would otherwise wait until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return os.fdopen(descriptor, "rb")
