"""Webhooks: verifies that a request is the gateway's, by Standard Webhooks 1.0, and reads it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobs_gateway_client import models
from jobs_gateway_client.errors import JobsGatewayError
from jobs_gateway_client.results import decode

__all__ = ["Webhook", "WebhookVerificationError", "unwrap"]


# Of a time that can be this machine's. int() takes long for thousands of them.
MAX_DIGITS = 12


class WebhookVerificationError(JobsGatewayError):
    """The request is not the gateway's, or it is too old: answer it with 401."""


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """What a verified request says."""

    id: str
    """The event's ``id``, the same at each attempt and in the feed: drop a webhook whose id you have already."""
    type: str
    """``job.<event_type>``, or ``webhook.test``."""
    timestamp: datetime
    """When the event happened."""
    event: models.FeedEvent | None
    """None for a test."""
    result: Sequence[models.ArtifactResponse] | None
    """With ``job.succeeded``: the job's final pictures."""


def unwrap(body: bytes | str, headers: Mapping[str, str], secret: str, *, tolerance_seconds: float = 300) -> Webhook:
    """Verifies a request and reads it.

    ``body`` is the body as it came, before anything parsed it. ``secret`` is what ``create_webhook`` printed
    (``whsec_…``). The time of the attempt may be ``tolerance_seconds`` from this machine's. Raises
    WebhookVerificationError, and ValueError for a text that is no secret.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    if not key:
        raise ValueError("A secret is whsec_ and base64.")
    given = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, timestamp, signatures = (given[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise WebhookVerificationError(f"The request has no {error.args[0]}.") from None
    is_number = timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= MAX_DIGITS
    if not (is_number and abs(time.time() - int(timestamp)) <= tolerance_seconds):
        raise WebhookVerificationError("The time of the request is too far from the time of this machine.")
    content = body.encode() if isinstance(body, str) else body
    signed = f"{webhook_id}.{timestamp}.".encode() + content
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
    if not any(hmac.compare_digest(expected, each.encode()) for each in signatures.split(" ")):
        raise WebhookVerificationError("No signature is one of this secret.")
    return _read(webhook_id, json.loads(content))


def _read(webhook_id: str, payload: Mapping[str, Any]) -> Webhook:
    data: Mapping[str, Any] = payload["data"]
    result = data.get("result")
    return Webhook(
        id=webhook_id,
        type=payload["type"],
        timestamp=datetime.fromisoformat(payload["timestamp"].replace("Z", "+00:00")),
        event=decode(models.FeedEvent, data) if "event" in data else None,
        result=None if result is None else [decode(models.ArtifactResponse, each) for each in result],
    )
