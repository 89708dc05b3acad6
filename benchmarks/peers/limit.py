"""The limit: a bare WSGI function, a psycopg connection a thread, the gateway's own SQL and signer, orjson.

Nothing is checked and nothing can go wrong: no parameters, no errors, no redaction, no row security, no pool.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import django
import orjson
import psycopg

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jobs_gateway.settings")
django.setup()

from django.db import connections  # noqa: E402 - once Django is set up

from benchmarks.peers.fleet import FLEET_STATUS, item  # noqa: E402
from jobs.api.fleet import queries as fleet  # noqa: E402
from jobs.api.v1 import queries as v1  # noqa: E402
from jobs.artifacts.signing import links  # noqa: E402
from jobs.database.prepared import Param, PreparedQuery  # noqa: E402
from jobs.fold import FoldEvent  # noqa: E402
from jobs.ulid import parse_ulid, ulid_text  # noqa: E402

Values = dict[str, Any]
tenants: dict[str, int] = {}


class Database(threading.local):
    """One connection a thread."""

    def __init__(self) -> None:
        url = os.environ["DATABASE_URL"].replace("postgres://", "postgresql://")
        self.execute = psycopg.connect(url, autocommit=True, prepare_threshold=0).execute


database = Database()


def statement(prepared: PreparedQuery) -> Callable[[Values], list[Any]]:
    """The gateway's statement, bound and run with psycopg alone."""
    sql, template = prepared.compiled(connections["default"])

    def run(values: Values) -> list[Any]:
        return database.execute(
            sql, [values[part.name] if isinstance(part, Param) else part for part in template]
        ).fetchall()

    return run


list_page = statement(v1.list_query(limit=50))
detail = statement(v1.DETAIL)
events = statement(v1.EVENTS)
fleet_page = statement(fleet.list_query(limit=10))


def tenant_of(authorization: str) -> int:
    if authorization not in tenants:
        token_hash = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
        row = database.execute("SELECT tenant_id FROM tenants_apitoken WHERE token_hash = %s", [token_hash]).fetchone()
        assert row
        tenants[authorization] = row[0]
    return tenants[authorization]


def artifacts(rows: list[Any]) -> list[dict[str, Any]]:
    url = links("").url
    return [
        {"image_url": url(key), "kind": kind, "role": role, "label": label, "meta": meta}
        for key, kind, role, label, meta in rows
    ]


def event(row: list[Any]) -> dict[str, Any]:
    return {
        "seq": row[0],
        "event_type": row[1],
        "visibility": row[2],
        "stage": row[3],
        "message": row[4],
        "artifacts": artifacts(row[7]),
        "extra": row[5],
        "created_at": row[6],
    }


def summary(row: Any) -> dict[str, Any]:
    return {"public_id": ulid_text(row[0]), "job_type": row[1], "status": row[2], "created_at": row[3]}


def fleet_job(document: str) -> dict[str, Any]:
    hex_id, job_type, status, created, request, rows, finals = orjson.loads(document)
    for row in rows:
        row[-1] = datetime.fromisoformat(row[-1])
    pictures = artifacts(finals) if status == "SUCCESS" else []
    return item(UUID(hex_id), job_type, status, created, request, [FoldEvent(*row) for row in rows], pictures)


def answer(path: str, tenant: int) -> dict[str, Any]:
    if path == "/v1/jobs":
        rows = list_page({"tenant": tenant})
        return {"jobs": [summary(row) for row in rows], "limit": 50, "offset": 0, "count": len(rows)}
    if path == "/job":
        rows = fleet_page({"tenant": tenant})
        counts = dict(zip(FLEET_STATUS.values(), orjson.loads(rows[0][0])[0], strict=True))
        items = [fleet_job(document) for _, document in rows]
        return {"total_items": sum(counts.values()), "status_counts": counts, "items": items}
    job = parse_ulid(path.split("/")[3]).to_uuid()
    if path.endswith("/events"):
        _, public_id, last_public_seq, rows = orjson.loads(
            events({"tenant": tenant, "public_id": job, "since": 0})[0][0]
        )
        return {
            "public_id": ulid_text(public_id),
            "events": [event(row) for row in rows],
            "latest_seq": rows[-1][0] if rows else last_public_seq or None,
        }
    _, *columns, request, result, latest = orjson.loads(detail({"tenant": tenant, "public_id": job})[0][0])
    body = summary(columns)
    body["request"] = request
    body["result"] = artifacts(result) if body["status"] == "SUCCESS" else []
    body["latest_event"] = event(latest[0]) if latest else None
    return body


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    body = orjson.dumps(answer(environ["PATH_INFO"], tenant_of(environ["HTTP_AUTHORIZATION"])), option=orjson.OPT_UTC_Z)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
