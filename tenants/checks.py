"""System checks of the settings that say who may come in."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.cache import caches
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache

from tenants.callers import LONGEST_BELIEF_SECONDS


@checks.register
def check_token_cache(**_: Any) -> list[checks.CheckMessage]:
    if 0 <= settings.TOKEN_CACHE_SECONDS <= LONGEST_BELIEF_SECONDS:
        return []
    return [
        checks.Error(
            f"TOKEN_CACHE_SECONDS is {settings.TOKEN_CACHE_SECONDS}; it may be 0 to {LONGEST_BELIEF_SECONDS}.",
            hint="It is how long a revoked token can outlive its revocation.",
            id="tenants.E001",
        )
    ]


@checks.register
def check_shopify_app(**_: Any) -> list[checks.CheckMessage]:
    if any(not secret.strip() for secret in settings.SHOPIFY_API_SECRETS):
        return [
            checks.Error(
                "SHOPIFY_API_SECRET holds an empty secret.",
                hint="Anyone can sign with an empty secret. Write the secrets comma separated, with none left out.",
                id="tenants.E002",
            )
        ]
    if bool(settings.SHOPIFY_API_SECRETS) != bool(settings.SHOPIFY_API_KEY):
        return [
            checks.Warning(
                "Of SHOPIFY_API_KEY and SHOPIFY_API_SECRET only one is set, so every session token is refused.",
                hint="Set both, or neither where no Shopify app calls.",
                id="tenants.W001",
            )
        ]
    return []


@checks.register
def check_rate_limits(**_: Any) -> list[checks.CheckMessage]:
    limits = (settings.RATE_LIMIT_PER_TENANT, settings.RATE_LIMIT_FAILED_PER_ADDRESS)
    if min(limits) < 0:
        return [
            checks.Error(
                "RATE_LIMIT_PER_TENANT and RATE_LIMIT_FAILED_PER_ADDRESS are requests a minute, from 0, which is off.",
                id="tenants.E003",
            )
        ]
    if any(limits) and isinstance(caches["default"], (DatabaseCache, DummyCache, FileBasedCache)):
        return [
            checks.Error(
                "CACHE_URL names a cache that cannot count in one step: parallel requests would pass a limit.",
                hint="Use redis:// or valkey://.",
                id="tenants.E004",
            )
        ]
    if any(limits) and isinstance(caches["default"], LocMemCache):
        return [
            checks.Warning(
                "A rate limit is set without CACHE_URL: each process of the gateway counts for itself.",
                hint="Set CACHE_URL to redis:// or valkey://, or serve with one process.",
                id="tenants.W002",
            )
        ]
    return []
