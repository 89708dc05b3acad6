"""How much more a request costs at 1,000,000 jobs of one tenant than at 10,000: whole requests, one beside the other.

Makes both stores in one PostgreSQL server, starts a gateway for each, and asks them in turn over one connection. Takes
a few minutes and about 4 GB of disk.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ulid import ULID

from benchmarks import load, store
from benchmarks.load import Request
from benchmarks.servers import Server, serving
from tests.servers import PostgreSQL, postgresql, temporary_folder

SIZES = (10_000, 1_000_000)
QUICK_SIZES = (10_000, 50_000)
EVENTS = 4  # of each job
TURN_SECONDS = 0.2
WARM_UP_SECONDS = 0.1

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
# The smaller store has ten jobs of each rare value, so those pages have ten jobs.
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
    """The paths, by endpoint and filter. ``job`` is a finished one from the middle of the store."""
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
    statements = [
        text.format(tenant=tenant, jobs=jobs, events=EVENTS) for text in (JOBS, EVENTS_OF_JOBS, ARTIFACTS, COUNTS)
    ]
    server.psql("SET session_replication_role = replica", *statements, "VACUUM (ANALYZE)", database=database)
    middle = f"created_at > timestamptz '2026-01-01' + {jobs // 2} * interval '1 second'"
    finished = "is_workflow AND status = 'SUCCESS'"
    return server.psql(
        f"SELECT public_id FROM jobs_job WHERE {finished} AND {middle} ORDER BY created_at LIMIT 1",
        database=database,
    ).strip()


class Store(NamedTuple):
    """A gateway over one of the stores, its paths and its token."""

    server: Server
    paths: dict[str, str]
    token: str

    def milliseconds(self, path: str, seconds: float) -> float:
        """Of the median request, from its first byte sent to its last byte received."""
        result = load.drive(self.server.port, [Request(path, self.token)], seconds, connections=1)
        if result.errors:
            raise SystemExit(f"{path}: {result.errors} errors")
        return result.p50_ms


def measure(rounds: int, sizes: tuple[int, int] = SIZES) -> dict[str, float]:
    """The ratio of the median times, larger to smaller store, by endpoint and filter."""
    # A million jobs and their indexes stay in memory, as they would on a machine that serves them.
    with (
        postgresql(settings={"shared_buffers": "2GB"}) as database,
        temporary_folder("jgw-bench-") as folder,
        contextlib.ExitStack() as stack,
    ):
        stores = [stack.enter_context(served(database, size, folder)) for size in sizes]
        return compared(stores, sizes, rounds)


@contextlib.contextmanager
def served(database: PostgreSQL, size: int, folder: Path) -> Iterator[Store]:
    """A store of ``size`` jobs and its gateway, while the block runs."""
    name = f"jobs_{size}"
    (folder / name).mkdir()
    database.psql(f"CREATE DATABASE {name}")
    environment = store.environment_of(database.url(name), folder / name)
    store.manage(environment, "migrate", "--verbosity", "0")
    store.manage(environment, "create_tenant", "acme")
    tenant = int(database.psql("SELECT id FROM tenants_tenant", database=name))
    token = store.manage(environment, "issue_token", "acme").split()[-1]
    job = fill(database, name, tenant, size)
    with serving("gateway", environment, token, folder / name) as server:
        yield Store(server, paths(str(ULID.from_hex(job.replace("-", "")))), token)


def compared(stores: list[Store], sizes: tuple[int, int], rounds: int) -> dict[str, float]:
    print(f"| request | {sizes[0]:,} jobs, ms | {sizes[1]:,} jobs, ms | ratio |\n|---|--:|--:|--:|")
    ratios = {}
    for label in stores[0].paths:
        turns: list[list[float]] = [[], []]
        for each in stores:
            each.milliseconds(each.paths[label], WARM_UP_SECONDS)
        for _ in range(rounds):
            for each, took in zip(stores, turns, strict=True):
                took.append(each.milliseconds(each.paths[label], TURN_SECONDS))
        few, many = map(statistics.median, turns)
        ratios[label] = round(many / few, 2)
        print(f"| {label} | {few:.3f} | {many:.3f} | {ratios[label]:.2f} |", flush=True)
    offset = sizes[1] // 10
    deep = stores[1].milliseconds(f"/v1/jobs?offset={offset}", TURN_SECONDS)
    print(f"\nA page at offset {offset:,} of {sizes[1]:,}: {deep:.1f} ms")
    return ratios
