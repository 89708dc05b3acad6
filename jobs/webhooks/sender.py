"""Sends one request to an endpoint, and says what came of it. It follows no redirect and uses no proxy."""

from __future__ import annotations

import asyncio
import ssl
from email.utils import parsedate_to_datetime
from time import perf_counter, time
from typing import Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from django.conf import settings

from jobs.webhooks.addresses import checked_socket
from jobs.webhooks.answer import Answer

# A status within this time counts. Leases of endpoints are longer, so that no other worker sends the same meanwhile.
ATTEMPT_SECONDS = 15.0
ANSWER_BYTES = 1024  # what is read of a body
ANSWER_SECONDS = 1.0  # to read it
# Seconds that an unused connection is kept. A receiver that closes it at the same moment costs an attempt: most keep
# theirs for 5 seconds or more.
KEEP_ALIVE_SECONDS = 2.0
HEADERS = {"Content-Type": "application/json", "User-Agent": "Jobs-Gateway", "Accept-Encoding": "identity"}


class _Body(aiohttp.BytesPayload):
    """A body that knows its connection.

    A transport that is closed stays open until the receiver has taken all of the body. One that never reads would have
    a socket of this process for each attempt, for as long as it likes.
    """

    _transport: asyncio.WriteTransport | None = None

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._transport = writer.transport
        await super().write_with_length(writer, content_length)

    def end_closed_connection(self) -> None:
        """After the attempt: a connection that is not kept ends at once."""
        if self._transport is not None and self._transport.is_closing():
            self._transport.abort()


class Sender:
    """Used as an asynchronous context manager, on one event loop."""

    async def __aenter__(self) -> Self:
        self._sessions = {
            scheme: aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # the worker bounds them
                    keepalive_timeout=KEEP_ALIVE_SECONDS,
                    socket_factory=checked_socket(settings.WEBHOOK_ALLOWED_NETWORKS, is_encrypted=scheme == "https"),
                ),
                timeout=aiohttp.ClientTimeout(total=None),
                headers=HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
            for scheme in ("https", "http")
        }
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            await session.close()

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Never raises, except for a programming error or when it is cancelled."""
        began = perf_counter()
        status: int | None = None
        text, error, retry_after = "", "", None
        sent = _Body(body)
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                session = self._sessions[url.partition(":")[0].lower()]
                async with session.post(url, data=sent, headers=headers, allow_redirects=False) as response:
                    status = response.status
                    if status in (429, 503):
                        retry_after = _seconds_of(response.headers.get("Retry-After"))
                    text = await _beginning(response)
        except TimeoutError:
            error = "" if status else f"no answer within {ATTEMPT_SECONDS:g} seconds"
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError, KeyError) as failure:
            # ValueError and UnicodeError: a URL or a name that cannot be used.
            error = "" if status else _reason(failure)
        finally:
            sent.end_closed_connection()
        return Answer(status, text, error, perf_counter() - began, retry_after)


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The first bytes of the body, or what came of them in time. A connection with more to read is closed."""
    read = b""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while len(read) < ANSWER_BYTES and (chunk := await response.content.read(ANSWER_BYTES - len(read))):
                read += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()
    return read.decode("utf-8", "replace").replace("\0", "")


def _seconds_of(header: str | None) -> float | None:
    """Of ``Retry-After``, which is a number of seconds or a date; None for anything else."""
    if header is None:
        return None
    if header.isascii() and header.isdecimal():
        return float(header[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except (ValueError, OverflowError):
        return None


def _reason(failure: Exception) -> str:
    """In a few words, for staff."""
    if isinstance(failure, aiohttp.ClientConnectorCertificateError):
        return "the certificate is not valid"
    if isinstance(failure, aiohttp.ServerDisconnectedError):
        return "the receiver closed the connection without an answer"
    text = str(failure).partition("\n")[0].replace("\0", "") or type(failure).__name__
    return text[:200]
