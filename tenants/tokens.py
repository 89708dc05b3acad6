"""Gateway tokens, ``jgw_<prefix>_<secret>``: issues, verifies and revokes them."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import string
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

from django.db.models import Q
from django.utils import timezone

from tenants.callers import Caller, CredentialRejected, RejectedToken, VerifiedCredential
from tenants.last_used import last_used
from tenants.models import ApiToken, Tenant

# 60 bits: enough to identify a token. The prefix is not secret.
_PREFIX_ALPHABET = string.ascii_lowercase + string.digits
_PREFIX_LENGTH = 12
# 256 random bits cannot be guessed, so one SHA-256 is enough. Only passwords need a slow hash.
_SECRET_BYTES = 32
TOKEN = re.compile(rf"jgw_([a-z0-9]{{{_PREFIX_LENGTH}}})_[A-Za-z0-9_-]{{43}}")

# The hash of an unknown token is compared with this, so that it takes as long as a known one. No text has this hash.
_NO_HASH = "-" * 64


class TokenRow(NamedTuple):
    """The columns of a token and its tenant."""

    pk: int
    token_hash: str
    revoked_at: datetime | None
    expires_at: datetime | None
    last_used_at: datetime | None
    tenant_id: int
    slug: str
    storage_prefix: str
    is_active: bool


FindToken = Callable[[str], Awaitable[TokenRow | None]]


def issue(tenant: Tenant, label: str = "", expires_at: datetime | None = None) -> str:
    """A new token of ``tenant``. It cannot be read again: only its hash is stored.

    Raises ValidationError when the label is too long.
    """
    prefix = "".join(secrets.choice(_PREFIX_ALPHABET) for _ in range(_PREFIX_LENGTH))
    token = f"jgw_{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    token_hash = hashlib.sha256(token.encode()).hexdigest()
    row = ApiToken(tenant=tenant, prefix=prefix, token_hash=token_hash, label=label, expires_at=expires_at)
    row.full_clean()
    row.save()
    return token


def revoke(prefix: str) -> bool:
    """Revokes the token with this prefix. False if it was revoked before. This process rejects it at once, others after
    at most ``TOKEN_CACHE_SECONDS``. Raises ApiToken.DoesNotExist.
    """
    token = ApiToken.objects.get(prefix=prefix)
    if token.revoked_at is not None:
        return False
    token.revoked_at = timezone.now()
    token.save(update_fields=["revoked_at"])
    return True


def is_valid(token: str, tenant: Tenant) -> bool:
    """Whether ``token`` is a valid token of ``tenant`` now; by an ORM query, for commands and pages."""
    token_hash = hashlib.sha256(token.encode()).hexdigest()
    in_force = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    valid = ApiToken.objects.filter(in_force, tenant=tenant, token_hash=token_hash, revoked_at=None)
    return valid.filter(tenant__is_active=True).exists()


async def verify(token: str, digest: bytes, find_token: FindToken) -> VerifiedCredential:
    """The caller of a well-formed token, by one ``find_token(prefix)``.

    Raises CredentialRejected for an unknown, revoked or expired token and for an inactive tenant, and what
    ``find_token`` raises.
    """
    prefix = token.split("_", 2)[1]
    row = await find_token(prefix)
    # Compared first, so that the time depends on nothing else in the row.
    is_known = hmac.compare_digest(row.token_hash if row else _NO_HASH, digest.hex())
    if row is None:
        raise CredentialRejected("unknown")
    rejected = RejectedToken(row.tenant_id, prefix)
    if not is_known:
        raise CredentialRejected("unknown", rejected)
    if row.revoked_at is not None:
        raise CredentialRejected("revoked", rejected)
    if row.expires_at is not None and row.expires_at <= timezone.now():
        raise CredentialRejected("expired", rejected)
    if not row.is_active:
        raise CredentialRejected("inactive tenant", rejected)
    last_used.note(row.pk, row.last_used_at)
    caller = Caller(row.tenant_id, row.slug, row.storage_prefix, prefix)
    return VerifiedCredential(caller, row.expires_at.timestamp() if row.expires_at else math.inf)
