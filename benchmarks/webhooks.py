"""Webhooks: how many deliveries a second, and how long after its commit an event arrives at the receiver."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from time import monotonic, time
from typing import Any

import orjson
from aiohttp import web

from benchmarks import store
from benchmarks.servers import cpu_seconds
from tests.servers import postgresql, temporary_folder

ENDPOINTS = 10  # each of a tenant of its own
EVENTS_A_SECOND = 200
SETUP = """
import sys
import django
django.setup()
from jobs.webhooks import endpoints
from tenants.models import Tenant

for number in range(int(sys.argv[2])):
    tenant = Tenant.objects.create(slug=f"hooks-{number}")
    endpoints.create(tenant, f"{sys.argv[1]}{number}")
    if number < int(sys.argv[3]):
        endpoints.create(tenant, f"{sys.argv[1]}hangs")
"""
LOADER = """
import sys
import django
django.setup()
import orjson
from datetime import UTC, datetime
from ulid import ULID
from jobs.ingest import bulk
from tenants.models import Tenant

def lines(jobs, events):
    for tenant in Tenant.objects.filter(slug__startswith="hooks-"):
        for _ in range(jobs):
            now = datetime.now(UTC).isoformat()
            yield orjson.dumps({
                "public_id": str(ULID()), "tenant": tenant.slug, "job_type": "MODEL_GENERATOR", "created_at": now,
                "events": [{"seq": seq, "event_type": "stage", "stage": "render", "message": "Rendering",
                            "created_at": now, "extra": {"progress": seq / events}} for seq in range(1, events + 1)],
            })

for _ in bulk.load(lines(int(sys.argv[1]), int(sys.argv[2]))):
    pass
"""
WRITER = """
import random, sys, time
import django
django.setup()
from jobs.ingest import ledger
from tenants.models import Tenant

rate, seconds = float(sys.argv[1]), float(sys.argv[2])
tenants = list(Tenant.objects.filter(slug__startswith="hooks-"))
jobs = [ledger.open_job(tenants[n % len(tenants)], "MODEL_GENERATOR") for n in range(100)]
due = began = time.monotonic()
while due < began + seconds:
    ledger.append(random.choice(jobs), "stage", "Rendering", stage="render", extra={"progress": random.random()})
    due += 1 / rate
    time.sleep(max(0, due - time.monotonic()))
"""


class Receiver:
    """Accepts everything, and keeps when each delivery arrived and how old its event was. One path never answers."""

    def __init__(self) -> None:
        self.arrived: list[float] = []
        self.ages: list[float] = []

    async def handle(self, request: web.Request) -> web.Response:
        if request.path == "/hangs":
            await asyncio.Event().wait()
        body = orjson.loads(await request.read())
        self.arrived.append(monotonic())
        self.ages.append(time() - datetime.fromisoformat(body["timestamp"]).timestamp())
        return web.Response(status=204)


def measure(seconds: float, workers: int) -> dict[str, Any]:
    """Deliveries a second with a backlog, without and with an endpoint that never answers beside the others, three
    times each in turn; ms of CPU a delivery; and the latencies in ms at ``EVENTS_A_SECOND``."""
    alone, beside = [], []
    for _ in range(3):
        alone.append(run_once(seconds, workers, hanging=0, with_latency=False))
        beside.append(run_once(seconds, workers, hanging=1, with_latency=False))
    last = run_once(seconds, workers, hanging=0, with_latency=True)
    rate = statistics.median(each["deliveries a second"] for each in alone)
    rate_beside = statistics.median(each["deliveries a second"] for each in beside)
    return last | {
        "deliveries a second": rate,
        "beside a hanging endpoint": rate_beside,
        "ratio": round(rate_beside / rate, 2),
    }


def run_once(seconds: float, workers: int, hanging: int, with_latency: bool) -> dict[str, Any]:
    with temporary_folder("jgw-bench-") as folder, postgresql(settings={"shared_buffers": "512MB"}) as database:
        environment = store.environment_of(database.url("postgres"), folder) | {
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        run(environment, "manage.py", "migrate", "--verbosity", "0")
        return asyncio.run(measure_with(environment, seconds, workers, hanging, with_latency))


async def measure_with(
    environment: dict[str, str], seconds: float, workers: int, hanging: int, with_latency: bool
) -> dict[str, Any]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await asyncio.to_thread(run, environment, "-c", SETUP, url, str(ENDPOINTS), str(hanging))
    jobs = max(1, int(seconds * 10))
    await asyncio.to_thread(run, environment, "-c", LOADER, str(jobs), "10")
    expected = jobs * 10 * ENDPOINTS
    with delivering(environment, workers) as processes:
        while len(receiver.arrived) < expected:
            await asyncio.sleep(0.05)
        # From the second tenth to the ninth: without the start, and without the last endpoints.
        first, last = expected // 10, expected * 9 // 10
        rate = (last - first) / (receiver.arrived[last] - receiver.arrived[first])
        cpu = sum(cpu_seconds(each.pid) for each in processes)
        measured = {
            "workers": workers,
            "deliveries": expected,
            "deliveries a second": round(rate),
            "CPU ms a delivery": round(1000 * cpu / expected, 2),
        }
        if with_latency:
            receiver.ages.clear()
            await asyncio.to_thread(run, environment, "-c", WRITER, str(EVENTS_A_SECOND), str(seconds))
            await asyncio.sleep(3)
            ages = sorted(receiver.ages)
            measured |= {
                "latency p50 ms": round(1000 * statistics.median(ages)),
                "latency p99 ms": round(1000 * ages[len(ages) * 99 // 100]),
                "latencies": len(ages),
            }
    await runner.cleanup()
    return measured


@contextlib.contextmanager
def delivering(environment: dict[str, str], workers: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "manage.py", "deliver_webhooks"]
    processes = [subprocess.Popen(command, cwd=store.ROOT, env=environment) for _ in range(workers)]
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def run(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=store.ROOT, env=environment, check=True)
