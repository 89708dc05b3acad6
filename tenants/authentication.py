"""The door of the API: ``Authorization: Bearer …`` and the HMAC header."""

from __future__ import annotations

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from django.http.request import UnreadablePostError
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from tenants import shopify, tokens
from tenants.callers import Caller
from tenants.rejections import rejected
from tenants.side_lane import body_of
from tenants.throttling import count_failure, count_request

__all__ = ["BearerAuthentication", "Caller", "InvalidHmac", "Unauthenticated"]


SCHEME = "Bearer"


class Unauthenticated(exceptions.AuthenticationFailed):
    """No credential, or one that opens nothing; the caller is not told which."""

    default_code = "UNAUTHENTICATED"
    default_detail = "Send Authorization: Bearer with a token that is valid, unexpired and of an active tenant."
    auth_header = SCHEME


class InvalidHmac(exceptions.AuthenticationFailed):
    """An X-Shopify-Hmac-Sha256 header that does not verify, whatever else was sent."""

    default_code = "INVALID_HMAC"
    default_detail = (
        "X-Shopify-Hmac-Sha256 does not verify: send the base64 HMAC-SHA256 of the raw request body, signed with the "
        "app secret, or leave the header out."
    )
    auth_header = SCHEME


def authenticated(request: HttpRequest) -> Caller:
    """Whose gateway token or Shopify session token the request bears. Raises Unauthenticated or InvalidHmac.

    Costs nothing but a hash while the credential was checked in the last ``TOKEN_CACHE_SECONDS``, else one statement.
    Counts against the rate limits, where there are any, and raises what they raise.
    """
    caller = _caller(request.META.get("HTTP_AUTHORIZATION", ""))
    if caller is None:
        count_failure(request)
        raise Unauthenticated
    count_request(request, caller)
    hmac_header = request.META.get("HTTP_X_SHOPIFY_HMAC_SHA256")
    if hmac_header is not None and not _hmac_verifies(hmac_header, request):
        rejected("hmac")
        count_failure(request)
        raise InvalidHmac
    return caller


class BearerAuthentication(BaseAuthentication):
    """:func:`authenticated` as DRF asks it; ``request.user`` becomes the :class:`Caller`."""

    def authenticate(self, request: Request) -> tuple[Caller, None]:
        return authenticated(request._request), None

    def authenticate_header(self, request: Request) -> str:
        return SCHEME


def _caller(authorization: str) -> Caller | None:
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return rejected("other scheme" if authorization else "none sent")
    return tokens.verify(credential) if credential.startswith("jgw_") else shopify.verify(credential)


def _hmac_verifies(header: str, request: HttpRequest) -> bool:
    try:
        return shopify.hmac_verifies(header, body_of(request))
    except (RequestDataTooBig, UnreadablePostError):
        return False  # a body that is not read cannot be vouched for
