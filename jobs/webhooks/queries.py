"""What a worker reads of the store: through the API's readers, as the API's role, one tenant at a time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, NamedTuple, Self

import orjson
from django.conf import settings
from django.db import OperationalError
from django.db.models import Case, JSONField, QuerySet, TextField, When
from ulid import ULID

from jobs.database.artifacts import RESULT, TENANT
from jobs.database.events import LAST_EXAMINED, FeedRow, feed_page, feed_row, pushed_events
from jobs.database.prepared import ANY_LIMIT, AsText, IsOneOf, JSONRow, Param, PreparedQuery
from jobs.database.records import columns
from jobs.models import Job, JobCounts, JobEvent, JobStatus
from jobs.ulid import ULIDField

# Of a read, the wait for a connection included. Nobody waits for it as for a request of the API.
READ_SECONDS = 10.0


class PageRow(NamedTuple):
    """One page of the events that are pushed."""

    last_position: int  # of the tenant
    last_examined: int  # the page has every such event up to this position, unless a bound ended it before
    events: list[list[Any]]  # each a FeedRow; a null after them where the page is cut

    @classmethod
    def parse(cls, document: str | None) -> Self:
        """None stands for a tenant that has had no job yet."""
        return cls(0, 0, []) if document is None else cls(*orjson.loads(document))


class Page(NamedTuple):
    rows: list[FeedRow]
    up_to: int  # the page has all that there is up to this position


def _page(of_event_types: bool) -> QuerySet[JobCounts, Any]:
    page = feed_page(of_job_types=False, of_event_types=of_event_types, pushed_only=True)
    selected = columns(PageRow, last_examined=LAST_EXAMINED, events=page)
    return JobCounts.objects.for_tenant(TENANT).values_list(AsText(JSONRow(*selected)))


def _next_event(of_event_types: bool) -> QuerySet[JobEvent, Any]:
    events = pushed_events().filter(job=Param("job", ULIDField()), seq__gte=Param("seq"))
    if of_event_types:
        events = events.filter(IsOneOf("event_type", Param("event_types", TextField())))
    return events.order_by("seq").values_list(AsText(feed_row()))[:1]


def _result() -> QuerySet[Job, Any]:
    result = Case(When(v1_status=JobStatus.SUCCESS, then=RESULT), output_field=JSONField())
    return Job.objects.for_tenant(TENANT).filter(pk=Param("job", ULIDField())).values_list(AsText(JSONRow(result)))


# By whether they are filtered by event types.
_PAGES = {filtered: PreparedQuery(partial(_page, filtered)) for filtered in (False, True)}
_NEXT_EVENTS = {filtered: PreparedQuery(partial(_next_event, filtered)) for filtered in (False, True)}
_RESULT = PreparedQuery(_result)


async def read_page(tenant: int, event_types: tuple[str, ...], after: int, limit: int) -> Page:
    """The events after the position ``after``. Raises DatabaseError."""
    document = await _read(_PAGES[bool(event_types)], limit, tenant=tenant, after=after, event_types=event_types)
    page = PageRow.parse(document)
    rows = [FeedRow._make(each) for each in page.events if each is not None]
    if len(rows) < len(page.events) or len(rows) == limit:
        return Page(rows, rows[-1].position)
    return Page(rows, max(after, min(page.last_examined, page.last_position)))


async def read_next_event(tenant: int, event_types: tuple[str, ...], job: str, seq: int) -> FeedRow | None:
    """The first event from ``seq`` on of ``job`` (hexadecimal digits); None for none. Raises DatabaseError."""
    query = _NEXT_EVENTS[bool(event_types)]
    document = await _read(query, tenant=tenant, job=ULID.from_hex(job), seq=seq, event_types=event_types)
    return None if document is None else FeedRow._make(orjson.loads(document))


async def read_result(tenant: int, job: str) -> list[list[Any]] | None:
    """The job's final artifacts, each an ArtifactRow; None unless it succeeded. Raises DatabaseError."""
    document = await _read(_RESULT, tenant=tenant, job=ULID.from_hex(job))
    result: list[list[Any]] | None = None if document is None else orjson.loads(document)[0]
    return result


async def _read(
    query: PreparedQuery, limit: int = ANY_LIMIT, *, event_types: tuple[str, ...] = (), **values: Any
) -> str | None:
    """The document of a query, from the primary: endpoints' positions are there too. Raises DatabaseError."""
    values["event_types"] = orjson.dumps(event_types).decode()
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await query.read_document(values, settings.API_DATABASE, limit)
    except TimeoutError as error:
        raise OperationalError(f"no answer within {READ_SECONDS} s") from error
