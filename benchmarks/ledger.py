"""How many events a second a studio backend appends through the ledger: 8 processes, PostgreSQL with fsync on.

Each process appends public stages to jobs of its own, one call a transaction: over 20 tenants at random, and of one
tenant alone, whose commits wait for each other.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from time import perf_counter

from benchmarks import store
from tests.servers import postgresql, temporary_folder

WRITERS = 8
WARM_UP_SECONDS = 0.5


def measure(rounds: int, seconds: float) -> dict[str, int]:
    """Appended events a second, the median of ``rounds`` turns: over all tenants, and of one."""
    with temporary_folder("jgw-bench-") as folder, postgresql(durable=True) as database:
        environment = store.environment_of(database.url("postgres"), folder)
        store.create(environment)
        cases = {"tenants_20": store.TENANTS, "tenants_1": store.TENANTS[:1]}
        rates: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, tenants in cases.items():
                rates[name].append(turn(environment, tenants, seconds))
                print(f"{name}: {rates[name][-1]:,.0f} events/s", flush=True)
    return {name: round(statistics.median(each)) for name, each in rates.items()}


def turn(environment: dict[str, str], tenants: list[str], seconds: float) -> float:
    """The events a second that all writers append together."""
    command = [sys.executable, "-m", "benchmarks.ledger", str(seconds), *tenants]
    writers = [
        subprocess.Popen(
            command, cwd=store.ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(WRITERS)
    ]
    for writer in writers:
        if writer.stdout is None or writer.stdout.readline() != "ready\n":
            raise RuntimeError("A writer failed.")
    for writer in writers:
        if writer.stdin:
            writer.stdin.write("go\n")
            writer.stdin.flush()
    return sum(int(writer.communicate()[0]) for writer in writers) / seconds


def write(seconds: float, tenants: list[str]) -> int:
    """The number of events that this process appends in ``seconds``."""
    import django

    django.setup()
    from jobs.ingest import ledger
    from tenants.models import Tenant

    jobs = [ledger.open_job(tenant, "MODEL_GENERATOR") for tenant in Tenant.objects.filter(slug__in=tenants)]

    def append_for(duration: float) -> int:
        appended, end = 0, perf_counter() + duration
        while perf_counter() < end:
            ledger.append(random.choice(jobs), "stage", "Rendering", stage="render", extra={"step": appended})
            appended += 1
        return appended

    append_for(WARM_UP_SECONDS)
    print("ready", flush=True)
    sys.stdin.readline()
    return append_for(seconds)


if __name__ == "__main__":
    print(write(float(sys.argv[1]), sys.argv[2:]))
