"""Counts rejected credentials by reason, for the operator. No response contains the reason."""

from __future__ import annotations

from prometheus_client import Counter

REJECTED = Counter("gateway_credentials_rejected", "Credentials that were rejected, by reason.", ["reason"])


def count_rejection(reason: str) -> None:
    """``reason`` is a constant of the code, never a value from a request."""
    REJECTED.labels(reason).inc()
