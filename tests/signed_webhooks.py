"""A webhook as the gateway signs it, for the clients that verify it."""

from __future__ import annotations

import json
import time
from typing import Any

from jobs.webhooks import signing

DATA = {
    "id": "01JADE5XAMPK9M0Q7RS3T4V5W6-4",
    "type": "job.succeeded",
    "job": {
        "public_id": "01JADE5XAMPK9M0Q7RS3T4V5W6",
        "job_type": "MODEL_GENERATOR",
        "status": "SUCCESS",
        "created_at": "2026-04-15T12:00:00Z",
    },
    "event": {
        "seq": 4,
        "event_type": "succeeded",
        "visibility": "public",
        "stage": None,
        "message": "Done ✓",
        "artifacts": [],
        "extra": {},
        "created_at": "2026-04-15T12:00:09Z",
    },
    "result": [],
}


def signed_webhook(data: dict[str, Any] = DATA, kind: str = "job.succeeded") -> dict[str, Any]:
    """``secret``, ``headers`` and ``body`` of a webhook that is sent now, and another secret, ``other``."""
    secret = signing.new_secret()
    body = json.dumps({"type": kind, "timestamp": "2026-04-15T12:00:09Z", "data": data}, ensure_ascii=False)
    headers = signing.signature_headers(
        [signing.signing_key(secret)], data.get("id", "webhook.test-1"), int(time.time()), body.encode()
    )
    return {"secret": secret, "headers": headers, "body": body, "other": signing.new_secret()}
