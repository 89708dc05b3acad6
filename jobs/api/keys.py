"""Keys derived from ``DJANGO_SECRET_KEY``, a separate one for each purpose."""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tenants.fast_settings import settings


def current_key(purpose: str) -> bytes:
    """64 bytes, the same in every process of this installation."""
    return derived_key(settings.SECRET_KEY, purpose)


def accepted_keys(purpose: str) -> list[bytes]:
    """The current key, then those of ``SECRET_KEY_FALLBACKS``."""
    return [derived_key(secret, purpose) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


@lru_cache(maxsize=64)
def derived_key(secret: str, purpose: str) -> bytes:
    """HKDF-SHA256 (RFC 5869) of ``secret``, 64 bytes."""
    return HKDF(SHA256(), length=64, salt=None, info=f"jobs-gateway {purpose}".encode()).derive(secret.encode())
