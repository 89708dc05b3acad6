"""Rows of the log of attempts."""

from __future__ import annotations

from time import time
from typing import Any

from ulid import ULID

from jobs.database.events import FeedRow
from jobs.webhooks.answer import Answer
from jobs.webhooks.leases import moment
from jobs.webhooks.models import Attempt, Outcome
from jobs.webhooks.payload import TEST_TYPE, event_type, job_of


def attempt_of(endpoint: int, answer: Answer, number: int, outcome: Outcome, row: FeedRow | None) -> Attempt:
    """The row of the log for an attempt at ``row``, or for that of a test event."""
    about: dict[str, Any] = {"event_type": TEST_TYPE}
    if row is not None:
        about = {"job": ULID.from_hex(job_of(row)), "seq": row.event[0], "event_type": event_type(row)}
    return Attempt(
        endpoint_id=endpoint,
        at=moment(time()),
        number=number,
        outcome=outcome,
        status=answer.status,
        error=answer.error[:200],
        duration_ms=round(answer.seconds * 1000),
        answer=answer.body,
        **about,
    )
