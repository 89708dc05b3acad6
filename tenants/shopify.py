"""What a Shopify app signs: session tokens, which stand for the tenant of a shop, and the HMAC header."""

from __future__ import annotations

import base64
import hmac
import re
from typing import Any

import jwt
from django.conf import settings

from tenants.callers import Caller, Checked, memory
from tenants.models import SHOP_DOMAIN, Tenant
from tenants.rejections import rejected
from tenants.replica import primary_first

LEEWAY_SECONDS = 5
LONGEST_SESSION_TOKEN = 8192
# The signature is 43 characters long, as every HS256 one.
SESSION_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}")


def verify(session_token: str) -> Caller | None:
    """The tenant whose shop the token names; None for a token that is not as CONTRACT.md section 1 says, no such tenant
    or an inactive one.

    A forged token costs no statement, a good one as much as a gateway token. Raises what the database raises when it is
    away.
    """
    if len(session_token) > LONGEST_SESSION_TOKEN or not SESSION_TOKEN.fullmatch(session_token):
        return rejected("malformed")
    return memory.caller(session_token, _look_up)


def hmac_verifies(header: str, body: bytes) -> bool:
    """Whether ``header`` is the base64 HMAC-SHA256 of ``body`` under one of the app's secrets; without one, never."""
    given = header.encode("latin-1", "replace")
    verified = False
    for secret in settings.SHOPIFY_API_SECRETS:
        # Compared as text, so that base64 has one spelling; all are tried, so that the time does not tell which it is.
        expected = base64.b64encode(hmac.digest(secret.encode(), body, "sha256"))
        verified |= hmac.compare_digest(expected, given)
    return verified


def _look_up(session_token: str, _digest: bytes) -> Checked | None:
    claims = _claims(session_token)
    if claims is None:
        return rejected("session token not in force")
    scheme, _, shop_domain = claims["dest"].partition("://")
    if scheme != "https" or not SHOP_DOMAIN.fullmatch(shop_domain):
        return rejected("session token not in force")
    shop = {"shop_domain": shop_domain, "is_active": True}
    tenant = primary_first(lambda alias: Tenant.objects.using(alias).filter(**shop).first())
    if tenant is None:
        return rejected("unknown shop")
    return Checked(Caller(tenant.pk, tenant.slug, tenant.storage_prefix, None), int(claims["exp"]) + LEEWAY_SECONDS)


def _claims(session_token: str) -> dict[str, Any] | None:
    """The claims of a token that one of the app's secrets signed and that is in force now, else None."""
    if not settings.SHOPIFY_API_KEY:
        return None
    for secret in settings.SHOPIFY_API_SECRETS:
        try:
            claims: dict[str, Any] = jwt.decode(
                session_token,
                secret,
                algorithms=["HS256"],
                audience=settings.SHOPIFY_API_KEY,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "nbf", "aud", "dest"], "strict_aud": True},
            )
        except jwt.InvalidSignatureError:
            continue  # another of the secrets may have signed it
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        return claims if isinstance(claims["dest"], str) else None
    return None
