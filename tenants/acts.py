"""What commands do to tenants and tokens, for those who record it: ``tenants`` does not know who that is."""

from __future__ import annotations

from django.dispatch import Signal

# Sent inside the transaction of the act, with ``action`` (tenant_added, token_issued or token_revoked), ``tenant``,
# ``subject``: the token's prefix or "", and ``command``: its line without secrets.
command_acted = Signal()
