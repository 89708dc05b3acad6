"""Presigned GET URLs of an S3 bucket by AWS Signature Version 4, identical to those of botocore.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, urlsplit


class Credentials(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None


class Presigner:
    """Signs for one bucket, one signing time and one set of credentials; what these determine is computed once.

    ``root`` is the URL of the bucket ("https://pictures.s3.amazonaws.com/", "http://127.0.0.1:9000/pictures/"), times
    are in seconds since 1970.
    """

    __slots__ = ("_canonical", "_canonical_tail", "_key", "_query", "_root", "_to_sign")

    def __init__(self, root: str, region: str, credentials: Credentials, signed_at: int, expires_at: int) -> None:
        time = datetime.fromtimestamp(signed_at, UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{time[:8]}/{region}/s3/aws4_request"
        query = (
            "X-Amz-Algorithm=AWS4-HMAC-SHA256"
            f"&X-Amz-Credential={quote(f'{credentials.access_key}/{scope}', safe='')}"
            f"&X-Amz-Date={time}&X-Amz-Expires={expires_at - signed_at}"
        )
        # The signature covers the parameters sorted by name; botocore sends the token last.
        token = f"&X-Amz-Security-Token={quote(credentials.token, safe='')}" if credentials.token is not None else ""
        self._root = root
        self._query = f"?{query}&X-Amz-SignedHeaders=host{token}&X-Amz-Signature="
        self._canonical = hashlib.sha256(f"GET\n{urlsplit(root).path}".encode())
        self._canonical_tail = (
            f"\n{query}{token}&X-Amz-SignedHeaders=host\nhost:{_host(root)}\n\nhost\nUNSIGNED-PAYLOAD"
        )
        self._to_sign = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n"
        key = f"AWS4{credentials.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._key = key

    def url(self, storage_key: str) -> str:
        """About 4 µs. Any key that can be encoded as UTF-8."""
        path = quote(storage_key, safe="/~")
        canonical = self._canonical.copy()
        canonical.update(f"{path}{self._canonical_tail}".encode())
        signature = hmac.digest(self._key, f"{self._to_sign}{canonical.hexdigest()}".encode(), "sha256")
        return f"{self._root}{path}{self._query}{signature.hex()}"


def _host(url: str) -> str:
    """The Host header that clients send for ``url``: in lower case, without the default port."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return host if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f"{host}:{parts.port}"
