"""A cluster under Patroni fails over by itself: readers and writers notice a pause, and nothing is lost or repeated."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import psycopg
import pytest
from ulid import ULID

from jobs.ulid import ulid_text
from tests import clusters
from tests.feed_readers import Crowd, PageReader, StreamReader, WaitingReader
from tests.gateway import serving
from tests.stores import Store

pytestmark = [
    pytest.mark.postgresql,  # it starts its own servers: once is enough
    pytest.mark.full,
    pytest.mark.skipif(clusters.missing_program() is not None, reason=str(clusters.missing_program())),
]

WITHOUT_READS_SECONDS = 2
WITHOUT_WRITES_SECONDS = 3  # more than Patroni takes to promote
READY_SECONDS = 2
QUIET_SECONDS = 3  # before each incident
SETTLE_SECONDS = 60
WRITERS = 8
LOADED_JOBS_AN_INCIDENT = 1000

FILL = """
import django
django.setup()
from django.core.management import call_command
from jobs.ingest import ledger
from tenants import tokens
from tenants.models import Tenant
call_command("migrate", verbosity=0)
call_command("grant_api_role", "gateway_api", verbosity=0)
acme = Tenant.objects.create(slug="acme")
job = ledger.open_job(acme, "MODEL_GENERATOR")
ledger.append(job, "queued", "Queued")
print(tokens.issue(acme), job.public_id)
"""

# Threads that append, and print each event that the ledger has acknowledged: when, job, seq, number. What was lost is
# repeated, unless the store has it.
WRITER = """
import sys, threading, time
from jobs.ingest import ledger
from jobs.models import JobEvent
from tenants.models import Tenant
acme = Tenant.objects.get(slug="acme")
def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")  # in one piece, for threads write side by side
    sys.stdout.flush()
def has(job, number):
    while True:
        try:
            return JobEvent.all_tenants.filter(job=job, message=str(number)).first()
        except Exception:
            from django.db import connection
            connection.close()
            time.sleep(0.05)
def write(job):
    number = 0
    while True:
        try:
            event = ledger.append(job, "stage", str(number))
        except ledger.ConnectionLost as error:
            say("lost", error.committed)
            event = has(job, number) if error.committed is None else None
            if event is None:
                time.sleep(0.05)
                continue
        say("event", time.time(), job.public_id, event.seq, number)
        number += 1
        time.sleep(0.02)
jobs = [ledger.open_job(acme, "MODEL_GENERATOR") for _ in range({writers})]
for job in jobs:
    threading.Thread(target=write, args=[job]).start()
"""


@pytest.fixture(scope="module")
def cluster():
    with clusters.cluster() as made:
        leader = made.leader()
        for statement in ("CREATE ROLE gateway LOGIN CREATEROLE", "CREATE DATABASE gateway OWNER gateway"):
            leader.execute(statement)
        yield made


@pytest.fixture(scope="module")
def store(cluster, tmp_path_factory):
    url = cluster.url("gateway", target_session_attrs="read-write")
    return Store(url, tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def filled(store):
    """The tenant's token, and a job of the tenant's."""
    return store.python("-c", FILL).stdout.decode().split()


@pytest.fixture(scope="module")
def gateway(cluster, store, filled):
    standby = {"target_session_attrs": "prefer-standby", "load_balance_hosts": "random", "application_name": "standby"}
    environment = {
        "DATABASE_API_URL": cluster.url("gateway_api", target_session_attrs="read-write", application_name="primary"),
        "DATABASE_REPLICA_URL": cluster.url("gateway_api", **standby),
        "REQUIRE_ROW_SECURITY": "1",
        "STREAMS_PER_TENANT": "1000",
    }
    with serving(store.url, workers=2, **environment) as served:
        yield served


class Poller(threading.Thread):
    """Asks for ``path`` every 50 ms, and notes when the answer was 200."""

    def __init__(self, gateway, path, token):
        super().__init__(daemon=True)
        self.gateway, self.path, self.token = gateway, path, token
        self.good = []
        self.statuses = Counter()
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.wait(0.05):
            with suppress(OSError):
                status = self.gateway.get(self.path, self.token).status
                self.statuses[status] += 1
                if status == 200:
                    self.good.append(time.time())

    def stop(self):
        self.stopping.set()
        self.join()


class Writers(threading.Thread):
    """A process that appends, and what it has printed."""

    def __init__(self, store):
        super().__init__(daemon=True)
        self.errors = (store.folder / "writers").open("wb")
        command = WRITER.format(writers=WRITERS)
        self.process = store.start("shell", "--verbosity=0", "--command", command, stderr=self.errors)
        self.events, self.lost = [], Counter()

    def run(self):
        for line in self.process.stdout:
            kind, *values = line.decode().split()
            if kind == "event":
                at, job, seq, number = values
                self.events.append((float(at), job, int(seq), int(number)))
            else:
                self.lost[values[0]] += 1

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.join()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            file.close()


def wait_until(is_so, seconds=SETTLE_SECONDS):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not settle"
        time.sleep(0.05)


def longest_gap(times, since, until):
    """The longest time without one of ``times``, between two of them."""
    inside = [since, *sorted(at for at in times if since <= at <= until), until]
    return max(later - earlier for earlier, later in pairwise(inside))


def wait_for_promotion(cluster, old):
    """When another node than ``old`` takes writes."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        for node in cluster.nodes:
            if node is not old:
                with suppress(psycopg.Error):
                    if node.query("SELECT pg_is_in_recovery()") == [(False,)]:
                        return time.time()
        time.sleep(0.02)
    raise AssertionError("no node was promoted")


def interchange_file(folder, jobs):
    lines = []
    for number in range(jobs):
        at = f"2026-04-15T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        record = {"public_id": str(ULID()), "tenant": "acme", "job_type": "MODEL_GENERATOR", "created_at": at}
        events = [{"seq": 1, "event_type": "stage", "created_at": at, "message": "loaded"}]
        lines.append(json.dumps(record | {"events": events}))
    path = folder / "jobs.ndjson"
    path.write_text("\n".join(lines) + "\n")
    return path


def feed_of(node):
    rows = node.query("SELECT job_id, seq FROM jobs_jobevent WHERE position IS NOT NULL ORDER BY position", "gateway")
    return [f"{ulid_text(str(job))}-{seq}" for job, seq in rows]


def connections_as_primary(node):
    """Those of ours on ``node`` that are there for writes, or for what only a primary may answer."""
    return node.query(
        "SELECT usename, application_name, query FROM pg_stat_activity WHERE datname = 'gateway' "
        "AND (usename = 'gateway' OR application_name = 'primary')"
    )


def switched_over(cluster, leader):
    cluster.switch_over(leader)


def killed(cluster, leader):
    leader.kill()


def stopped_still(cluster, leader):
    leader.hang()


def cut_off_from_etcd(cluster, leader):
    leader.way_to_etcd.cut()


def put_right(cluster, node):
    """Ends what an incident has done to ``node``."""
    node.go_on()
    node.way_to_etcd.mend()
    if node.process is None:
        node.start(cluster.patroni)


def measure(cluster, how, gateway, writers, reads, ready):
    """What ``how`` has cost, in seconds, when the cluster is whole again."""
    old = cluster.wait_until_whole()
    time.sleep(QUIET_SECONDS)
    quiet = longest_gap(reads.good, time.time() - QUIET_SECONDS, time.time())
    began, lost = time.time(), Counter(writers.lost)
    incident = threading.Thread(target=how, args=[cluster, old])
    incident.start()
    promoted = wait_for_promotion(cluster, old)
    incident.join()
    wait_until(lambda: writers.events[-1][0] > promoted)
    resumed = next(at for at, *_ in writers.events if at > promoted)
    time.sleep(READY_SECONDS)
    readiness = gateway.get("/readyz")
    put_right(cluster, old)
    cluster.wait_until_whole()
    written = [at for at, *_ in writers.events]
    measured = {
        "incident": how.__name__,
        "Patroni": promoted - began,
        "without writes": longest_gap(written, began - 1, time.time()),
        "until a write after the promotion": resumed - promoted,
        "without reads": longest_gap(reads.good, began - 1, time.time()),
        "without reads before it": quiet,
        "without a good /readyz": longest_gap(ready.good, began - 1, time.time()),
        "/readyz after it": readiness.status,
        "calls that were lost": dict(writers.lost - lost),
        "connections to it as the primary": connections_as_primary(old),
    }
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in measured.items()}


# With TEST_CLUSTER=battery each of them several times, which takes ten minutes.
INCIDENTS = [switched_over, killed]
if os.environ.get("TEST_CLUSTER") == "battery":
    INCIDENTS = [switched_over] * 5 + [killed] * 5 + [stopped_still] * 3 + [cut_off_from_etcd] * 2


def is_within_bounds(measured):
    return (
        measured["without reads"] <= WITHOUT_READS_SECONDS + measured["without reads before it"]
        and measured["without writes"] <= measured["Patroni"] + WITHOUT_WRITES_SECONDS
        and measured["/readyz after it"] == 200
        and not measured["connections to it as the primary"]
    )


def test_incidents_cost_a_pause_and_no_event(cluster, store, filled, gateway, record_property):
    token, job_id = filled
    crowd = Crowd([kind(gateway, token, n) for n, kind in enumerate((PageReader, StreamReader, WaitingReader) * 2)])
    reads, ready = Poller(gateway, f"/v1/jobs/{job_id}", token), Poller(gateway, "/readyz", "")
    writers = Writers(store)
    jobs = LOADED_JOBS_AN_INCIDENT * len(INCIDENTS)
    # Its pauses are longer than the incidents.
    loading = ("backfill_jobs", interchange_file(store.folder, jobs), "--batch", "20", "--throttle", "0.5")
    backfill, measured = None, []
    try:
        for thread in (crowd, reads, ready, writers):
            thread.start()
        wait_until(lambda: len(writers.events) > 20)
        # Into a file: a pipe that nobody reads would stop the command.
        errors = store.folder / "backfill"
        with errors.open("wb") as file:
            backfill = store.start(*loading, stderr=file)
        for number, how in enumerate(INCIDENTS):
            measured.append(measure(cluster, how, gateway, writers, reads, ready))
            record_property(str(number), json.dumps(measured[-1]))
        output, _ = backfill.communicate(timeout=300)
        assert backfill.returncode == 0, errors.read_text()
        assert "rejected 0" in output.decode()
    except BaseException:
        crowd.stop()  # its threads would keep the process from ending
        raise
    finally:
        writers.stop()
        for poller in (reads, ready):
            poller.stop()
        if backfill is not None and backfill.poll() is None:
            backfill.kill()
            backfill.communicate()
    feed = feed_of(cluster.leader())
    with suppress(AssertionError):
        wait_until(lambda: all(len(reader.saved) >= len(feed) for reader in crowd.readers))
    crowd.stop()
    assert crowd.failures == []
    for reader in crowd.readers:
        assert reader.saved == feed, type(reader)
    assert set(reads.statuses) <= {200, 503}
    check_what_is_stored(cluster.leader(), writers, jobs)
    store.run("backfill_status", "--dry-run")
    assert all(map(is_within_bounds, measured)), measured


def check_what_is_stored(leader, writers, jobs):
    """Each call that the ledger has acknowledged, once, and each record of the file."""
    rows = leader.query("SELECT job_id, seq, message FROM jobs_jobevent", "gateway")
    stored = {(ulid_text(str(job)), seq): message for job, seq, message in rows}
    acknowledged = {(job, seq): str(number) for _, job, seq, number in writers.events}
    assert acknowledged.items() <= stored.items()
    for job in {job for job, _ in acknowledged}:
        numbers = [message for (each, _), message in stored.items() if each == job]
        assert len(numbers) == len(set(numbers)), "a call that was committed was not repeated"
    assert sum(message == "loaded" for message in stored.values()) == jobs


def require_not_ready(gateway):
    answer = gateway.get("/readyz")
    assert answer.status == 503
    assert not answer.body.startswith(b"database: ok")


def test_one_host_that_is_demoted_is_left_and_reported(cluster, store, filled):
    token, job = filled
    leader = cluster.wait_until_whole()
    url = f"postgres://gateway@127.0.0.1:{leader.port}/gateway"
    alone = Store(url, store.folder)
    with serving(url, workers=1) as gateway:
        assert gateway.get(f"/v1/jobs/{job}", token).status == 200
        assert gateway.get("/readyz").body.startswith(b"database: ok\n")
        cluster.switch_over(leader)
        time.sleep(READY_SECONDS)
        require_not_ready(gateway)
        assert gateway.get(f"/v1/jobs/{job}", token).status == 503
        wait_until(lambda: leader.ask().get("state") == "running")
        time.sleep(READY_SECONDS)
        assert leader.query("SELECT pg_is_in_recovery()") == [(True,)]
        require_not_ready(gateway)
        assert connections_as_primary(leader) == []
        errors = alone.run("create_tenant", "globex", expected=1).stderr.decode()
        assert "hot standby" in errors
        cluster.switch_over(cluster.wait_until_whole(), leader)
        wait_until(lambda: gateway.get("/readyz").status == 200)
        assert gateway.get(f"/v1/jobs/{job}", token).status == 200
