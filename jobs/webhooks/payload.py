"""The body of a webhook, rendered at each attempt: its links are new, its texts redacted as in the API's responses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from jobs.api.rendering import to_json
from jobs.api.tenant_renderer import TenantRenderer
from jobs.api.v1.serializers import FeedEventSerializer
from jobs.database.events import EventRow, FeedRow
from jobs.ulid import ulid_text
from jobs.webhooks.queries import read_result
from tenants.callers import Caller

TEST_TYPE = "webhook.test"


def event_id(row: FeedRow) -> str:
    """The ``webhook-id``: the ``id`` of the event in the feed."""
    return f"{ulid_text(row.job[0])}-{row.event[0]}"


def job_of(row: FeedRow) -> str:
    """The id of the event's job, 32 hexadecimal digits on every database."""
    return str(row.job[0]).replace("-", "")


def event_type(row: FeedRow) -> str:
    return f"job.{row.event[1]}"


def origin() -> str:
    """Where links to local pictures lead, for there is no request that would say it."""
    host = "127.0.0.1" if settings.WEB_HOST in ("0.0.0.0", "::") else settings.WEB_HOST  # noqa: S104 - not bound here
    return settings.PUBLIC_BASE_URL or f"http://{f'[{host}]' if ':' in host else host}:{settings.PORT}"


async def payload(row: FeedRow, caller: Caller) -> bytes:
    """The body for an event of the tenant ``caller``. Raises DatabaseError, and CannotSign without credentials."""
    event = EventRow._make(row.event)
    result = await read_result(caller.tenant_id, job_of(row)) if event.event_type == "succeeded" else None
    renderer = TenantRenderer(origin(), caller)
    data: dict[str, Any] = FeedEventSerializer.represent(row, renderer)
    body = {"type": data["type"], "timestamp": event.created_at, "data": data}
    if result is not None:
        data["result"] = renderer.artifact_responses(result)
    return to_json(body)


def payload_of_test() -> bytes:
    """The body of a test event, which is about no job."""
    return to_json({"type": TEST_TYPE, "timestamp": datetime.now(UTC), "data": {}})
