"""How much more a request costs at 1,000,000 jobs of one tenant than at 10,000: whole requests, one beside the other.

Makes both stores in a PostgreSQL server of its own and asks the gateway's WSGI application for them turn by turn. Takes
a few minutes and about 4 GB of disk.
"""

from __future__ import annotations

import gc
import io
import os
import statistics
from collections import defaultdict
from time import perf_counter
from typing import Any, NamedTuple

from tests.servers import PostgreSQL, postgresql, temporary_folder

SIZES = (10_000, 1_000_000)
EVENTS = 4  # of each job
REQUESTS_A_TURN = 50
DEEP_OFFSET = 100_000

# One job in a thousand failed, one in a thousand is of the last type, one in ten is an operation on three agents.
JOBS = """
INSERT INTO jobs_job (public_id, tenant_id, job_type, status, created_at, updated_at, request, last_seq,
                      last_public_seq, version, is_operation)
SELECT (lpad(to_hex(1767225600000 + n * 1000), 12, '0') || substr(md5(n::text), 1, 20))::uuid, {tenant},
       CASE WHEN n % 10 = 0 THEN 'node.command'
            WHEN n % 1000 = 3 THEN 'MODEL_SWAP_WITH_IMAGE'
            ELSE (ARRAY['MODEL_GENERATOR', 'BACKGROUND_GENERATOR', 'PRODUCT_TO_MODEL_DIRECT'])[n % 3 + 1] END,
       CASE WHEN n % 1000 = 7 THEN 'FAILURE' WHEN n % 4 = 1 THEN 'IN_PROGRESS' ELSE 'SUCCESS' END,
       timestamptz '2026-01-01' + n * interval '1 second', timestamptz '2026-01-01' + n * interval '1 second',
       '{{"prompt": "studio, soft light"}}', {events}, {events}, 1, n % 10 = 0
FROM generate_series(1, {jobs}) AS n
"""
EVENTS_OF_JOBS = """
INSERT INTO jobs_jobevent (job_id, tenant_id, seq, event_type, visibility, message, hostname, extra, created_at)
SELECT public_id, tenant_id, seq,
       CASE WHEN is_operation THEN (ARRAY['started', 'completed', 'failed', 'completed'])[seq]
            ELSE (ARRAY['queued', 'stage', 'stage', 'succeeded'])[seq] END,
       'public', 'What happened, in a line', CASE WHEN is_operation THEN 'web-0' || seq % 3 END,
       '{{"data": {{"free": 7}}, "changed": true}}', created_at + seq * interval '1 second'
FROM jobs_job, generate_series(1, {events}) AS seq
"""
ARTIFACTS = """
INSERT INTO jobs_artifact (job_id, tenant_id, event_id, position, storage_key, kind, role, meta)
SELECT job_id, tenant_id, id, 0, 'tenants/acme/' || id || '.png', 'render', 'final', '{{"width": 1024}}'
FROM jobs_jobevent WHERE event_type = 'succeeded'
"""
COUNTS = """
INSERT INTO jobs_jobcounts (tenant_id, not_started, in_progress, success, failure, partial_failure)
SELECT {tenant}, 0, count(*) FILTER (WHERE status = 'IN_PROGRESS'), count(*) FILTER (WHERE status = 'SUCCESS'),
       count(*) FILTER (WHERE status = 'FAILURE'), 0
FROM jobs_job
"""
# Of what is rare the smaller store has ten jobs, so ten are asked for.
FILTERS = {
    "job_type": "job_type=MODEL_GENERATOR",
    "rare job_type": "job_type=MODEL_SWAP_WITH_IMAGE&limit=10",
    "status": "status=SUCCESS",
    "rare status": "status=FAILURE&limit=10",
    "created_after": "created_after=2026-01-01T00:10:00Z",
    "job_type, status": "job_type=MODEL_GENERATOR&status=SUCCESS",
    "rare job_type, status": "job_type=MODEL_SWAP_WITH_IMAGE&status=SUCCESS&limit=10",
    "job_type, rare status": "job_type=BACKGROUND_GENERATOR&status=FAILURE&limit=10",
    "two job_types": "job_type=MODEL_GENERATOR&job_type=BACKGROUND_GENERATOR",
    "two job_types, one rare": "job_type=MODEL_GENERATOR&job_type=MODEL_SWAP_WITH_IMAGE&limit=10",
    "rare job_type, created_after": "job_type=MODEL_SWAP_WITH_IMAGE&created_after=2026-01-01T00:10:00Z&limit=10",
    "rare status, created_after": "status=FAILURE&created_after=2026-01-01T00:10:00Z&limit=10",
    "all": "job_type=MODEL_GENERATOR&status=SUCCESS&created_after=2026-01-01T00:10:00Z",
    "all, rare": "job_type=BACKGROUND_GENERATOR&status=FAILURE&created_after=2026-01-01T00:10:00Z&limit=10",
}


def paths(job: str) -> dict[str, str]:
    """What is asked, by endpoint and filter; ``job`` is a finished one from the middle of the store."""
    return {
        "list": "/v1/jobs",
        **{f"list: {name}": f"/v1/jobs?{query}" for name, query in FILTERS.items()},
        "detail": f"/v1/jobs/{job}",
        "events": f"/v1/jobs/{job}/events",
        "job": "/job",
        "job: status": "/job?status=processing",
        "job: rare status": "/job?status=failed",
    }


def fill(server: PostgreSQL, database: str, tenant: int, jobs: int) -> str:
    """The id of a finished job from the middle."""
    # As a superuser and without triggers: these rows cannot break a constraint, and checking 5,000,000 takes minutes.
    told = [text.format(tenant=tenant, jobs=jobs, events=EVENTS) for text in (JOBS, EVENTS_OF_JOBS, ARTIFACTS, COUNTS)]
    server.psql("SET session_replication_role = replica", *told, "VACUUM (ANALYZE)", database=database)
    middle = f"created_at > timestamptz '2026-01-01' + {jobs // 2} * interval '1 second'"
    finished = "is_workflow AND status = 'SUCCESS'"
    return server.psql(
        f"SELECT public_id FROM jobs_job WHERE {finished} AND {middle} ORDER BY created_at LIMIT 1",
        database=database,
    ).strip()


def whole_request(application: Any, url: str, token: str) -> float:
    """Milliseconds that one request takes from the WSGI server's call to the last byte."""
    path, _, query = url.partition("?")
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost:8000",
        "HTTP_AUTHORIZATION": f"Bearer {token}",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
    }
    statuses: list[str] = []
    began = perf_counter()
    response = application(environ, lambda status, headers, exc_info=None: statuses.append(status))
    body = b"".join(response)
    took = perf_counter() - began
    if statuses != ["200 OK"]:
        raise SystemExit(f"{url}: {statuses} {body[:500]!r}")
    return took * 1000


def measure(rounds: int, sizes: tuple[int, int] = SIZES) -> dict[str, float]:
    """By endpoint and filter, how many times as long the median request takes at the larger size."""
    # A million jobs and their indexes stay in memory, as they would on a machine that serves them.
    with postgresql(settings={"shared_buffers": "2GB"}) as server, temporary_folder("jgw-bench-") as folder:
        names = [f"jobs_{size}" for size in sizes]
        for name in names:
            server.psql(f"CREATE DATABASE {name}")
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "jobs_gateway.settings",
            "ENV_FILE": os.devnull,
            "DATA_DIR": str(folder),
            "DATABASE_URL": server.url(names[0]),
            "DATABASE_API_URL": "",
            "DJANGO_SECRET_KEY": "benchmark",
            "TOKEN_CACHE_SECONDS": "5",
            "RECORD_TOKEN_USE": "0",
            "ACCESS_LOG": "0",
        }
        import django

        django.setup()
        stores = [filled(server, name, size) for name, size in zip(names, sizes, strict=True)]
        try:
            return compared(stores, rounds)
        finally:
            from django.db import connections

            for alias in connections:
                connection: Any = connections[alias]
                connection.close_pool()


class Store(NamedTuple):
    """A database, what it is asked, and the credential that opens it."""

    name: str
    size: int
    paths: dict[str, str]
    token: str


def filled(server: PostgreSQL, name: str, size: int) -> Store:
    from django.core.management import call_command
    from django.db import connections

    from jobs.ulid import ulid_text
    from jobs_gateway.settings import database
    from tenants import tokens
    from tenants.models import Tenant

    connections.databases[name] = connections.databases["default"] | database(server.url(name))
    call_command("migrate", database=name, verbosity=0)
    tenant = Tenant(slug="acme")
    tenant.save(using=name)
    return Store(name, size, paths(ulid_text(fill(server, name, tenant.pk, size))), tokens.issue(tenant))


def compared(stores: list[Store], rounds: int) -> dict[str, float]:
    from django.conf import settings

    from jobs.database.prepared import PreparedQuery
    from jobs_gateway.wsgi import application
    from tenants.callers import memory

    reads: list[float] = []  # milliseconds of each statement's round trip
    fetch = PreparedQuery._fetch

    def timed(self: PreparedQuery, values: Any, alias: str) -> Any:
        began = perf_counter()
        rows = fetch(self, values, alias)
        reads.append((perf_counter() - began) * 1000)
        return rows

    def turn(store: Store, path: str) -> list[float]:
        settings.API_DATABASE = store.name
        memory.forget()
        whole_request(application, path, store.token)
        gc.collect()
        reads.clear()
        return [whole_request(application, path, store.token) for _ in range(REQUESTS_A_TURN)]

    PreparedQuery._fetch = timed  # type: ignore[method-assign]
    small, large = stores
    print(f"| request | {small.size:,} jobs, ms | {large.size:,} jobs, ms | ratio | its read there, ms |")
    print("|---|--:|--:|--:|--:|")
    ratios = {}
    for label in small.paths:
        took: dict[str, list[float]] = defaultdict(list)
        statements: list[float] = []
        for number in range(rounds + 1):
            for store in stores:
                times = turn(store, store.paths[label])
                took[store.name] += times if number else []  # the first turn warms up
            statements += reads if number else []
        few, many = (statistics.median(took[store.name]) for store in stores)
        ratios[label] = round(many / few, 2)
        statement = statistics.median(statements)
        print(f"| {label} | {few:.3f} | {many:.3f} | {ratios[label]:.2f} | {statement:.3f} |", flush=True)
    deep = statistics.median(turn(large, f"/v1/jobs?offset={DEEP_OFFSET}"))
    print(f"\nA page at offset {DEEP_OFFSET:,} of {large.size:,}: {deep:.1f} ms")
    return ratios
