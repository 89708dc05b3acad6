"""Authentication of the API: ``Authorization: Bearer …`` and the HMAC header."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from django.http import HttpRequest
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from tenants import shopify, tokens
from tenants.callers import (
    MAX_CACHE_SECONDS,
    Caller,
    CredentialRejected,
    RejectedToken,
    VerifiedCredential,
    credential_cache,
)
from tenants.rejections import count_rejection
from tenants.throttling import count_failure, count_request

__all__ = ["BearerAuthentication", "Caller", "CredentialStore", "InvalidHmac", "Unauthenticated", "verify_credential"]

SCHEME = "Bearer"


class Unauthenticated(exceptions.AuthenticationFailed):
    """No credential, or an invalid one. The response does not say which."""

    default_code = "UNAUTHENTICATED"
    default_detail = "Send Authorization: Bearer with a token that is valid, unexpired and of an active tenant."
    auth_header = SCHEME


class InvalidHmac(exceptions.AuthenticationFailed):
    """An X-Shopify-Hmac-Sha256 header that does not match the body. It is an error even with a valid token."""

    default_code = "INVALID_HMAC"
    default_detail = (
        "X-Shopify-Hmac-Sha256 does not verify: send the base64 HMAC-SHA256 of the raw request body, signed with the "
        "app secret, or leave the header out."
    )
    auth_header = SCHEME


ReadBody = Callable[[], Awaitable[bytes | None]]


class CredentialStore(NamedTuple):
    """Looks up a token or a shop in the database."""

    find_token: tokens.FindToken
    find_shop: shopify.FindShop


class BearerAuthentication(BaseAuthentication):
    """DRF's interface, but ``authenticate`` is a coroutine. ``request.user`` becomes the :class:`Caller`."""

    async def authenticate(self, request: Any, store: CredentialStore, read_body: ReadBody) -> Caller:  # type: ignore[override]
        """Whose gateway token or Shopify session token the request bears. Raises Unauthenticated or InvalidHmac.

        A credential that was verified in the last ``TOKEN_CACHE_SECONDS`` costs a hash, any other one statement. Counts
        against the rate limits, where there are any, and raises what they raise. ``read_body`` returns the raw body, or
        None for one that is larger than the gateway reads; it is awaited only where the HMAC header was sent.
        ``request`` is an HttpRequest whose ``header(name)`` returns a header or None; ``request.rejection`` becomes the
        reason for the access log, and ``request.rejected`` whose token it was, where that is known.
        """
        try:
            caller = await verify_credential(request.header(b"authorization") or "", store)
        except CredentialRejected as rejection:
            await _count(request, rejection.reason, rejection.token)
            raise Unauthenticated from None
        await count_request(request, caller)
        hmac_header = request.header(b"x-shopify-hmac-sha256")
        if hmac_header is not None:
            body = await read_body()
            if body is None or not shopify.hmac_verifies(hmac_header, body):
                await _count(request, "hmac", RejectedToken(caller.tenant_id, caller.token_prefix or ""))
                raise InvalidHmac
        return caller

    def authenticate_header(self, request: Request) -> str:
        return SCHEME


async def _count(request: HttpRequest, reason: str, token: RejectedToken | None) -> None:
    request.rejection = reason  # type: ignore[attr-defined]
    request.rejected = token  # type: ignore[attr-defined]
    count_rejection(reason)
    await count_failure(request)


async def verify_credential(authorization: str, store: CredentialStore, max_age: float = MAX_CACHE_SECONDS) -> Caller:
    """The caller of an ``Authorization`` header, looked up no more than ``max_age`` seconds ago.

    Raises CredentialRejected, and what ``store`` raises.
    """
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise CredentialRejected("other scheme" if authorization else "none sent")
    credential = credential.lstrip(" ")
    if credential.startswith("jgw_"):
        if not tokens.TOKEN.fullmatch(credential):
            raise CredentialRejected("malformed")
        return await credential_cache.caller(credential, partial(_verify_token, store), max_age)
    if not shopify.is_well_formed(credential):
        raise CredentialRejected("malformed")
    return await credential_cache.caller(credential, partial(_verify_session_token, store), max_age)


async def _verify_token(store: CredentialStore, token: str, digest: bytes) -> VerifiedCredential:
    return await tokens.verify(token, digest, store.find_token)


async def _verify_session_token(store: CredentialStore, session_token: str, _digest: bytes) -> VerifiedCredential:
    return await shopify.verify(session_token, store.find_shop)
