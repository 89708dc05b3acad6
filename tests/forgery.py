"""Signs session tokens and HMACs as Shopify does with an app secret, and forges invalid ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

API_KEY = "5f0c1e2d3b4a59687786a5b4c3d2e1f0"
SECRET = "shpss_" + "0123456789abcdef" * 2
OLD_SECRET = "shpss_" + "fedcba9876543210" * 2


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a session token of acme's shop that is good for a minute; a change to ``...`` leaves the claim out."""
    now = int(time.time())
    valid = {
        "iss": "https://acme.myshopify.com/admin",
        "dest": "https://acme.myshopify.com",
        "aud": API_KEY,
        "sub": "42",
        "exp": now + 60,
        "nbf": now - 1,
        "iat": now - 1,
        "jti": "f8912129-1af6-4cad-9ca3-76b0f7621087",
    }
    return {name: value for name, value in (valid | changes).items() if value is not ...}


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def jwt(
    payload: Any,
    secret: str | bytes = SECRET,
    header: Any = None,
    hash_name: str = "sha256",
) -> str:
    """A JWT put together by hand, so that it can hold what no library would write; ``bytes`` go in as they are."""
    parts = [{"alg": "HS256", "typ": "JWT"} if header is None else header, payload]
    signed = ".".join(base64url(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in parts)
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signed}.{base64url(hmac.digest(key, signed.encode(), hash_name))}"


def session_token(secret: str = SECRET, **changes: Any) -> str:
    """A session token as Shopify signs it, with :func:`claims` changed."""
    return jwt(claims(**changes), secret)


def hmac_header(body: bytes, secret: str = SECRET) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()
