"""A response of the API: JSON, for one tenant only, revalidated before each reuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from jobs.api.request import Send

COMMON_HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "private, no-cache",
    "Vary": "Authorization",
}


class Response(Protocol):
    """What an action of the API returns."""

    headers: dict[str, str]

    async def send(self, send: Send, method: str) -> None: ...


class ApiResponse:
    """``headers`` come from the gateway, so they cannot contain line breaks."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.status = status
        self.body = body
        self.headers = {**COMMON_HEADERS, **headers}
        if status == 304:
            del self.headers["Content-Type"]  # a 304 has no body
        else:
            self.headers["Content-Length"] = str(len(body))

    async def send(self, send: Send, method: str) -> None:
        """As ASGI messages; a response to ``HEAD`` has the headers of its body and no body."""
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else self.body})
