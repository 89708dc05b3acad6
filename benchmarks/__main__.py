"""``make bench``: the gateway beside FastAPI, Django REST framework and the limit, all in one run on this machine.

Starts a PostgreSQL server, loads a seeded store through backfill_jobs, checks that all four servers give the same
answers, and drives them in turn. Figures depend on the machine; ratios less so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
from collections import defaultdict
from typing import Any

from benchmarks import flat, ledger, load, report, store, streams, webhooks, workloads
from benchmarks.servers import COMMANDS, Server, cpu_seconds, serving
from benchmarks.workloads import Workload
from jobs_gateway.server import raise_open_files_limit
from tests.servers import PostgreSQL, postgresql, temporary_folder

WARM_UP_SECONDS = 0.5
API_ROLE = "bench_api"
CONNECTIONS = (1, 64, 256)  # detail is also measured with these numbers; everything else uses 8
CONNECTIONS_FOR_WORKERS = 16
# The servers of workloads that not all run: the peers have no ETag, and are not tuned for many connections.
GATEWAY_AND_LIMIT = ("gateway", "limit")

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, help="of the store; 200000 unless given")
    parser.add_argument("--rounds", type=int, help="turns of each server at each endpoint; 5 unless given")
    parser.add_argument("--seconds", type=float, help="of load in a turn; 3 unless given")
    parser.add_argument(
        "--quick", action="store_true", help="a small store and short turns, about two minutes; keeps no figures"
    )
    parser.add_argument("--flat", action="store_true", help="measure only how costs grow from 10,000 to 1,000,000 jobs")
    parser.add_argument("--streams", type=int, metavar="NUMBER", help="measure only so many open streams, such as 2000")
    parser.add_argument("--webhooks", type=int, metavar="WORKERS", help="measure only webhooks, with so many workers")
    parser.add_argument("--ledger", action="store_true", help="measure only how many events the ledger appends")
    options = parser.parse_args()
    jobs, rounds, seconds = (4_000, 1, 0.5) if options.quick else (200_000, 5, 3.0)
    rounds = options.rounds or rounds
    if options.streams:
        raise_open_files_limit()
        measured = streams.measure(options.streams, options.seconds or 10.0)
        report.keep(streams=measured)
        print(*(f"{name}: {value:,.1f}" for name, value in measured.items()), sep="\n")
        return
    if options.webhooks:
        measured = webhooks.measure(options.seconds or 20.0, options.webhooks)
        report.keep(webhooks=measured)
        print(*(f"{name}: {value:,}" for name, value in measured.items()), sep="\n")
        return
    if options.flat:
        report.keep(flat=flat.measure(rounds, flat.QUICK_SIZES if options.quick else flat.SIZES))
        return
    if options.ledger:
        report.keep(ledger=ledger.measure(rounds, options.seconds or seconds))
        return
    results = measure(options.jobs or jobs, rounds, options.seconds or seconds)
    if not options.quick:
        report.keep(**results)
        report.chart(results["endpoints"])
        results = report.kept()
    print(report.text(results))


def measure(jobs: int, rounds: int, seconds: float) -> dict[str, Any]:
    """All parts of ``results.json`` but ``flat``."""
    with temporary_folder("jgw-bench-") as folder, postgresql(settings={"shared_buffers": "512MB"}) as database:
        environment = store.environment_of(database.url("postgres"), folder)
        print(f"Loading {jobs:,} jobs …", flush=True)
        loaded = store.load(database, environment, jobs, folder)
        store.manage(environment, "grant_api_role", API_ROLE)
        tokens = store.issue_tokens(environment, workloads.MANY_TOKENS)
        token = tokens[store.TENANTS[0]][0]
        # The gateway answers as in production, by a role that row security binds.
        environment["DATABASE_API_URL"] = database.url("postgres", API_ROLE)
        bench = Bench(database, rounds, seconds)
        with contextlib.ExitStack() as stack:
            for name in COMMANDS:  # once before, so that files are cached and compiled for all
                with serving(name, environment, token, folder):
                    pass
            servers = [stack.enter_context(serving(name, environment, token, folder)) for name in COMMANDS]
            asked = workloads.workloads(environment, servers[0], token, tokens)
            workloads.compare(servers, asked)
            two = [server for server in servers if server.name in GATEWAY_AND_LIMIT]
            endpoints = {
                name: bench.compare(report.LABELS[name], two if workload.is_poll else servers, workload)
                for name, workload in asked.items()
            }
            connections = {
                str(count): bench.compare(f"detail, {count} connections", two, asked["detail"], count)
                for count in CONNECTIONS
            }
            start = {
                server.name: {
                    "cold_start_s": round(server.start_seconds, 2),
                    "resident_mb": round(server.resident_mb()),
                }
                for server in servers
            }
        workers = {}
        for count in (1, 2):
            with contextlib.ExitStack() as stack:
                servers = [
                    stack.enter_context(serving(name, environment, token, folder, count)) for name in GATEWAY_AND_LIMIT
                ]
                label = f"detail, {count} worker{'s' * (count > 1)}"
                workers[str(count)] = bench.compare(label, servers, asked["detail"], CONNECTIONS_FOR_WORKERS)
    machine = {"cores": os.cpu_count() or 1, "python": platform.python_version(), "jobs": jobs, "rounds": rounds}
    return {
        "endpoints": endpoints,
        "connections": connections,
        "workers": workers,
        "load": loaded,
        "start": start,
        "machine": machine | {"seconds": seconds},
    }


class Bench:
    """Turns of load, each with the CPU time of the server, the database and the load generator."""

    def __init__(self, database: PostgreSQL, rounds: int, seconds: float) -> None:
        self.database = database
        self.rounds = rounds
        self.seconds = seconds

    def compare(
        self, label: str, servers: list[Server], workload: Workload, connections: int = load.CONNECTIONS
    ) -> dict[str, Figures]:
        """Medians of each server. The turns alternate, so that other load of the machine affects all servers alike."""
        turns: dict[str, list[Figures]] = defaultdict(list)
        for number in range(self.rounds + 1):
            for server in servers:
                figures = self.turn(server, workload, connections, self.seconds if number else WARM_UP_SECONDS)
                turns[server.name] += [figures] if number else []  # the first turn warms up
        medians = {
            name: {field: round(statistics.median(each[field] for each in figures), 3) for field in figures[0]}
            for name, figures in turns.items()
        }
        summary = ", ".join(f"{name} {each['rps']:,.0f}/s {each['cpu_us']:,.0f} µs" for name, each in medians.items())
        print(f"  {label}: {summary}", flush=True)
        return medians

    def turn(self, server: Server, workload: Workload, connections: int, seconds: float) -> Figures:
        """Raises SystemExit when polls are answered in full the second time too, as where they never hold."""
        for _ in range(2):  # validators hold until the signing window ends
            requests = workload.of(server)
            processes = {"cpu_us": server.process.pid}
            if self.database.process:
                processes["database_cpu_us"] = self.database.process.pid
            before = {field: cpu_seconds(pid) for field, pid in processes.items()}
            result = load.drive(server.port, requests, seconds, connections)
            cpu = {
                field: (cpu_seconds(pid) - before[field]) / result.requests * 1e6 for field, pid in processes.items()
            }
            if result.not_modified == (result.requests if workload.is_poll else 0):
                return {
                    "rps": result.rps,
                    "p50_ms": result.p50_ms,
                    "p99_ms": result.p99_ms,
                    **cpu,
                    "client_cpu_us": result.cpu_us,
                    "errors": result.errors,
                }
        raise SystemExit(f"{server.name}: {result.not_modified} of {result.requests} answers were 304")


if __name__ == "__main__":
    main()
