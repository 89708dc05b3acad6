"""Look-ups of credentials: a token by its prefix, a tenant by its shop domain."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from django.db import DatabaseError, InterfaceError
from django.db.models import Q, TextField

from jobs.database.prepared import AsText, JSONRow, Param, PreparedQuery, read
from jobs.database.replica import primary_first
from tenants.authentication import CredentialStore
from tenants.models import ApiToken, Tenant
from tenants.shopify import ShopRow
from tenants.tokens import TokenRow

_TOKEN = PreparedQuery(
    lambda: ApiToken.objects.filter(prefix__in=[Param("prefix_0", TextField())]).values_list(
        AsText(
            JSONRow(
                "prefix",
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


# Tokens that one statement looks up; each number of them is a statement of its own.
MAX_BATCH = 8


class _Batch:
    """Tokens that are looked up together: the first request asks, the others wait for it."""

    def __init__(self, prefix: str) -> None:
        self.prefixes = [prefix]
        self.found: asyncio.Future[Mapping[str, TokenRow] | None] = asyncio.get_running_loop().create_future()


class TokenLookUps:
    """Looks up tokens. Those that are asked for in one turn of the event loop share a statement, for a look-up costs as
    much as a third of a request, and many tenants make many.
    """

    def __init__(self) -> None:
        self._open: _Batch | None = None

    async def find(self, prefix: str) -> TokenRow | None:
        """On the primary, or on the replica while the primary is down. Raises Django's DatabaseError."""
        batch = self._open
        if batch is None or len(batch.prefixes) == MAX_BATCH:
            found = await self._begin(_Batch(prefix))
        else:
            batch.prefixes.append(prefix)
            found = await asyncio.shield(batch.found)
        # Nobody shares another's fate: a token that the replica lacks, a request that is cancelled.
        return (await _tokens([prefix]) if found is None else found).get(prefix)

    async def _begin(self, batch: _Batch) -> Mapping[str, TokenRow] | None:
        """The tokens of ``batch``; None where they could not be looked up together."""
        self._open = batch
        found = None
        try:
            try:
                await asyncio.sleep(0)  # the requests that arrived together with this one join it
            finally:
                if self._open is batch:
                    self._open = None
            found = await _tokens(batch.prefixes)
        except (DatabaseError, InterfaceError):
            if len(batch.prefixes) == 1:
                raise
        finally:
            batch.found.set_result(found)
        return found


async def _tokens(prefixes: Sequence[str]) -> Mapping[str, TokenRow]:
    """The tokens with these prefixes, by one statement."""
    statement = _TOKEN.statement(one_of=len(prefixes))
    values = {f"prefix_{number}": prefix for number, prefix in enumerate(prefixes)}
    rows = await primary_first(partial(read, statement, values), lambda rows: len(rows) == len(set(prefixes)))
    return {prefix: _token_row(*columns) for prefix, *columns in (orjson.loads(document) for (document,) in rows)}


def _token_row(
    pk: int,
    token_hash: str,
    revoked_at: str | None,
    expires_at: str | None,
    last_used_at: str | None,
    tenant_id: int,
    slug: str,
    storage_prefix: str,
    is_active: Any,  # SQLite has no booleans
) -> TokenRow:
    revoked, expires, last_used = map(_time, (revoked_at, expires_at, last_used_at))
    return TokenRow(pk, token_hash, revoked, expires, last_used, tenant_id, slug, storage_prefix, bool(is_active))


async def find_shop(shop_domain: str) -> ShopRow | None:
    """The active tenant of a shop; as :meth:`TokenLookUps.find`."""
    document = await _SHOP.fetch_latest_document({"shop_domain": shop_domain})
    return None if document is None else ShopRow(*orjson.loads(document))


def _time(text: str | None) -> datetime | None:
    """PostgreSQL writes ``2026-04-15 12:00:00.5+00``, SQLite the same in UTC without its offset."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


CREDENTIALS = CredentialStore(TokenLookUps().find, find_shop)
