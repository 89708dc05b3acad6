"""System checks of the settings for credentials, rate limits and the replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connections

from tenants.callers import MAX_CACHE_SECONDS


@checks.register
def check_token_cache(**_: Any) -> list[checks.CheckMessage]:
    if 0 <= settings.TOKEN_CACHE_SECONDS <= MAX_CACHE_SECONDS:
        return []
    return [
        checks.Error(
            f"TOKEN_CACHE_SECONDS is {settings.TOKEN_CACHE_SECONDS}; it may be 0 to {MAX_CACHE_SECONDS}.",
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
def check_replica(**_: Any) -> list[checks.CheckMessage]:
    if settings.DATABASE_REPLICA_MAX_LAG_SECONDS <= 0:
        return [
            checks.Error(
                f"DATABASE_REPLICA_MAX_LAG_SECONDS is {settings.DATABASE_REPLICA_MAX_LAG_SECONDS}, so no replica does.",
                hint="Set it to more than 0; a replica that keeps up is a fraction of a second behind.",
                id="tenants.E005",
            )
        ]
    if settings.API_REPLICA and _place(settings.API_REPLICA) == _place(settings.API_DATABASE) and not _seeks_standby():
        return [
            checks.Warning(
                "DATABASE_REPLICA_URL leads to the very server that it is to stand in for.",
                hint="Name the streaming replica, or leave it out where there is none.",
                id="tenants.W003",
            )
        ]
    return []


def _seeks_standby() -> bool:
    """Whether DATABASE_REPLICA_URL may name the hosts of the primary too: a standby among them is looked for."""
    target = settings.DATABASES[settings.API_REPLICA]["OPTIONS"].get("target_session_attrs")
    return target in ("standby", "prefer-standby")


def _place(alias: str) -> tuple[Any, ...]:
    config = settings.DATABASES[alias]
    return config.get("HOST") or config["OPTIONS"].get("host"), config.get("PORT"), config["NAME"]


@checks.register(checks.Tags.database)
def check_replica_is_one(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Runs with ``check --database replica``. A server that is not a replica never gets the writes of the primary."""
    if not settings.API_REPLICA or settings.API_REPLICA not in (databases or ()) or _seeks_standby():
        return []
    with connections[settings.API_REPLICA].cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        if cursor.fetchone()[0]:
            return []
    return [
        checks.Error(
            "DATABASE_REPLICA_URL leads to a server that is no replica: it takes writes of its own.",
            hint="After a failover DATABASE_URL and DATABASE_API_URL name the new primary.",
            id="tenants.E006",
        )
    ]


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
    if any(limits) and isinstance(caches["default"], LocMemCache):
        return [
            checks.Warning(
                "A rate limit is set without CACHE_URL: each process of the gateway counts for itself.",
                hint="Set CACHE_URL to redis:// or valkey://, or serve with one process.",
                id="tenants.W002",
            )
        ]
    return []
