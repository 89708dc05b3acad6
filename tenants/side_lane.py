"""What any caller can make take long: a body that is announced and does not come, a large file that is read slowly,
a password that is checked.

The server hands an announced body over when it is asked for, and waits for it without end. So one thread of a process
at a time does any of it, and whoever comes meanwhile is told to come again: the other thread answers everybody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock, Thread

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from rest_framework import exceptions

# A form, or what an HMAC was made of, is there with its headers or a moment later.
BODY_SECONDS = 5.0
# Bodies that are still awaited for nobody, until their callers hang up: a thread of some kilobytes each.
MOST_LATE = 100

_taken = Lock()
_awaited = BoundedSemaphore(MOST_LATE)


class BodyLate(exceptions.APIException):
    """The caller announced a body and did not send it."""

    status_code = 408
    default_code = "REQUEST_TIMEOUT"
    default_detail = f"The announced request body did not arrive within {BODY_SECONDS:g} seconds."


class SideLaneTaken(exceptions.APIException):
    """Somebody else's body is awaited, file read, or password checked."""

    status_code = 503
    default_code = "UNAVAILABLE"
    default_detail = "The gateway is busy with somebody else's body or file. Try again in a few seconds."
    wait = 1


@contextmanager
def side_lane() -> Iterator[None]:
    """For one thread of this process at a time; never waits. Raises SideLaneTaken."""
    if not _taken.acquire(blocking=False):
        raise SideLaneTaken
    try:
        yield
    finally:
        _taken.release()


def body_of(request: HttpRequest) -> bytes:
    """The whole body, which ``request`` keeps as well, unless it was sent in chunks; costs nothing where there is none.

    Raises SideLaneTaken, BodyLate, RequestDataTooBig over ``DATA_UPLOAD_MAX_MEMORY_SIZE``, and UnreadablePostError
    when the caller hung up.
    """
    if "HTTP_TRANSFER_ENCODING" not in request.META and request.META.get("CONTENT_LENGTH", "") in ("", "0"):
        return b""
    with side_lane():
        if not _awaited.acquire(blocking=False):
            raise SideLaneTaken
        body: Future[bytes] = Future()
        # A thread of its own, for nothing but the end of its connection calls off what the server waits for.
        Thread(target=_read, args=(request, body), name="body", daemon=True).start()
        try:
            return body.result(BODY_SECONDS)
        except TimeoutError:
            raise BodyLate from None


def _read(request: HttpRequest, body: Future[bytes]) -> None:
    try:
        body.set_result(_chunks(request) if "HTTP_TRANSFER_ENCODING" in request.META else request.body)
    except Exception as error:  # noqa: BLE001 - it is for the thread that waits
        body.set_exception(error)
    finally:
        _awaited.release()


def _chunks(request: HttpRequest) -> bytes:
    """What Django does not read, for want of a length."""
    most: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    body: bytes = request.META["wsgi.input"].read(most + 1)
    if len(body) > most:
        raise RequestDataTooBig
    return body
