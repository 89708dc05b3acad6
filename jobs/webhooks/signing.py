"""Secrets of endpoints, and signatures as Standard Webhooks 1.0 has them (symmetric, ``v1``)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from jobs.api.keys import accepted_keys

_PURPOSE = "webhook secrets"
_PREFIX = "whsec_"
SECRET_BYTES = 32


class SecretUnreadable(ValueError):
    """A stored secret was encrypted with a key that is neither DJANGO_SECRET_KEY nor one of its fallbacks."""


def new_secret() -> str:
    """``whsec_`` and 32 random bytes in base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def encrypt(secret: str) -> str:
    return _cipher().encrypt(secret.encode()).decode()


def decrypt(encrypted: str) -> str:
    """Raises SecretUnreadable."""
    try:
        return _cipher().decrypt(encrypted).decode()
    except InvalidToken as error:
        raise SecretUnreadable(
            "A webhook's secret cannot be decrypted: DJANGO_SECRET_KEY changed. Add the key from before to "
            "DJANGO_SECRET_KEY_FALLBACKS."
        ) from error


def encrypt_again(encrypted: str) -> str:
    """With the current key, where an earlier one was used; else ``encrypted``. Raises SecretUnreadable."""
    try:
        Fernet(_fernet_key(accepted_keys(_PURPOSE)[0])).decrypt(encrypted)
    except InvalidToken:
        return encrypt(decrypt(encrypted))
    return encrypted


def signing_key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_PREFIX))


def signature_headers(keys: Iterable[bytes], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers. ``timestamp`` is the attempt's Unix time in seconds; ``keys`` are of all secrets in force."""
    signed = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    digests = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{digest}" for digest in digests),
    }


def _cipher() -> MultiFernet:
    return MultiFernet([Fernet(_fernet_key(key)) for key in accepted_keys(_PURPOSE)])


def _fernet_key(key: bytes) -> bytes:
    return base64.urlsafe_b64encode(key[:32])
