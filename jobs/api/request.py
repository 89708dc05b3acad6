"""The request class. Bodies are read with a limit of size and time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.utils.functional import cached_property
from django.utils.http import parse_header_parameters
from rest_framework import exceptions

from tenants.proxies import came_by_proxy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# A form, or the body that an HMAC was made of, arrives with its headers or a moment later.
BODY_SECONDS = 5.0
# Every byte of ASCII that a query string may hold as it is.
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


class BodyTimeout(exceptions.APIException):
    """The caller announced a body and did not send it."""

    status_code = 408
    default_code = "REQUEST_TIMEOUT"
    default_detail = f"The announced request body did not arrive within {BODY_SECONDS:g} seconds."


class IncompleteBody(exceptions.APIException):
    """The caller hung up, or the chunked encoding of the body is invalid: the server reports both as a disconnect.

    So it is answered in either case.
    """

    status_code = 400
    default_code = "BAD_REQUEST"
    default_detail = "The request body is incomplete, or its chunked encoding is invalid."


async def has_no_body() -> Message:
    """What is received of a request that the console makes itself."""
    return {"type": "http.request", "body": b"", "more_body": False}


class GatewayRequest(ASGIRequest):
    """Django's ASGIRequest, hardened against invalid query strings, charsets and proxy headers.

    ``scope["gateway.request"]`` becomes the request, for the access log.
    """

    # Set while the request is answered; the access log reads them.
    rejection: str | None = None  # why the credential was rejected
    rate: Any = None  # the rate limit that it was counted against
    deadline: asyncio.Timeout | None = None  # for all reads of the database

    def __init__(self, scope: Scope, body_file: Any = None, receive: Receive = has_no_body) -> None:
        query_string = scope.get("query_string", b"")
        if not query_string.isascii():  # Django cannot decode bytes that are not UTF-8
            scope = {**scope, "query_string": quote(query_string, safe=_ASCII).encode()}
        super().__init__(scope, body_file or io.BytesIO())
        self.receive = receive
        scope["gateway"]["request"] = self

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        # The charset is ignored: Django would decode the query string with it, and some codecs are not for text
        # ("hex").
        self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))

    async def read_body(self) -> bytes | None:
        """The raw body, as :func:`read_body`. The time it takes does not count against the deadline of the database."""
        if self.deadline:
            self.deadline.reschedule(None)
        try:
            return await read_body(self.receive)
        finally:
            if self.deadline:
                self.deadline.reschedule(asyncio.get_running_loop().time() + settings.DATABASE_DEADLINE_SECONDS)

    @property
    def scheme(self) -> str:
        """A header about TLS counts only if a trusted proxy sent it."""
        if settings.SECURE_PROXY_SSL_HEADER and not came_by_proxy(self):
            return str(self.scope.get("scheme", "http"))
        return str(super().scheme)

    @cached_property
    def _checked_host(self) -> str:
        return super().get_host()

    def get_host(self) -> str:
        """Checked once a request. Raises DisallowedHost."""
        return self._checked_host


def has_body(scope: Scope) -> bool:
    """Whether the headers announce a body."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return True
    return False


async def read_body(receive: Receive) -> bytes | None:
    """The whole body. None if it is larger than ``DATA_UPLOAD_MAX_MEMORY_SIZE``.

    Raises BodyTimeout after ``BODY_SECONDS``, IncompleteBody.
    """
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise IncompleteBody
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
                    return None
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise BodyTimeout from None
