"""Why credentials open nothing: counted for the operator, never told to the caller."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter

REJECTED = Counter("gateway_credentials_rejected", "Credentials that opened nothing, by reason.", ["reason"])


def rejected(reason: str) -> Any:
    """None, which is what a credential that opens nothing stands for; counted under ``reason``, a word or two."""
    REJECTED.labels(reason).inc()
    return None
