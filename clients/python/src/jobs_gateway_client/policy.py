"""How long the client waits, and how often it repeats a request."""

from __future__ import annotations

import random
from dataclasses import dataclass
from time import monotonic

from jobs_gateway_client.errors import JobsGatewayError


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Times in seconds. The defaults suit a gateway with its default settings."""

    connect_seconds: float = 10
    """To connect, and to wait for a free connection."""
    read_seconds: float = 30
    """Without a byte of a response, beside the time that the gateway was asked to wait for news."""
    silence_seconds: float = 35
    """Without a byte of a stream. The gateway sends a comment at least every 15 seconds: after two it is lost."""
    wait_seconds: int = 30
    """That the gateway is asked to wait for news, where there is no stream. At most 60."""
    fallback_seconds: float = 60
    """After a stream could not be had, or a request that waits was cut off, until it is tried again."""
    retries: int = 5
    """Of one request: how often it is repeated."""
    follow_retry_seconds: float = 600
    """Following and waiting go on for so long without any response before they raise the last error."""
    backoff_seconds: float = 0.5
    """Before the first repetition, at most; doubled for each that follows."""
    max_backoff_seconds: float = 30
    """Before a repetition, at most."""
    max_retry_after_seconds: float = 300
    """A response that asks for a longer pause is raised as its error, with ``retry_after_seconds``."""


class Retries:
    """What failed since the last success, and when to try again: exponential back-off with full jitter.

    Ends after ``policy.retries`` failures, or, for requests that ``follow``, after ``policy.follow_retry_seconds``.
    """

    def __init__(self, policy: Policy, *, follow: bool = False) -> None:
        self._policy = policy
        self._follow = follow
        self._failures = 0
        self._since = 0.0

    def reset(self) -> None:
        self._failures = 0

    def delay(self, error: JobsGatewayError) -> float:
        """Seconds to wait before the next try. Raises ``error`` where there is to be none."""
        policy = self._policy
        if not self._failures:
            self._since = monotonic()
        self._failures += 1
        asked = error.retry_after_seconds or 0.0
        used_up = (
            monotonic() - self._since > policy.follow_retry_seconds if self._follow else self._failures > policy.retries
        )
        if used_up or not error.is_retryable or asked > policy.max_retry_after_seconds:
            raise error
        longest = min(policy.max_backoff_seconds, policy.backoff_seconds * 2.0 ** min(self._failures - 1, 20))
        jitter = random.uniform(0, longest)  # noqa: S311 - spreads the clients; nothing secret
        # Many clients are told the same Retry-After: they must not all come back in the same instant.
        return asked + min(jitter, policy.backoff_seconds) if asked else jitter
