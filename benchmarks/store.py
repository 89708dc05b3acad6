"""The job store that is measured on: seeded, so that every run loads the same jobs, through ``backfill_jobs``."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import psycopg
from ulid import ULID

from tests.servers import PostgreSQL

ROOT = Path(__file__).resolve().parent.parent
TENANTS = [f"studio-{n:02}" for n in range(1, 21)]
ROWS_OF_A_JOB = 1 + 8 + 8  # itself, its events, its artifacts
CHUNKS = 4  # loaded turn by turn with the raw COPY of the same rows
LONG_JOBS = 8  # of the first tenant, older than all others
EVENTS_OF_A_LONG_JOB = 500  # all public, so that they fill one page
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = ("jobs_job", "jobs_jobevent", "jobs_artifact")
TYPES = (
    "MODEL_GENERATOR",
    "BACKGROUND_GENERATOR",
    "COMPLEMENTARY_GARMENT_GENERATOR",
    "PRODUCT_TO_MODEL_DIRECT",
    "PRODUCT_TO_MODEL_PHASED",
    "BACKGROUND_SWAP_WITH_IMAGE",
    "BACKGROUND_SWAP_WITH_SPEC",
    "MODEL_SWAP_WITH_IMAGE",
)
VIEWS = ("front", "side", "back", "detail")
STAGES = ("prepare", "segment", "pose", "render", "relight", "upscale")


def records(first: int, last: int) -> Iterator[dict[str, Any]]:
    """Interchange records of the jobs ``first`` to ``last`` - 1: nine of ten are workflows, the others operations."""
    for number in range(first, last):
        chance = random.Random(number)
        created_at = FIRST + timedelta(seconds=number, microseconds=chance.randrange(1_000_000))
        milliseconds = int(created_at.timestamp() * 1000)
        job = str(ULID.from_int(milliseconds << 80 | chance.getrandbits(80)))
        tenant = chance.choice(TENANTS)
        common = {"public_id": job, "tenant": tenant, "created_at": created_at}
        if number % 10 == 9:
            yield common | operation(chance, f"tenants/{tenant}/{job}", created_at)
        else:
            yield common | workflow(chance, f"tenants/{tenant}/{job}", created_at)


def workflow(chance: random.Random, folder: str, created_at: datetime) -> dict[str, Any]:
    """Queued, six stages (one of them internal, four with a picture), and an end that brings four final pictures."""
    end = chance.choices(("succeeded", "failed", "stage"), (90, 5, 5))[0]
    events = [event(1, "queued", created_at, message="Queued")]
    for seq, stage in enumerate(STAGES, 2):
        pictures = [picture(chance, folder, stage, "intermediate")] if 2 < seq < 7 else []
        at = created_at + timedelta(milliseconds=900 * seq)
        said = {"stage": stage, "message": f"Working on it: {stage}, pass {chance.randrange(1, 9)}"}
        visibility = "internal" if seq == 7 else "public"
        events.append(event(seq, "stage", at, artifacts=pictures, visibility=visibility, **said))
    finals = [picture(chance, folder, view, "final") for view in VIEWS]
    at = created_at + timedelta(seconds=9, milliseconds=chance.randrange(1000))
    extra = {"cost": chance.randrange(1, 90) / 1000, "model": "studio-xl-3", "gpu_seconds": chance.randrange(2, 40)}
    events.append(event(8, end, at, message="All views are there", extra=extra, artifacts=finals))
    return {
        "job_type": chance.choice(TYPES),
        "request": {
            "prompt": f"studio, soft light, look {chance.randrange(10_000)}",
            "garment": {"sku": f"SKU-{chance.randrange(100_000)}", "colour": chance.choice(("sand", "ink", "moss"))},
            "views": list(VIEWS),
            "seed": chance.randrange(2**31),
        },
        "events": events,
    }


def operation(chance: random.Random, folder: str, created_at: datetime) -> dict[str, Any]:
    """Two agents from registered to completed; what they wrote is recorded with the job."""
    events = []
    for seq in range(1, 9):
        kind = ("submitted", "acknowledged", "started", "completed")[(seq - 1) // 2]
        extra = {"data": {"free_gb": chance.randrange(900)}, "changed": seq % 2 == 0} if kind == "completed" else {}
        at = created_at + timedelta(milliseconds=700 * seq)
        events.append(
            event(seq, kind, at, message=f"Disk check: {kind}", hostname=f"node-{seq % 2 + 1:02}", extra=extra)
        )
    return {
        "job_type": "node.disk.check",
        "request": {"type": "node.disk.check", "data": {"path": "/srv"}},
        "events": events,
        "artifacts": [picture(chance, folder, f"report-{n}", "intermediate") for n in range(8)],
    }


def long_jobs(count: int = LONG_JOBS) -> Iterator[dict[str, Any]]:
    """Interchange records of jobs with as many events as one page holds, a picture with every other one."""
    for number in range(count):
        chance = random.Random(-1 - number)
        created_at = FIRST - timedelta(hours=number + 1)
        job = str(ULID.from_int(int(created_at.timestamp() * 1000) << 80 | chance.getrandbits(80)))
        folder = f"tenants/{TENANTS[0]}/{job}"
        events = [event(1, "queued", created_at, message="Queued")]
        for seq in range(2, EVENTS_OF_A_LONG_JOB + 1):
            stage = chance.choice(STAGES)
            pictures = [picture(chance, folder, stage, "intermediate")] if seq % 2 else []
            at = created_at + timedelta(seconds=seq)
            message = f"Working on it: {stage}, pass {seq}"
            events.append(event(seq, "stage", at, stage=stage, message=message, artifacts=pictures))
        yield {
            "public_id": job,
            "tenant": TENANTS[0],
            "created_at": created_at,
            "job_type": TYPES[0],
            "request": {"prompt": "a long job"},
            "events": events,
        }


def event(seq: int, event_type: str, created_at: datetime, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "event_type": event_type, "created_at": created_at, **more}


def picture(chance: random.Random, folder: str, view: str, role: str) -> dict[str, Any]:
    return {
        "storage_key": f"{folder}/{view}-{chance.getrandbits(32):08x}.png",
        "kind": "on_model_render",
        "role": role,
        "label": view,
        "meta": {"width": 1024, "height": 1536, "bytes": chance.randrange(10**5, 10**7)},
    }


def environment_of(database_url: str, folder: Path) -> dict[str, str]:
    """The environment of all servers: nothing of the developer's own settings. Links are signed, never fetched."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DJANGO_"))} | {
        "ENV_FILE": os.devnull,
        "DATA_DIR": str(folder),
        "DATABASE_URL": database_url,
        "DATABASE_API_URL": "",
        "DJANGO_SETTINGS_MODULE": "jobs_gateway.settings",
        "DJANGO_SECRET_KEY": "benchmark",
        "PRESIGN_TTL_SECONDS": "900",  # as the peers sign
        "AWS_STORAGE_BUCKET_NAME": "pictures",
        "AWS_S3_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_S3_ADDRESSING_STYLE": "path",
        "AWS_ACCESS_KEY_ID": "AKIABENCHMARK0000000",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key-of-nothing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def manage(environment: dict[str, str], *arguments: str) -> str:
    """Standard output of a management command."""
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def create(environment: dict[str, str]) -> None:
    """The tables and the tenants, in an empty database."""
    manage(environment, "migrate", "--verbosity", "0")
    with connect(environment) as database:
        database.execute(
            "INSERT INTO tenants_tenant (slug, name, storage_prefix, is_active, created_at) "
            "SELECT slug, slug, 'tenants/' || slug || '/', true, now() FROM unnest(%s::text[]) AS slug",
            [TENANTS],
        )


def load(server: PostgreSQL, environment: dict[str, str], jobs: int, folder: Path) -> dict[str, float]:
    """Loads ``jobs`` jobs into the database of ``environment`` and, for comparison, into one named ``copied``.

    Returns the rows a second of both, each over the whole store, loaded by turns in ``CHUNKS`` parts.
    """
    server.psql("CREATE DATABASE copied")
    copied = environment | {"DATABASE_URL": server.url("copied")}
    create(environment)
    manage(copied, "migrate", "--verbosity", "0")
    seconds = {"gateway": 0.0, "copy": 0.0}
    with connect(environment) as source, connect(copied) as target:
        copy(source, target, "tenants_tenant", folder)
        for chunk in range(CHUNKS):
            first, last = jobs * chunk // CHUNKS, jobs * (chunk + 1) // CHUNKS
            newest = source.execute("SELECT max(public_id::text) FROM jobs_job").fetchone()
            seconds["gateway"] += backfill(environment, records(first, last), folder)
            for table in TABLES:
                key = "public_id" if table == "jobs_job" else "job_id"
                rows = f"WHERE {key} > '{newest[0]}'" if newest and newest[0] else ""
                seconds["copy"] += copy(source, target, table, folder, rows)
            print(f"  {last:,} jobs: {seconds['gateway']:.1f} s, raw COPY {seconds['copy']:.1f} s", flush=True)
    server.psql("DROP DATABASE copied")
    backfill(environment, long_jobs(), folder)
    server.psql("VACUUM (ANALYZE)", database=environment["DATABASE_URL"].partition("@/")[2].partition("?")[0])
    return {f"{name}_rows_s": round(jobs * ROWS_OF_A_JOB / took) for name, took in seconds.items()}


def backfill(environment: dict[str, str], jobs: Iterable[dict[str, Any]], folder: Path) -> float:
    """Seconds that ``backfill_jobs`` takes for the records ``jobs``, its start included."""
    file = folder / "records.ndjson"
    with file.open("wb") as lines:
        lines.writelines(orjson.dumps(job, option=orjson.OPT_APPEND_NEWLINE) for job in jobs)
    began = perf_counter()
    manage(environment, "backfill_jobs", str(file))
    took = perf_counter() - began
    file.unlink()
    return took


def issue_tokens(environment: dict[str, str], count: int) -> dict[str, list[str]]:
    """``count`` new API tokens, as many for each tenant, by the tenant's slug."""
    code = (
        "from tenants import tokens; from tenants.models import Tenant\n"
        f"for tenant in Tenant.objects.filter(slug__in={TENANTS}).order_by('slug'):\n"
        f"    for _ in range({count // len(TENANTS)}): print(tenant.slug, tokens.issue(tenant))\n"
    )
    issued: dict[str, list[str]] = {slug: [] for slug in TENANTS}
    for line in manage(environment, "shell", "--command", code).splitlines():
        slug, _, token = line.partition(" ")
        if slug in issued:
            issued[slug].append(token)
    return issued


def connect(environment: dict[str, str]) -> psycopg.Connection[Any]:
    return psycopg.connect(environment["DATABASE_URL"].replace("postgres://", "postgresql://"), autocommit=True)


def copy(source: Any, target: Any, table: str, folder: Path, rows: str = "") -> float:
    """Seconds that ``COPY … FROM`` of the rows takes, in one transaction, with every constraint and index in place."""
    columns = ", ".join(
        name
        for (name,) in source.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND is_generated = 'NEVER' "
            "ORDER BY ordinal_position",
            [table],
        )
    )
    file = folder / "rows"
    statement = f"COPY (SELECT {columns} FROM {table} {rows}) TO STDOUT"
    with file.open("wb") as out, source.cursor() as cursor, cursor.copy(statement) as data:
        out.writelines(data)
    began = perf_counter()
    statement = f"COPY {table} ({columns}) FROM STDIN"
    with file.open("rb") as lines, target.cursor() as cursor, cursor.copy(statement) as data:
        while block := lines.read(1 << 18):
            data.write(block)
    took = perf_counter() - began
    file.unlink()
    return took
