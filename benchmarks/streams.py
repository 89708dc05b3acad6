"""Many open streams in one worker: how soon an event arrives, what a stream takes, and what is left for requests."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from time import time
from typing import Any, Self

from benchmarks import load, store
from benchmarks.servers import Server, cpu_seconds, process_tree, serving
from tests.servers import postgresql, temporary_folder
from tests.streams import stream

EVENTS_A_SECOND = 100
# Opens a job for each stream, prints their ids, and then appends events: "id seq time of the commit" for each.
WRITER = """
import random, sys, time
import django
django.setup()
from jobs.ingest import ledger
from tenants.models import Tenant

streams, rate = int(sys.argv[1]), float(sys.argv[2])
tenants = list(Tenant.objects.all())
jobs = [ledger.open_job(tenants[n % len(tenants)], "MODEL_GENERATOR") for n in range(streams)]
print(*(f"{job.tenant.slug}:{job.pk}" for job in jobs), flush=True)
sys.stdin.readline()
due = time.monotonic()
while True:
    event = ledger.append(random.choice(jobs), "stage", "Rendering", extra={"progress": random.random()})
    print(event.job_id, event.seq, time.time(), flush=True)
    due += 1 / rate
    time.sleep(max(0, due - time.monotonic()))
"""


def measure(streams: int, seconds: float) -> dict[str, Any]:
    """Latencies in ms from commit to receipt, memory in KB a stream, and requests a second without and with streams.

    The writer takes part of the machine itself, so it runs in both cases.
    """
    with temporary_folder("jgw-bench-") as folder, postgresql(settings={"shared_buffers": "512MB"}) as database:
        environment = store.environment_of(database.url("postgres"), folder)
        store.load(database, environment, 4_000, folder)
        tokens = {slug: each[0] for slug, each in store.issue_tokens(environment, len(store.TENANTS)).items()}
        environment |= {
            "STREAMS_PER_TENANT": str(streams),
            "STREAMS_PER_WORKER": str(streams),
            "STREAM_SECONDS": "3600",
        }
        token = next(iter(tokens.values()))
        with serving("gateway", environment, token, folder) as server:
            with Writer(environment, streams) as writer:
                writer.start()
                alone = load.drive(server.port, [load.Request("/v1/jobs", token)], seconds).rps
            with Writer(environment, streams) as writer:
                return asyncio.run(follow(server, writer, tokens, seconds)) | {"rps_alone": alone}


class Writer:
    """A process that opens jobs, and from :meth:`start` appends events to them."""

    def __init__(self, environment: dict[str, str], jobs: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(jobs), str(EVENTS_A_SECOND)],
            cwd=store.ROOT,
            env=environment | {"DJANGO_SETTINGS_MODULE": "jobs_gateway.settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.jobs: list[list[str]] = []  # slug of the tenant and id of each
        self.committed: dict[tuple[str, int], float] = {}  # Unix time, by the job's id and the event's seq

    def __enter__(self) -> Self:
        assert self._process.stdout
        self.jobs = [each.split(":") for each in self._process.stdout.readline().split()]
        threading.Thread(target=self._note_commits, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _note_commits(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            job, seq, moment = line.split()
            self.committed[job, int(seq)] = float(moment)


async def follow(server: Server, writer: Writer, tokens: dict[str, str], seconds: float) -> dict[str, Any]:
    before = resident_kb(server)
    received: dict[tuple[str, int], float] = {}
    opening = asyncio.Semaphore(50)  # so many at a time
    is_open = [asyncio.Event() for _ in writer.jobs]
    tasks = [
        asyncio.create_task(receive(server, job, tokens[slug], received, opening, event))
        for (slug, job), event in zip(writer.jobs, is_open, strict=True)
    ]
    for event in is_open:
        await event.wait()
    per_stream = (resident_kb(server) - before) / len(tasks)
    writer.start()
    cpu = cpu_seconds(server.process.pid)
    await asyncio.sleep(seconds)
    idle_cpu = (cpu_seconds(server.process.pid) - cpu) / seconds
    requests = [load.Request("/v1/jobs", next(iter(tokens.values())))]
    beside = await asyncio.to_thread(load.drive, server.port, requests, seconds)
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    committed = writer.committed.copy()
    delays = sorted(1000 * (received[key] - moment) for key, moment in committed.items() if key in received)
    return {
        "streams": len(tasks),
        "events": len(committed),
        "lost": len([key for key, moment in committed.items() if key not in received and moment < time() - 2]),
        "p50_ms": statistics.median(delays),
        "p99_ms": delays[int(len(delays) * 0.99)],
        "kb_per_stream": per_stream,
        "cores": idle_cpu,
        "rps_beside": beside.rps,
    }


async def receive(
    server: Server,
    job: str,
    token: str,
    received: dict[tuple[str, int], float],
    opening: asyncio.Semaphore,
    is_open: asyncio.Event,
) -> None:
    async with AsyncExitStack() as stack:
        async with opening:
            response = await stack.enter_async_context(stream(server.port, f"/v1/jobs/{job}/events", token))
        is_open.set()
        async for frame in response.frames():
            received[job, int(frame.id or 0)] = time()


def resident_kb(server: Server) -> float:
    return max(each.memory_info().rss for each in process_tree(server.process.pid)) / 1024
