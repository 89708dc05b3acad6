"""The benchmark: all servers give the same responses, and the peers use no code of the gateway."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
from itertools import islice
from pathlib import Path

import orjson
import psycopg
import pytest

from benchmarks import load, report, store, workloads
from benchmarks.load import Request
from benchmarks.servers import COMMANDS, cpu_seconds, get, process_tree, serving
from tests.servers import temporary_folder
from tests.shared_servers import migrated_postgresql

PEERS = sorted((Path(__file__).resolve().parent.parent / "benchmarks" / "peers").glob("*.py"))
SIGNER = {"jobs.artifacts.signing", "jobs.artifacts.sigv4"}
JOBS = 400
LONG_JOBS = 1
TWO_WORKERS = "requests/s, 2 workers against 1, without the load generator"
TOKENS = MANY_REQUESTS = 2 * len(store.TENANTS)


@pytest.mark.sqlite
@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.stem)
def test_a_peer_imports_nothing_of_the_project_but_the_signer(path):
    tree = ast.parse(path.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    of_the_project = {name for name in imported if name.partition(".")[0] in ("jobs", "jobs_gateway", "tenants")}
    assert of_the_project - SIGNER == set()


class Running:
    """The four servers over one small store."""

    def __init__(self, running, environment, tokens):
        self.servers = {server.name: server for server in running}
        self.environment = environment
        self.token = tokens[store.TENANTS[0]][0]
        self.workloads = workloads.workloads(
            environment, self.servers["gateway"], self.token, tokens, many_requests=MANY_REQUESTS
        )


@pytest.fixture(scope="module")
def running(postgresql_server):
    # FastAPI and its server are in requirements-bench.txt alone.
    available = [name for name in COMMANDS if name != "fastapi" or importlib.util.find_spec("fastapi")]
    # Migrated, so that store.create finds nothing left to migrate.
    postgresql_server.psql(f"CREATE DATABASE bench TEMPLATE {migrated_postgresql()}")
    with temporary_folder("jgw-bench-") as folder:
        environment = store.environment_of(postgresql_server.url("bench"), folder)
        store.create(environment)
        store.backfill(environment, [*store.records(0, JOBS), *store.long_jobs(LONG_JOBS)], folder)
        tokens = store.issue_tokens(environment, TOKENS)
        with contextlib.ExitStack() as stack:
            token = tokens[store.TENANTS[0]][0]
            started = [stack.enter_context(serving(name, environment, token, folder)) for name in available]
            yield Running(started, environment, tokens)
    postgresql_server.psql("DROP DATABASE bench")


@pytest.mark.postgresql
def test_all_servers_give_the_same_answers(running):
    workloads.compare(list(running.servers.values()), running.workloads)


@pytest.mark.postgresql
def test_each_workload_asks_what_its_name_says(running):
    asked = running.workloads
    limit = running.servers["limit"]

    def body(request):
        status, content, _ = get(limit.port, request.path, request.token)
        assert status == 200
        return orjson.loads(content)

    assert {request.token for name in ("list", "detail", "events", "fleet") for request in asked[name].requests} == {
        running.token
    }
    assert len({request.token for request in asked["many_detail"].requests}) == TOKENS
    assert len({request.path for request in asked["many_detail"].requests}) == MANY_REQUESTS
    assert len({request.token for request in asked["many_list"].requests}) == TOKENS
    assert len({request.path for request in asked["many_list"].requests}) > MANY_REQUESTS / 2
    assert len(body(asked["events_500"].requests[0])["events"]) == 500
    assert body(asked["list_200"].requests[0])["limit"] == 200
    assert body(asked["fleet"].requests[0])["items"]


@pytest.mark.postgresql
def test_polls_of_the_gateway_and_of_the_limit_are_answered_with_304(running):
    for name in ("gateway", "limit"):
        server = running.servers[name]
        for request in islice(running.workloads["not_modified"].of(server), 3):
            status, body, headers = get(server.port, *request)
            assert (status, body, headers["ETag"]) == (304, b"", request.etag)


@pytest.mark.postgresql
def test_the_limit_answers_in_full_when_the_job_has_changed(running):
    limit = running.servers["limit"]
    request = running.workloads["not_modified"].of(limit)[0]
    with psycopg.connect(running.environment["DATABASE_URL"].replace("postgres://", "postgresql://")) as database:
        database.execute("UPDATE jobs_job SET version = version + 1")
    status, body, headers = get(limit.port, *request)
    assert (status, bool(body)) == (200, True)
    assert headers["ETag"] != request.etag


@pytest.mark.postgresql
def test_the_limit_refuses_unknown_tokens_and_other_tenants_jobs(running):
    limit = running.servers["limit"]
    request = running.workloads["detail"].requests[0]
    other = next(each for each in running.workloads["many_detail"].requests if each.token != request.token)
    assert get(limit.port, request.path, request.token[:-1])[0] == 401
    assert get(limit.port, request.path, "")[0] == 401
    assert get(limit.port, request.path, other.token)[0] == 404
    assert get(limit.port, "/v1/jobs/nonsense", request.token)[0] == 404
    assert get(limit.port, request.path, request.token)[0] == 200


@pytest.mark.postgresql
def test_the_load_generator_sends_requests_in_turn_and_counts_what_fails(running):
    limit = running.servers["limit"]
    good = running.workloads["detail"].requests[0]
    result = load.drive(limit.port, [good, good, good._replace(token="wrong")], seconds=0.3, connections=4)
    assert result.errors == pytest.approx(result.requests / 2, abs=4)
    assert result.not_modified == 0
    assert 0 < result.p50_ms <= result.p99_ms
    assert 0 < result.cpu_us < 1e6 / result.rps
    with pytest.raises(SystemExit, match="errors, 0 responses"):
        load.drive(limit.port, [Request(good.path, "wrong")], seconds=0.1)


@pytest.mark.postgresql
def test_the_load_generator_reads_large_and_empty_bodies(running):
    limit = running.servers["limit"]
    for name in ("events_500", "not_modified"):
        result = load.drive(limit.port, running.workloads[name].of(limit), seconds=0.2, connections=2)
        assert (result.errors, result.not_modified) == (0, result.requests * (name == "not_modified"))


@pytest.mark.postgresql
def test_cpu_time_is_that_of_the_workers_too(running):
    limit = running.servers["limit"]
    assert len(process_tree(limit.process.pid)) > 1
    before = cpu_seconds(limit.process.pid)
    load.drive(limit.port, running.workloads["detail"].requests, seconds=0.5)
    assert cpu_seconds(limit.process.pid) > before


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("theirs", "is_alike"),
    [
        ({"events": [{"seq": 1}]}, True),  # the gateway's ``source`` is an addition
        ({"events": [{"seq": 2}]}, False),
        ({"events": []}, False),
        ({"events": [{"seq": 1, "stage": None}]}, False),
    ],
)
def test_the_gateway_may_have_more_members_than_the_peers_and_no_other_difference(theirs, is_alike):
    ours = {"events": [{"seq": 1, "source": "renderer"}], "latest_seq": 1}
    difference = workloads.first_difference(workloads.without_additions(ours, theirs), theirs)
    assert (difference == "") is is_alike


def figures(rps, cpu_us, **more):
    return {
        "rps": rps,
        "p50_ms": 1.0,
        "p99_ms": 5.0,
        "cpu_us": cpu_us,
        "database_cpu_us": 100.0,
        "client_cpu_us": 20.0,
        "errors": 0,
    } | more


def results():
    """What a run that meets every goal writes."""
    every = {
        "gateway": figures(2_600, 130),
        "fastapi": figures(200, 3_000),
        "drf": figures(100, 9_000),
        "limit": figures(3_000, 100),
    }
    endpoints = {name: dict(every) for name in report.LABELS}
    endpoints["not_modified"] = {"gateway": every["gateway"], "limit": every["limit"]}
    return {
        "endpoints": endpoints,
        "connections": {count: dict(endpoints["not_modified"]) for count in ("1", "64", "256")},
        "workers": {"1": {"gateway": figures(1_000, 130)}, "2": {"gateway": figures(1_700, 130)}},
        "load": {"gateway_rows_s": 40_000, "copy_rows_s": 80_000},
        "start": {"gateway": {"cold_start_s": 1.0, "resident_mb": 90}},
        "machine": {"cores": 2},
        "flat": {"list": 1.1, "detail": 1.4},
    }


@pytest.mark.sqlite
def test_the_report_says_that_goals_are_met():
    text = report.text(results())
    assert "missed" not in text
    assert "| CPU, the limit, detail | ≤ 1.4× | 1.30× | met |" in text
    assert "| requests/s, FastAPI, detail | ≥ 12× | 13.00× | met |" in text


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("place", "worse", "goal"),
    [
        (("endpoints", "detail", "gateway"), figures(2_300, 130), "requests/s, FastAPI, detail"),
        (("endpoints", "list", "gateway"), figures(2_600, 141), "CPU, the limit, list of 50"),
        (("endpoints", "not_modified", "gateway"), figures(2_600, 131), "CPU, the limit, 304"),
        (("endpoints", "many_detail", "gateway"), figures(2_600, 235), "CPU, 1,000 tokens against one, detail"),
        (("connections", "64", "gateway"), figures(2_600, 130, p99_ms=6.1), "p99 against p50, 64 connections"),
        (("connections", "256", "gateway"), figures(2_600, 130, errors=1), "errors, 256 connections"),
        (("workers", "2", "gateway"), figures(1_600, 130), TWO_WORKERS),
        (("workers", "2", "gateway"), figures(1_700, 140), "CPU, 2 workers against 1"),
        (("flat", "list"), 1.51, "1,000,000 jobs against 10,000, the worst request"),
    ],
)  # fmt: skip
def test_the_report_says_which_goal_is_missed(place, worse, goal):
    measured = results()
    *outer, last = place
    part = measured
    for name in outer:
        part = part[name]
    part[last] = worse
    missed = [line for line in report.goal_table(measured).splitlines() if line.endswith("missed |")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in missed] == [goal]


@pytest.mark.sqlite
def test_the_load_generators_share_is_taken_out_where_it_shares_cores_with_the_workers():
    result = figures(1_000, 130, client_cpu_us=200.0)  # a fifth of a core
    assert report.without_generator(result, workers=2, cores=2) == pytest.approx(1_000 * 2 / 1.8)
    assert report.without_generator(result, workers=1, cores=2) == 1_000
