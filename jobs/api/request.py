"""The request class. Bodies are read with a limit of size and time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from django.core.handlers.asgi import ASGIRequest
from django.http.request import HttpRequest, MediaType, split_domain_port, validate_host
from django.utils.functional import cached_property
from django.utils.http import parse_header_parameters
from rest_framework import exceptions

from tenants.fast_settings import settings
from tenants.proxies import came_by_proxy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# A form, or the body that an HMAC was made of, arrives with its headers or a moment later.
BODY_SECONDS = 5.0
# Every byte of ASCII that a query string may hold as it is.
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
# Of a media type with its parameters, and of those in Accept: more than any client sends. Python's parser takes
# quadratic time.
MAX_MEDIA_TYPE_LENGTH = 256
MAX_MEDIA_TYPES = 100


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


def readable_media_type(header: str) -> str:
    """``header``, or its type alone where Django cannot read the parameters, or where it is too long."""
    if len(header) <= MAX_MEDIA_TYPE_LENGTH:
        with suppress(ValueError, TypeError):  # for a parameter as of RFC 2231, such as x*=nowhere''y
            parse_header_parameters(header)
            return header
    return header.partition(";")[0]


class TolerantRequest(ASGIRequest):
    """Django's ASGIRequest, which raises nothing for whatever ``Content-Type`` and ``Accept`` contain."""

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        # The charset is ignored: Django would decode the query string with it, and some codecs are not for text
        # ("hex").
        content_type = readable_media_type(meta.get("CONTENT_TYPE", ""))
        if content_type:
            meta["CONTENT_TYPE"] = content_type  # a form's is read once more
        self.content_type, self.content_params = parse_header_parameters(content_type)

    @cached_property
    def accepted_types(self) -> list[MediaType]:
        """As Django has them, of the first ``MAX_MEDIA_TYPES``."""
        entries = self.headers.get("Accept", "*/*").split(",", MAX_MEDIA_TYPES)[:MAX_MEDIA_TYPES]
        types = [MediaType(readable_media_type(entry)) for entry in entries if entry.strip()]
        return sorted(filter(attrgetter("quality"), types), key=attrgetter("quality", "specificity"), reverse=True)


class GatewayRequest(TolerantRequest):
    """Hardened against invalid query strings and proxy headers too.

    ``scope["gateway.request"]`` becomes the request, for the access log.
    """

    # Set while the request is answered; the access log reads them.
    rejection: str | None = None  # why the credential was rejected
    rejected: Any = None  # whose token it was, where that is known
    rate: Any = None  # the rate limit that it was counted against
    deadline: asyncio.Timeout | None = None  # for all reads of the database

    def __init__(self, scope: Scope, body_file: Any = None, receive: Receive = has_no_body) -> None:
        super().__init__(with_ascii_query(scope), body_file or io.BytesIO())
        self.receive = receive
        scope["gateway"]["request"] = self

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
        """Of what headers say about TLS, only what a trusted proxy says."""
        if settings.SECURE_PROXY_SSL_HEADER and came_by_proxy(self):
            return str(super().scheme)
        return str(self.scope.get("scheme") or "http")

    @cached_property
    def _checked_host(self) -> str:
        return super().get_host()

    def get_host(self) -> str:
        """Checked once a request. Raises DisallowedHost."""
        return self._checked_host


class ApiRequest(GatewayRequest):
    """A request of the API. It has Django's interface but for forms and files, which the API does not take.

    Django's constructor copies every header to ``META`` and reads the content type, for 20 µs. Here ``META`` is made
    where something asks for it: proxies, rate limits, errors. The API itself calls :meth:`header`.
    """

    def __init__(self, scope: Scope, receive: Receive = has_no_body) -> None:
        self.scope = with_ascii_query(scope)
        self.receive = receive
        self.method = scope["method"].upper()
        self.path = self.path_info = scope["path"]
        self.query_string: str = self.scope.get("query_string", b"").decode()
        self.resolver_match = None
        self._headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            known = self._headers.get(name)
            self._headers[name] = value if known is None else b"%b,%b" % (known, value)
        scope["gateway"]["request"] = self

    def header(self, name: bytes) -> str | None:
        """The value of the header ``name``, in lower case; of several, joined by commas as Django joins them."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    @cached_property
    def META(self) -> dict[str, Any]:  # type: ignore[override]  # noqa: N802 - Django's name
        return TolerantRequest(self.scope, io.BytesIO()).META

    @cached_property
    def _checked_host(self) -> str:
        host = self.header(b"host")
        if host and not settings.USE_X_FORWARDED_HOST and is_allowed(host, tuple(settings.ALLOWED_HOSTS)):
            return host
        return HttpRequest.get_host(self)


def with_ascii_query(scope: Scope) -> Scope:
    """``scope``, whose query string Django can decode: it fails on what is no UTF-8."""
    query_string = scope.get("query_string", b"")
    return scope if query_string.isascii() else {**scope, "query_string": quote(query_string, safe=_ASCII).encode()}


@lru_cache(maxsize=256)
def is_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether ``ALLOWED_HOSTS`` name this ``Host`` header, by Django's rules. Cached: these take 20 µs."""
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, allowed)


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
