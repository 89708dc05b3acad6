"""``make bench``: the gateway beside FastAPI, Django REST framework and the limit, all in one run on this machine.

Starts a PostgreSQL of its own, loads a seeded store through backfill_jobs, checks that all four servers give the same
answers, and drives them turn by turn. Figures depend on the machine; ratios carry over.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from benchmarks import flat, load, report, store
from benchmarks.load import Request
from benchmarks.servers import COMMANDS, Server, get, serving
from jobs.ulid import ulid_text
from tests.servers import postgresql, temporary_folder

JOBS_ASKED_FOR = 200
WARM_UP_SECONDS = 1
API_ROLE = "bench_api"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200_000, help="of the store; %(default)s unless given")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each server at each endpoint; %(default)s")
    parser.add_argument("--seconds", type=int, default=3, help="of load in a turn; %(default)s")
    parser.add_argument("--flat", action="store_true", help="measure only how costs grow from 10,000 to 1,000,000 jobs")
    given = parser.parse_args()
    if given.flat:
        report.keep(flat=flat.measure(given.rounds))
        return
    if not load.has_wrk():
        print(f"{load.NO_WRK}\n")
    with temporary_folder("jgw-bench-") as folder, postgresql(settings={"shared_buffers": "512MB"}) as server:
        environment = environment_of(server.url("postgres"), folder)
        print(f"Loading {given.jobs:,} jobs …", flush=True)
        loaded = store.load(server, environment, given.jobs, folder)
        store.manage(environment, "grant_api_role", API_ROLE)
        token = store.manage(environment, "issue_token", store.TENANTS[0]).split()[-1]
        # The gateway answers as in production, by a role that row security binds.
        environment["DATABASE_API_URL"] = server.url("postgres", API_ROLE)
        jobs = jobs_asked_for(environment)
        with contextlib.ExitStack() as stack:
            for name in COMMANDS:  # once before, so that files are cached and compiled for all
                with serving(name, environment, token, folder):
                    pass
            servers = [stack.enter_context(serving(name, environment, token, folder)) for name in COMMANDS]
            requests = compare(servers, jobs, token)
            endpoints = drive(servers, requests, token, given.rounds, given.seconds, folder)
            started = {
                each.name: {"cold_start_s": round(each.start_seconds, 2), "resident_mb": round(each.resident_mb())}
                for each in servers
            }
    report.keep(endpoints=endpoints, load=loaded, start=started)
    report.chart(endpoints)
    print(f"\n{report.table(endpoints)}\n\n| server | cold start s | resident MB |\n|---|--:|--:|")
    for name, start in started.items():
        print(f"| {name} | {start['cold_start_s']:.2f} | {start['resident_mb']:.0f} |")
    share = loaded["gateway_rows_s"] / loaded["copy_rows_s"]
    print(f"\nLoading: {loaded['gateway_rows_s']:,} rows/s, raw COPY {loaded['copy_rows_s']:,} rows/s: {share:.0%}")


def environment_of(database_url: str, folder: Path) -> dict[str, str]:
    """What all servers are started with: nothing of the developer's own settings. Links are signed, never followed."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DJANGO_"))} | {
        "ENV_FILE": os.devnull,
        "DATA_DIR": str(folder),
        "DATABASE_URL": database_url,
        "DATABASE_API_URL": "",
        "DJANGO_SETTINGS_MODULE": "jobs_gateway.settings",
        "DJANGO_SECRET_KEY": "benchmark",
        "AWS_STORAGE_BUCKET_NAME": "pictures",
        "AWS_S3_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_S3_ADDRESSING_STYLE": "path",
        "AWS_ACCESS_KEY_ID": "AKIABENCHMARK0000000",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key-of-nothing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def jobs_asked_for(environment: dict[str, str]) -> list[str]:
    """Ids of finished workflow jobs of the first tenant, from all over the store."""
    with store.connect(environment) as database:
        rows = database.execute(
            "SELECT public_id::text FROM jobs_job JOIN tenants_tenant tenant ON tenant.id = tenant_id "
            "WHERE slug = %s AND is_workflow AND status = 'SUCCESS' ORDER BY public_id",
            [store.TENANTS[0]],
        ).fetchall()
    return [ulid_text(row[0]) for row in random.Random(4).sample(rows, min(JOBS_ASKED_FOR, len(rows)))]


def compare(servers: list[Server], jobs: list[str], token: str) -> dict[str, list[Request]]:
    """What each endpoint is asked; raises SystemExit unless all servers answer the same."""
    requests = {
        "list": [Request("/v1/jobs")],
        "detail": [Request(f"/v1/jobs/{job}") for job in jobs],
        "events": [Request(f"/v1/jobs/{job}/events") for job in jobs],
        "fleet": [Request("/job")],
    }
    for request in [each for asked in requests.values() for each in asked[:20]]:
        answers = {each.name: get(each.port, request.path, token) for each in servers}
        for name, (status, body, _) in answers.items():
            if status != 200 or comparable(body) != comparable(answers["gateway"][1]):
                theirs, own = (orjson.dumps(comparable(each), option=orjson.OPT_INDENT_2).decode().splitlines()
                               for each in (body, answers["gateway"][1]))  # fmt: skip
                differing = next((pair for pair in zip(theirs, own, strict=False) if pair[0] != pair[1]), "length")
                raise SystemExit(f"{name} answers {request.path} ({status}) unlike the gateway: {differing}")
    return requests | {"not_modified": requests["detail"]}


def polls(gateway: Server, asked: list[Request], token: str) -> list[Request]:
    """``asked`` with the validators of now: they hold until the signing window ends."""
    return [Request(path, get(gateway.port, path, token)[2]) for path, _ in asked]


def one_turn(
    server: Server, endpoint: str, asked: list[Request], token: str, seconds: float, folder: Path
) -> load.Result:
    """Raises Stale when polls are answered in full the second time too, as where they never hold."""
    if endpoint != "not_modified":
        return load.drive(server.port, asked, token, seconds, folder)
    try:
        return load.drive(server.port, polls(server, asked, token), token, seconds, folder)
    except load.Stale:
        return load.drive(server.port, polls(server, asked, token), token, seconds, folder)


def comparable(body: bytes) -> Any:
    """An answer with its links taken apart, without when they were signed: the peers sign each time anew."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: link(member) if name == "image_url" else plain(member) for name, member in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    def link(url: str) -> list[Any]:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=True))
        if not re.fullmatch(r"\d{8}T\d{6}Z", query.pop("X-Amz-Date")):
            raise SystemExit(f"{url}: no time")
        if not re.fullmatch("[0-9a-f]{64}", query.pop("X-Amz-Signature")):
            raise SystemExit(f"{url}: no signature")
        return [parts.scheme, parts.netloc, parts.path, query]

    return plain(orjson.loads(body))


def drive(
    servers: list[Server], requests: dict[str, list[Request]], token: str, rounds: int, seconds: float, folder: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Medians of each server at each endpoint. The turns alternate, so that the machine's moods meet all alike."""
    endpoints: dict[str, dict[str, dict[str, float]]] = {}
    for endpoint, asked in requests.items():
        taking_part = servers[:1] if endpoint == "not_modified" else servers
        measured: dict[str, list[load.Result]] = defaultdict(list)
        for turn in range(rounds + 1):
            for each in taking_part:
                result = one_turn(each, endpoint, asked, token, seconds if turn else WARM_UP_SECONDS, folder)
                measured[each.name] += [result] if turn else []
        endpoints[endpoint] = {
            name: {
                field: round(statistics.median(values), 3)
                for field, values in zip(load.Result._fields, zip(*results, strict=True), strict=True)
            }
            for name, results in measured.items()
        }
        told = ", ".join(f"{name} {result['rps']:,.0f}/s" for name, result in endpoints[endpoint].items())
        print(f"  {report.LABELS[endpoint]}: {told}", flush=True)
    return endpoints


if __name__ == "__main__":
    main()
