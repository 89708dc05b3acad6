"""Look-ups of credentials: a token by its prefix, a tenant by its shop domain."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from django.db.models import Q, TextField

from jobs.database.prepared import AsText, JSONRow, Param, PreparedQuery
from jobs.database.replica import primary_first
from tenants.authentication import CredentialStore
from tenants.models import ApiToken, Tenant
from tenants.shopify import ShopRow
from tenants.tokens import TokenRow

_TOKEN = PreparedQuery(
    lambda: ApiToken.objects.filter(prefix=Param("prefix", TextField())).values_list(
        AsText(
            JSONRow(
                "pk",
                "token_hash",
                AsText("revoked_at"),
                AsText("expires_at"),
                AsText("last_used_at"),
                "tenant_id",
                "tenant__slug",
                "tenant__storage_prefix",
                "tenant__is_active",
            )
        )
    )
)
_SHOP = PreparedQuery(
    lambda: Tenant.objects.filter(Q(is_active=True), shop_domain=Param("shop_domain", TextField())).values_list(
        AsText(JSONRow("pk", "slug", "storage_prefix"))
    )
)


async def _find(query: PreparedQuery, name: str, value: str) -> list[Any] | None:
    document = await primary_first(partial(query.read_document, {name: value}))
    return None if document is None else orjson.loads(document)


async def find_token(prefix: str) -> TokenRow | None:
    """One statement, on the primary, or on the replica while the primary is down. Raises Django's DatabaseError."""
    row = await _find(_TOKEN, "prefix", prefix)
    if row is None:
        return None
    pk, token_hash, revoked_at, expires_at, last_used_at, tenant_id, slug, storage_prefix, is_active = row
    revoked_at, expires_at, last_used_at = map(_time, (revoked_at, expires_at, last_used_at))
    times = (revoked_at, expires_at, last_used_at)
    return TokenRow(pk, token_hash, *times, tenant_id, slug, storage_prefix, bool(is_active))


async def find_shop(shop_domain: str) -> ShopRow | None:
    """The active tenant of a shop; as :func:`find_token`."""
    row = await _find(_SHOP, "shop_domain", shop_domain)
    return None if row is None else ShopRow(*row)


def _time(text: str | None) -> datetime | None:
    """PostgreSQL writes ``2026-04-15 12:00:00.5+00``, SQLite the same in UTC without its offset."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


CREDENTIALS = CredentialStore(find_token, find_shop)
