"""The limit: a raw ASGI application, written by hand for these endpoints alone. It shows what the work itself costs.

It has SQL of its own, one statement an endpoint, over asyncpg. asyncpg was faster than psycopg's async connection here:
docs/performance.md has both figures. JSON is written by orjson, links are signed by the gateway's own signer. It checks
and caches the bearer token as the gateway does. It does not validate parameters, redact, set row
security's tenant, limit rates, write a log or count metrics, and it has no deadlines and no framework.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import cache, lru_cache
from time import monotonic, time
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

import asyncpg
import orjson
from orjson import Fragment

from benchmarks.peers.fleet import FLEET_STATUS, item
from jobs.artifacts.signing import signing_times
from jobs.artifacts.sigv4 import Credentials, Presigner

CONNECTIONS = 8  # to the database
TOKEN_CACHE_SECONDS = 1  # the gateway's default
LINK_SECONDS = 900  # the gateway's default
CREDENTIALS = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], None)
BUCKET_URL = f"{os.environ['AWS_S3_ENDPOINT_URL']}/{os.environ['AWS_STORAGE_BUCKET_NAME']}/"

# --- Statements ---------------------------------------------------------------------------------------------------

TIME = "replace(to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), '.000000Z', 'Z')"
ARTIFACT = "json_build_array(artifact.storage_key, artifact.kind, artifact.role, artifact.label, artifact.meta)"
# Of a job's final artifacts, those that no event recorded come last.
RESULT = f"""
    array_to_json(ARRAY(
        SELECT {ARTIFACT}
        FROM jobs_artifact artifact LEFT JOIN jobs_jobevent recorded ON recorded.id = artifact.event_id
        WHERE artifact.job_id = job.public_id AND artifact.role = 'final'
        ORDER BY recorded.seq NULLS LAST, artifact.position
    ))
"""
EVENT = f"""
    json_build_array(
        event.seq, event.event_type, event.visibility, event.stage, event.message, event.extra,
        {TIME.format("event.created_at")},
        array_to_json(ARRAY(
            SELECT {ARTIFACT} FROM jobs_artifact artifact WHERE artifact.event_id = event.id ORDER BY artifact.position
        ))
    )
"""
TOKEN = """
    SELECT token.tenant_id, token.token_hash, token.expires_at, token.revoked_at, tenant.is_active
    FROM tenants_apitoken token JOIN tenants_tenant tenant ON tenant.id = token.tenant_id
    WHERE token.prefix = $1
"""
VERSION = "SELECT version FROM jobs_job WHERE public_id = $1 AND tenant_id = $2"
DETAIL = f"""
    SELECT job.version, job.job_type, job.v1_status, job.created_at, job.request::text,
           CASE WHEN job.v1_status = 'SUCCESS' THEN {RESULT} END::text,
           (SELECT {EVENT} FROM jobs_jobevent event
            WHERE event.job_id = job.public_id AND event.seq = job.last_public_seq)::text
    FROM jobs_job job WHERE job.public_id = $1 AND job.tenant_id = $2
"""
EVENTS = f"""
    SELECT job.version, job.last_public_seq,
           array_to_json(ARRAY(
               SELECT {EVENT} FROM jobs_jobevent event
               WHERE event.job_id = job.public_id AND event.visibility = 'public' AND event.seq > $3
               ORDER BY event.seq LIMIT 500
           ))::text
    FROM jobs_job job WHERE job.public_id = $1 AND job.tenant_id = $2
"""
FLEET = f"""
    WITH page AS MATERIALIZED (
        SELECT * FROM jobs_job WHERE tenant_id = $1 ORDER BY created_at DESC, public_id DESC LIMIT 10
    )
    SELECT job.public_id, job.job_type, job.status, job.created_at, job.request::text,
           array_to_json(ARRAY(
               SELECT json_build_array(event.seq, event.event_type, event.visibility, event.message, event.hostname,
                                       event.extra, event.created_at)
               FROM jobs_jobevent event WHERE event.job_id = job.public_id ORDER BY event.seq
           ))::text,
           CASE WHEN job.status = 'SUCCESS' AND NOT job.is_operation THEN {RESULT} END::text,
           counts.not_started, counts.in_progress, counts.success, counts.failure, counts.partial_failure
    FROM page job JOIN jobs_jobcounts counts USING (tenant_id)
    ORDER BY job.created_at DESC, job.public_id DESC
"""


@cache
def list_statement(limit: int, created_after: bool, before: bool) -> str:
    """A page of workflow jobs. The limit is part of the text, where the planner can see it."""
    conditions = ["tenant_id = $1", "is_workflow"]
    if created_after:
        conditions.append("created_at > $2")
    if before:
        conditions.append(f"(created_at, public_id) < (${2 + created_after}, ${3 + created_after})")
    return f"""
        SELECT public_id, job_type, v1_status, created_at FROM jobs_job
        WHERE {" AND ".join(conditions)} ORDER BY created_at DESC, public_id DESC LIMIT {limit}
    """


class Database:
    """A few connections to PostgreSQL. Each keeps the statements that it has prepared."""

    def __init__(self) -> None:
        self.idle: asyncio.LifoQueue[tuple[Any, dict[str, Any]]] = asyncio.LifoQueue()

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self.idle.put_nowait((await asyncpg.connect(os.environ["DATABASE_URL"]), {}))

    async def close(self) -> None:
        for _ in range(CONNECTIONS):
            connection, _ = await self.idle.get()
            await connection.close()

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        entry = await self.idle.get()
        try:
            connection, statements = entry
            statement = statements.get(sql)
            if statement is None:
                statement = statements[sql] = await connection.prepare(sql)
            return await statement.fetch(*values)
        finally:
            self.idle.put_nowait(entry)

    async def row(self, sql: str, *values: Any) -> Any:
        """The only row. Raises HTTPError where there is none."""
        rows = await self.fetch(sql, *values)
        if not rows:
            raise HTTPError(404)
        return rows[0]


database = Database()


class HTTPError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


# --- Callers ------------------------------------------------------------------------------------------------------

tenants: dict[bytes, tuple[int, float]] = {}  # by the Authorization header; with the time until which it counts


async def tenant_of(authorization: bytes) -> int:
    """Raises HTTPError unless the header is ``Bearer`` and a valid token."""
    cached = tenants.get(authorization)
    if cached and monotonic() < cached[1]:
        return cached[0]
    token = authorization.removeprefix(b"Bearer ")
    parts = token.decode("latin-1").split("_", 2)
    rows = await database.fetch(TOKEN, parts[1]) if len(parts) == 3 else []
    if not rows or not hmac.compare_digest(rows[0][1], hashlib.sha256(token).hexdigest()):
        raise HTTPError(401)
    tenant, _, expires_at, revoked_at, is_active = rows[0]
    if revoked_at or not is_active or (expires_at and expires_at <= datetime.now(UTC)):
        raise HTTPError(401)
    tenants[authorization] = tenant, monotonic() + TOKEN_CACHE_SECONDS
    return tenant


# --- Answers ------------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """An event as ``/job`` reads it."""

    seq: int
    event_type: str
    visibility: str
    message: str
    hostname: str | None
    extra: dict[str, Any]
    created_at: datetime


@lru_cache(maxsize=2)
def presigner(signed_at: int, expires_at: int) -> Presigner:
    return Presigner(BUCKET_URL, "us-east-1", CREDENTIALS, signed_at, expires_at)


def signer() -> Callable[[str], str]:
    """The signer of the current window. A response signs each key once."""
    return cache(presigner(*signing_times(time(), LINK_SECONDS)).url)


ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
BASE_32 = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")


def ulid_text(key: UUID) -> str:
    n = key.int
    return (
        f"{PAIRS[n >> 120]}{PAIRS[n >> 110 & 1023]}{PAIRS[n >> 100 & 1023]}{PAIRS[n >> 90 & 1023]}"
        f"{PAIRS[n >> 80 & 1023]}{PAIRS[n >> 70 & 1023]}{PAIRS[n >> 60 & 1023]}{PAIRS[n >> 50 & 1023]}"
        f"{PAIRS[n >> 40 & 1023]}{PAIRS[n >> 30 & 1023]}{PAIRS[n >> 20 & 1023]}{PAIRS[n >> 10 & 1023]}{PAIRS[n & 1023]}"
    )


def key_of(public_id: str) -> UUID:
    """Raises HTTPError for what is not a ULID."""
    if not re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", public_id):
        raise HTTPError(404)
    return UUID(int=int(public_id.translate(BASE_32), 32))


def artifacts(rows: list[Any], url: Callable[[str], str]) -> list[dict[str, Any]]:
    return [
        {"image_url": url(key), "kind": kind, "role": role, "label": label, "meta": meta}
        for key, kind, role, label, meta in rows
    ]


def event_body(row: list[Any], url: Callable[[str], str]) -> dict[str, Any]:
    seq, event_type, visibility, stage, message, extra, created_at, pictures = row
    return {
        "seq": seq,
        "event_type": event_type,
        "visibility": visibility,
        "stage": stage,
        "message": message,
        "artifacts": artifacts(pictures, url),
        "extra": extra,
        "created_at": created_at,
    }


async def list_jobs(tenant: int, query: dict[str, str]) -> dict[str, Any]:
    limit = int(query.get("limit", 50))
    values: list[Any] = [tenant]
    if "created_after" in query:
        values.append(datetime.fromisoformat(query["created_after"]))
    if "before" in query:
        values += [datetime.fromisoformat(query["before"]), key_of(query["before_id"])]
    rows = await database.fetch(list_statement(limit, "created_after" in query, "before" in query), *values)
    jobs = [
        {"public_id": ulid_text(key), "job_type": job_type, "status": status, "created_at": created_at}
        for key, job_type, status, created_at in rows
    ]
    return {"jobs": jobs, "limit": limit, "offset": 0, "count": len(rows)}


async def job_detail(tenant: int, key: UUID) -> tuple[int, dict[str, Any]]:
    row = await database.row(DETAIL, key, tenant)
    version, job_type, status, created_at, request, result, latest = row
    url = signer()
    return version, {
        "public_id": ulid_text(key),
        "job_type": job_type,
        "status": status,
        "created_at": created_at,
        "request": request and Fragment(request),
        "result": artifacts(orjson.loads(result), url) if result else [],
        "latest_event": event_body(orjson.loads(latest), url) if latest else None,
    }


async def job_events(tenant: int, key: UUID, since: int) -> tuple[int, dict[str, Any]]:
    version, last_public_seq, document = await database.row(EVENTS, key, tenant, since)
    rows = orjson.loads(document)
    url = signer()
    return version, {
        "public_id": ulid_text(key),
        "events": [event_body(row, url) for row in rows],
        "latest_seq": rows[-1][0] if rows else last_public_seq or None,
    }


async def fleet(tenant: int) -> dict[str, Any]:
    rows = await database.fetch(FLEET, tenant)
    counts = dict(zip(FLEET_STATUS.values(), rows[0][7:] if rows else [0] * 5, strict=True))
    return {"total_items": sum(counts.values()), "status_counts": counts, "items": [fleet_item(row) for row in rows]}


def fleet_item(row: Any) -> dict[str, Any]:
    key, job_type, status, created_at, request, events, result = row[:7]
    rows = orjson.loads(events)
    for each in rows:
        each[6] = datetime.fromisoformat(each[6])
    pictures = artifacts(orjson.loads(result), signer()) if result else None
    return item(key, job_type, status, created_at, request and Fragment(request), [*map(Event._make, rows)], pictures)


def etag(version: int, path: str, query: bytes, tenant: int) -> str:
    """A validator of the job's version, of what is asked, and of the window of the links in the answer."""
    signed_at, _ = signing_times(time(), LINK_SECONDS)
    digest = hashlib.blake2b(b"%b?%b %d %d" % (path.encode(), query, tenant, signed_at), digest_size=15).hexdigest()
    return f'"{version}-{digest}"'


async def respond(path: str, query: bytes, authorization: bytes, if_none_match: str) -> tuple[int, str, bytes]:
    """Status, ETag ("" for none) and body. Raises HTTPError."""
    tenant = await tenant_of(authorization)
    if path == "/v1/jobs":
        return 200, "", written(await list_jobs(tenant, dict(parse_qsl(query.decode()))))
    if path == "/job":
        return 200, "", written(await fleet(tenant))
    parts = path.split("/")
    if parts[1:3] != ["v1", "jobs"] or parts[4:] not in ([], ["events"]):
        raise HTTPError(404)
    key = key_of(parts[3])
    if if_none_match:
        (version,) = await database.row(VERSION, key, tenant)
        validator = etag(version, path, query, tenant)
        if validator == if_none_match:
            return 304, validator, b""
    if parts[4:]:
        version, body = await job_events(tenant, key, int(dict(parse_qsl(query.decode())).get("since", 0)))
    else:
        version, body = await job_detail(tenant, key)
    return 200, etag(version, path, query, tenant), written(body)


def written(body: dict[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


Message = dict[str, Any]


async def application(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await database.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await database.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    authorization, if_none_match = b"", ""
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"if-none-match":
            if_none_match = value.decode("latin-1")
    try:
        status, validator, body = await respond(scope["path"], scope["query_string"], authorization, if_none_match)
    except HTTPError as error:
        status, validator, body = error.status, "", written({"status": error.status})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 304:
        headers.clear()
    if validator:
        headers.append((b"etag", validator.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
