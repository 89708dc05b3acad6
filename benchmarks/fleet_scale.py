"""What ``GET /job`` costs at 1,000,000 jobs of one tenant, against 10,000: ``python -m benchmarks.fleet_scale``.

Makes both stores in a PostgreSQL server of its own, asks the gateway's WSGI application for them turn by turn, and
prints the medians of whole requests and their ratio. Takes a few minutes and about 2 GB of disk.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from tests import servers

SIZES = (10_000, 1_000_000)
EVENTS = 4  # of each job
QUERIES = {
    "the first page": "",
    "a page of 100": "limit=100",
    "one job in a thousand": "status=failed",
    "a common status": "status=processing",
}

# One job in a thousand failed; every tenth is an operation on three agents, the others are workflows.
JOBS = """
INSERT INTO jobs_job (public_id, tenant_id, job_type, status, created_at, updated_at, request, last_seq,
                      last_public_seq, version, is_operation)
SELECT gen_random_uuid(), {tenant}, CASE WHEN n % 10 = 0 THEN 'node.command' ELSE 'MODEL_GENERATOR' END,
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


def fill(server: servers.PostgreSQL, database: str, tenant: int, jobs: int) -> None:
    # As a superuser and without triggers: these rows break no constraint, and to check 5,000,000 takes minutes.
    told = [text.format(tenant=tenant, jobs=jobs, events=EVENTS) for text in (JOBS, EVENTS_OF_JOBS, ARTIFACTS, COUNTS)]
    server.psql("SET session_replication_role = replica", *told, "VACUUM (ANALYZE)", database=database)


def whole_request(application: Any, query: str, token: str) -> float:
    """Seconds that one request takes from the WSGI server's call to the last byte."""
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/job",
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
    response.close()
    took = perf_counter() - began
    if statuses != ["200 OK"]:
        raise SystemExit(f"/job?{query}: {statuses} {body[:500]!r}")
    return took


def measure(rounds: int, sizes: tuple[int, ...]) -> None:
    with servers.postgresql() as server, tempfile.TemporaryDirectory() as folder:
        names = [f"jobs_{size}" for size in sizes]
        for name in names:
            server.psql(f"CREATE DATABASE {name}")
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "jobs_gateway.settings",
            "ENV_FILE": os.devnull,
            "DATA_DIR": folder,
            "DATABASE_URL": server.url(names[0]),
            "DJANGO_SECRET_KEY": "benchmark",
            "TOKEN_CACHE_SECONDS": "5",
            "RECORD_TOKEN_USE": "0",
        }
        import django

        (Path(folder) / "static").mkdir()
        django.setup()
        from django.conf import settings
        from django.core.management import call_command
        from django.core.wsgi import get_wsgi_application
        from django.db import connections

        from jobs_gateway.settings import database
        from tenants import tokens
        from tenants.callers import memory
        from tenants.models import Tenant

        application = get_wsgi_application()
        credentials = {}
        for name, size in zip(names, sizes, strict=True):
            connections.databases[name] = connections.databases["default"] | database(server.url(name))
            call_command("migrate", database=name, verbosity=0)
            tenant = Tenant(slug="acme")
            tenant.save(using=name)
            fill(server, name, tenant.pk, size)
            settings.API_DATABASE = name
            credentials[name] = tokens.issue(tenant)

        print(f"{'':24}" + "".join(f"{size:>14,}" for size in sizes) + f"{'ratio':>10}")
        for label, query in QUERIES.items():
            took: dict[str, list[float]] = {name: [] for name in names}
            for turn in range(rounds + 1):
                for name in names:
                    settings.API_DATABASE = name
                    memory.forget()
                    whole_request(application, query, credentials[name])
                    gc.collect()
                    times = [whole_request(application, query, credentials[name]) for _ in range(50)]
                    took[name] += times if turn else []  # the first turn warms up
            medians = [statistics.median(took[name]) * 1000 for name in names]
            shown = "".join(f"{median:>11.3f} ms" for median in medians)
            print(f"{label:24}{shown}{medians[-1] / medians[0]:>10.2f}", flush=True)
        connections.close_all()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of 50 requests for each store and query")
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES, metavar="JOBS")
    given = parser.parse_args()
    measure(given.rounds, tuple(given.sizes))
