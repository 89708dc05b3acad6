"""System checks of the settings that say who may come in."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from tenants.callers import LONGEST_BELIEF_SECONDS


@register
def check_token_cache(**_: Any) -> list[CheckMessage]:
    if 0 <= settings.TOKEN_CACHE_SECONDS <= LONGEST_BELIEF_SECONDS:
        return []
    return [
        Error(
            f"TOKEN_CACHE_SECONDS is {settings.TOKEN_CACHE_SECONDS}; it may be 0 to {LONGEST_BELIEF_SECONDS}.",
            hint="It is how long a revoked token can outlive its revocation.",
            id="tenants.E001",
        )
    ]


@register
def check_shopify_app(**_: Any) -> list[CheckMessage]:
    if any(not secret.strip() for secret in settings.SHOPIFY_API_SECRETS):
        return [
            Error(
                "SHOPIFY_API_SECRET holds an empty secret.",
                hint="Anyone can sign with an empty secret. Write the secrets comma separated, with none left out.",
                id="tenants.E002",
            )
        ]
    if bool(settings.SHOPIFY_API_SECRETS) != bool(settings.SHOPIFY_API_KEY):
        return [
            Warning(
                "Of SHOPIFY_API_KEY and SHOPIFY_API_SECRET only one is set, so every session token is refused.",
                hint="Set both, or neither where no Shopify app calls.",
                id="tenants.W001",
            )
        ]
    return []
