"""Verifies what a Shopify app signs: session tokens, which identify the tenant of a shop, and the HMAC header."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import jwt
from django.conf import settings

from tenants.callers import Caller, CredentialRejected, VerifiedCredential
from tenants.models import SHOP_DOMAIN

LEEWAY_SECONDS = 10  # as in Shopify's own libraries
LONGEST_SESSION_TOKEN = 8192
# The signature is 43 characters long, as every HS256 one.
SESSION_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}")


class ShopRow(NamedTuple):
    """The active tenant of a shop domain."""

    tenant_id: int
    slug: str
    storage_prefix: str


FindShop = Callable[[str], Awaitable[ShopRow | None]]


def is_well_formed(session_token: str) -> bool:
    return len(session_token) <= LONGEST_SESSION_TOKEN and bool(SESSION_TOKEN.fullmatch(session_token))


async def verify(session_token: str, find_shop: FindShop) -> VerifiedCredential:
    """The tenant of the shop in the token, by one ``find_shop(domain)``. A forged token costs no statement.

    Raises CredentialRejected for a token that is not as CONTRACT.md section 1 says, for an unknown shop and for an
    inactive tenant, and what ``find_shop`` raises.
    """
    claims = _claims(session_token)
    scheme, separator, shop_domain = claims["dest"].rpartition("://")
    if (separator and scheme != "https") or not SHOP_DOMAIN.fullmatch(shop_domain):
        raise CredentialRejected("session token: dest is no shop")
    shop = await find_shop(shop_domain)
    if shop is None:
        raise CredentialRejected("unknown shop")
    return VerifiedCredential(Caller(*shop, None), int(claims["exp"]) + LEEWAY_SECONDS)


def hmac_verifies(header: str, body: bytes) -> bool:
    """Whether ``header`` is the base64 HMAC-SHA256 of ``body`` with one of the app's secrets. False without secrets."""
    given = header.encode("latin-1", "replace")
    verified = False
    for secret in settings.SHOPIFY_API_SECRETS:
        # Compared as text, so that only one spelling of base64 is valid. All secrets are tried, so that the time does
        # not reveal which one matches.
        expected = base64.b64encode(hmac.digest(secret.encode(), body, "sha256"))
        verified |= hmac.compare_digest(expected, given)
    return verified


# The reason in the access log for each error of PyJWT. The first class that matches counts.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "session token: expired"),
    (jwt.ImmatureSignatureError, "session token: not yet valid"),
    (jwt.InvalidAudienceError, "session token: wrong aud"),
    (jwt.MissingRequiredClaimError, "session token: claim missing"),
)


def _claims(session_token: str) -> dict[str, Any]:
    """The claims of a token that one of the app's secrets signed and that is valid now."""
    if not settings.SHOPIFY_API_KEY or not settings.SHOPIFY_API_SECRETS:
        raise CredentialRejected("session token: no app is set up")
    for secret in settings.SHOPIFY_API_SECRETS:
        try:
            claims: dict[str, Any] = jwt.decode(
                session_token,
                secret,
                algorithms=["HS256"],
                audience=settings.SHOPIFY_API_KEY,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "nbf", "aud", "dest"]},
            )
        except jwt.InvalidSignatureError:
            continue  # another of the secrets may have signed it
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "session token: malformed")
            raise CredentialRejected(reason) from None
        if not isinstance(claims["dest"], str):
            raise CredentialRejected("session token: dest is no shop")
        return claims
    raise CredentialRejected("session token: wrong signature")
