"""Gateway tokens, ``jgw_<prefix>_<secret>``: issued, verified, revoked."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import string
from datetime import datetime

from django.utils import timezone

from tenants.callers import Caller, Checked, memory
from tenants.last_used import last_used
from tenants.models import ApiToken, Tenant
from tenants.rejections import rejected
from tenants.replica import primary_first

# 60 bits: enough to tell tokens apart, which is all that a prefix is for.
_PREFIX_ALPHABET = string.ascii_lowercase + string.digits
_PREFIX_LENGTH = 12
# 256 random bits are beyond guessing, so one SHA-256 does where a password would need a slow hash.
_SECRET_BYTES = 32
TOKEN = re.compile(rf"jgw_([a-z0-9]{{{_PREFIX_LENGTH}}})_[A-Za-z0-9_-]{{43}}")

# What the hash of an unknown token is compared with, so that it takes the time of a known one; no text hashes to it.
_NO_HASH = "-" * 64


def issue(tenant: Tenant, label: str = "", expires_at: datetime | None = None) -> str:
    """A new token of ``tenant``, which nobody can read again: only its hash is stored.

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
    """From now on the token with this prefix opens nothing; False when it had been revoked before.

    This process knows at once, others within ``TOKEN_CACHE_SECONDS``. Raises ApiToken.DoesNotExist.
    """
    token = ApiToken.objects.get(prefix=prefix)
    if token.revoked_at is not None:
        return False
    token.revoked_at = timezone.now()
    token.save(update_fields=["revoked_at"])
    return True


def verify(token: str) -> Caller | None:
    """The caller whose token this is; None for a malformed, unknown, expired or revoked one or an inactive tenant.

    No statement when it was checked in the last ``TOKEN_CACHE_SECONDS`` or is malformed, else one. Raises what the
    database raises when it is away.
    """
    return memory.caller(token, _look_up) if TOKEN.fullmatch(token) else rejected("malformed")


def _look_up(token: str, digest: bytes) -> Checked | None:
    prefix = token.split("_", 2)[1]
    row = primary_first(
        lambda alias: ApiToken.objects.using(alias).select_related("tenant").filter(prefix=prefix).first()
    )
    # Compared before anything else is looked at: how long it takes says nothing about the row.
    is_known = hmac.compare_digest(row.token_hash if row else _NO_HASH, digest.hex())
    if row is None or not is_known:
        return rejected("unknown")
    if row.revoked_at is not None:
        return rejected("revoked")
    if row.expires_at is not None and row.expires_at <= timezone.now():
        return rejected("expired")
    if not row.tenant.is_active:
        return rejected("inactive tenant")
    last_used.note(row.pk, row.last_used_at)
    expires_at = row.expires_at.timestamp() if row.expires_at else math.inf
    return Checked(Caller(row.tenant_id, row.tenant.slug, row.tenant.storage_prefix, row.prefix), expires_at)
