"""``/artifacts/<key>``: where links to local files lead."""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import BinaryIO

from django.core.files.storage import storages
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import http_date
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from jobs.artifacts.local import SignedFileSystemStorage, expiry_of_link
from tenants.side_lane import side_lane

# What a browser may show. Anything else is a download: a page, or a drawing with a script in it, must not run here.
IMAGE_TYPES = {
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}
# More than pictures have. What is larger is handed over bit by bit, and takes a thread for as long as its caller reads.
AT_ONCE_BYTES = 16 * 2**20


@csrf_exempt  # what it refuses it refuses by method, whoever asks
@require_safe
def download(request: HttpRequest, key: str) -> HttpResponseBase:
    """The file behind a link: 403 unless the link is unaltered and alive, 404 when there is no such file (any more).

    Raises SideLaneTaken while somebody else reads a file that is too large to hand over at once.
    """
    store = storages["artifacts"]
    if not isinstance(store, SignedFileSystemStorage):
        return _refusal(404, "The pictures are kept elsewhere.")
    seconds_left = (expiry_of_link(key, request.META.get("QUERY_STRING", "")) or 0) - time.time()
    if seconds_left <= 0:
        return _refusal(403, "This link was altered or has expired. Ask the API again for a new one.")
    try:
        file = _open(store.location, key)
    except OSError:
        return _refusal(404, "The file behind this link is gone.")
    found = os.fstat(file.fileno())
    etag, changed_at = f'"{found.st_mtime_ns:x}-{found.st_size:x}"', int(found.st_mtime)
    response: HttpResponseBase | None = get_conditional_response(request, etag, changed_at)
    if response is None:
        response = _answer(request, file, found.st_size, PurePosixPath(key).suffix.lower())
    else:
        file.close()
    response.headers["ETag"] = etag
    response.headers["Last-Modified"] = http_date(changed_at)
    response.headers["Cache-Control"] = f"private, max-age={int(seconds_left)}"
    return _contained(response)


def _open(folder: str | os.PathLike[str], key: str) -> BinaryIO:
    """Raises OSError for what is no regular file, or lies outside ``folder`` once symbolic links are followed."""
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, key), strict=True)  # noqa: PTH118 - a key is text; Path would tidy it
    if not path.startswith(f"{root}/"):
        raise FileNotFoundError(path)
    # Without blocking, or a named pipe would hold the worker until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return os.fdopen(descriptor, "rb")


def _answer(request: HttpRequest, file: BinaryIO, size: int, extension: str) -> HttpResponseBase:
    content_type = IMAGE_TYPES.get(extension)
    headers = {} if content_type else {"Content-Disposition": "attachment"}
    content_type = content_type or "application/octet-stream"
    if request.method == "HEAD":
        file.close()
        return HttpResponse(b"", content_type, headers=headers | {"Content-Length": str(size)})
    if size <= AT_ONCE_BYTES:  # the server has all of it, and its thread is free, however slowly the caller reads
        with file:
            return HttpResponse(file.read(), content_type, headers=headers)
    with ExitStack() as unless_it_is_answered:
        unless_it_is_answered.enter_context(file)
        unless_it_is_answered.enter_context(side_lane())
        # Opened by number, the file has no name that FileResponse could put into a header.
        response = FileResponse(file, content_type=content_type, headers=headers)
        response._resource_closers.append(unless_it_is_answered.pop_all().close)  # type: ignore[attr-defined]
    return response


def _refusal(status: int, text: str) -> HttpResponseBase:
    headers = {"Cache-Control": "no-store"}
    return _contained(HttpResponse(f"{text}\n", "text/plain; charset=utf-8", status, headers=headers))


def _contained(response: HttpResponseBase) -> HttpResponseBase:
    """Whatever the file holds, a browser neither guesses at its type nor runs anything in it."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response
