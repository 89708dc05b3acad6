"""Why credentials are rejected: counted for the operator, never told to the caller."""

from __future__ import annotations

from prometheus_client import Counter

REJECTED = Counter("gateway_credentials_rejected", "Credentials that were rejected, by reason.", ["reason"])


def count_rejection(reason: str) -> None:
    """``reason`` is a word or two from the code, never anything that a caller sent."""
    REJECTED.labels(reason).inc()
