"""A server that was demoted, or ends a connection, is left at once; a ledger call says whether it was committed."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from django.db import connection
from ulid import ULID

from jobs.ingest import ledger
from jobs.models import JobEvent
from jobs.postgresql.base import ConnectionEnded
from tests import servers
from tests.gateway import serving
from tests.servers import START_SECONDS
from tests.stores import Store

pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def filled(new_store):
    """A store with the tenant acme, which servers of tests get a copy of, and a token of it."""
    store = new_store("acme")
    return store, store.run("issue_token", "acme").stdout.decode().split()[-1]


@pytest.fixture
def copied(filled, postgresql_server, tmp_path):
    """``copied(server)`` is the filled store on another server, and the token."""
    store, token = filled

    def copy(server):
        server.psql("CREATE ROLE gateway LOGIN CREATEROLE")
        server.copy_database("gateway", postgresql_server, store.name, owner="gateway")
        return Store(server.url("gateway", user="gateway"), tmp_path), token

    return copy


@pytest.fixture
def terminated(postgresql_server):
    """``terminated()`` ends the connection of this thread, as an administrator or a demotion does."""

    def terminate():
        connection.ensure_connection()
        pid = connection.connection.info.backend_pid
        postgresql_server.psql(f"SELECT pg_terminate_backend({pid}, 5000)")

    return terminate


@pytest.mark.django_db(transaction=True)
def test_a_call_whose_connection_is_ended_says_that_nothing_was_written_and_the_next_one_works(acme, terminated):
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    terminated()
    with pytest.raises(ledger.ConnectionLost, match="Nothing was written") as raised:
        ledger.append(job, "stage", "lost")
    assert raised.value.committed is False
    assert ledger.append(job, "stage", "kept").seq == 1


@pytest.mark.django_db(transaction=True)
def test_a_transaction_of_several_jobs_whose_connection_is_ended_is_lost_as_a_whole(acme, terminated):
    jobs = [ledger.open_job(acme, "MODEL_GENERATOR") for _ in range(2)]

    def append_to_both():
        with ledger.together(*jobs):
            ledger.append(jobs[0], "stage", "first")
            terminated()
            ledger.append(jobs[1], "stage", "second")

    with pytest.raises(ledger.ConnectionLost) as raised:
        append_to_both()
    assert raised.value.committed is False
    assert not JobEvent.all_tenants.filter(job__in=jobs).exists()


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_is_read_only_on_a_primary_keeps_its_connection(acme):
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
        pid = connection.connection.info.backend_pid
        with pytest.raises(Exception, match="read-only transaction") as raised:
            cursor.execute("DELETE FROM jobs_jobevent")
        assert not isinstance(raised.value, ConnectionEnded)
        cursor.execute("RESET default_transaction_read_only")
        cursor.execute("DELETE FROM jobs_jobevent")
        assert connection.connection.info.backend_pid == pid


@pytest.mark.django_db
def test_a_slow_statement_keeps_its_connection_while_the_server_answers(monkeypatch):
    monkeypatch.setattr("jobs.postgresql.connection.SILENCE_SECONDS", 0.1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        before = cursor.fetchone()
        cursor.execute("SELECT pg_sleep(1)")
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() == before


# Appends twice, each time when it is told to.
APPEND_TWICE = """
import sys
from jobs.ingest import ledger
from jobs.postgresql import connection
from tenants.models import Tenant
connection.SILENCE_SECONDS = 0.5
job = ledger.open_job(Tenant.objects.get(slug="acme"), "MODEL_GENERATOR")
print("opened", flush=True)
for line in sys.stdin:
    try:
        print(ledger.append(job, "stage", line).seq, flush=True)
    except ledger.ConnectionLost as error:
        print(error, flush=True)
"""


def test_a_connection_whose_server_hangs_is_given_up(copied):
    with servers.postgresql() as server:
        store, _ = copied(server)
        with store.start("shell", "--verbosity=0", "--command", APPEND_TWICE, stderr=None) as writer:
            watchdog = threading.Timer(2 * START_SECONDS, writer.kill)
            watchdog.start()
            try:
                assert writer.stdout.readline() == b"opened\n"
                server.hang()
                try:
                    writer.stdin.write(b"lost\n")
                    writer.stdin.flush()
                    said = writer.stdout.readline().decode()
                finally:
                    server.go_on()
                assert said == "The connection to the database was lost. Nothing was written.\n"
                writer.stdin.write(b"kept\n")
                writer.stdin.flush()
                assert writer.stdout.readline() == b"1\n"
            finally:
                watchdog.cancel()
                writer.kill()


# A commit that waits for a standby which never answers; the administrator ends it, as a demotion does.
COMMIT = """
import django, sys
django.setup()
from jobs.ingest import ledger
from tenants.models import Tenant
acme = Tenant.objects.get(slug="acme")
public_id = "01JADE5XAMPK9M0Q7RS3T4V5W6"
for _ in range(2):
    try:
        ledger.open_job(acme, "MODEL_GENERATOR", public_id=public_id)
    except ledger.ConnectionLost as error:
        print(error.committed, error, flush=True)
    except ledger.JobExists:
        print("exists", flush=True)
"""


def test_a_connection_that_is_lost_during_commit_leaves_the_outcome_open_and_the_call_can_be_repeated(copied, tmp_path):
    never = {"synchronous_standby_names": "nobody", "synchronous_commit": "local"}
    with servers.postgresql(durable=True, settings=never) as server:
        store, _ = copied(server)
        waiting_store = Store(f"{store.url}&options=-c%20synchronous_commit%3Don", tmp_path)
        writer = waiting_store.start("shell", "--verbosity=0", "--command", COMMIT)
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        deadline = time.monotonic() + START_SECONDS
        while not (pid := server.psql(waiting).strip()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.psql(f"SELECT pg_terminate_backend({pid})")
        output, _ = writer.communicate(timeout=60)
    assert output.decode().splitlines() == [
        "None The connection to the database was lost. It is not known whether the change was committed.",
        "exists",
    ]


def restarted_as_standby(server):
    server.stop(signal.SIGINT)
    (server.data / "standby.signal").touch()
    server.start()


@pytest.mark.skipif(
    not shutil.which("pgbouncer", path="/usr/bin:/usr/sbin"),
    reason="no PgBouncer is installed: apt-get install pgbouncer",
)
def test_a_pooler_behind_which_the_primary_was_demoted_is_noticed_within_two_seconds(copied):
    """The pooler keeps its client's connection while the server behind it changes."""
    with servers.postgresql(durable=True) as server:
        _, token = copied(server)
        with servers.pgbouncer(server, "gateway") as folder:
            url = f"postgres://gateway@/gateway?host={folder}"
            with serving(url, DATABASE_PREPARED="0") as gateway:
                assert gateway.get("/v1/jobs", token).status == 200
                assert gateway.get("/readyz").status == 200
                restarted_as_standby(server)
                time.sleep(2)
                answer = gateway.get("/readyz")
                assert answer.status == 503
                assert not answer.body.startswith(b"database: ok")
                server.psql("SELECT pg_promote()")
                wait_until(lambda: gateway.get("/readyz").status == 200)
                wait_until(lambda: gateway.get("/v1/jobs", token).status == 200)


def test_a_command_waits_for_the_database_and_goes_on(copied, tmp_path):
    with servers.postgresql(durable=True) as server:
        store, _ = copied(server)
        file = tmp_path / "jobs.ndjson"
        file.write_text("".join(record(number) for number in range(100)))
        running = store.start("backfill_jobs", file, "--batch", "10", "--throttle", "0.1")
        deadline = time.monotonic() + START_SECONDS
        while store.jobs() < 20:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.stop(signal.SIGQUIT)
        time.sleep(2)
        server.start()
        output, errors = running.communicate(timeout=120)
        assert running.returncode == 0, errors
        assert b"The database is away" in errors
        assert b"The database answers again" in errors
        assert output.startswith(b"loaded 100, unchanged 0") or b", unchanged 10" in output
        assert store.jobs() == 100
        brief = Store(store.url, tmp_path, {"DATABASE_WAIT_SECONDS": "1"})
        file.write_text("".join(record(number) for number in range(100, 200)))
        running = brief.start("backfill_jobs", file, "--batch", "10", "--throttle", "0.1")
        while store.jobs() < 120:
            assert time.monotonic() < deadline + START_SECONDS
            time.sleep(0.05)
        server.stop(signal.SIGQUIT)
        output, errors = running.communicate(timeout=60)
        assert running.returncode == 1
        assert b"--after-line" in errors
        server.start()


def record(number):
    header = {"public_id": f"01JADE5XAMPK9M0Q7RS3T4{number:04}", "tenant": "acme", "job_type": "MODEL_GENERATOR"}
    return json.dumps(header | {"created_at": "2026-04-15T12:00:00Z"}) + "\n"


# Appends two events to a job, for each line that names it and what to say. A start takes a second.
APPEND = """
import sys
from django.db import connection
from jobs.ingest import ledger
from tenants.models import Tenant
acme = Tenant.objects.get(slug="acme")
for line in sys.stdin:
    connection.close()
    connection.close_pool()  # the server may be another than for the line before
    public_id, message = line.split()
    try:
        job = ledger.open_job(acme, "MODEL_GENERATOR", public_id=public_id)
    except ledger.JobExists:
        job = public_id
    for text in (message, message + " too"):
        ledger.append(job, "stage", text)
    print("appended", flush=True)
"""


@contextmanager
def appending(store):
    """``append(job, "word")`` in another process while the block runs."""
    with store.start("shell", "--verbosity=0", "--command", APPEND, stderr=None) as process:
        watchdog = threading.Timer(4 * START_SECONDS, process.kill)
        watchdog.start()

        def append(job, message):
            process.stdin.write(f"{job} {message}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline() == b"appended\n"

        try:
            yield append
        finally:
            watchdog.cancel()
            process.kill()


def test_after_a_promotion_that_lost_commits_cursors_are_gone_and_latest_seq_is_below_since(copied, tmp_path):
    job = "01JADE5XAMPK9M0Q7RS3T4V5W6"
    with servers.postgresql(durable=True) as old:
        _, token = copied(old)
        with servers.postgresql(durable=True, replica_of=old) as new:
            both = Store(f"postgres://gateway@/gateway?host={old.folder},{new.folder}", tmp_path)
            with serving(both.url) as gateway, appending(both) as append:
                append(job, "kept")
                seqs = f"SELECT count(*) FROM jobs_jobevent WHERE job_id = '{ULID.from_str(job).to_uuid()}'"
                wait_until(lambda: new.psql(seqs, database="gateway").strip() == "2")
                new.psql("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
                wait_until(lambda: not old.psql("SELECT pid FROM pg_stat_replication").strip())
                append(job, "lost")
                page = json.loads(gateway.get("/v1/events", token).body)
                shown = json.loads(gateway.get(f"/v1/jobs/{job}/events", token).body)
                assert [event["seq"] for event in shown["events"]] == [1, 2, 3, 4]
                old.stop(signal.SIGQUIT)
                new.psql("SELECT pg_promote()")
                wait_until(lambda: gateway.get(f"/v1/jobs/{job}", token).status == 200)
                after = f"/v1/events?after={page['cursor']}"
                beyond = gateway.get(after, token)
                timeline = json.loads(gateway.get(f"/v1/jobs/{job}/events?since={shown['latest_seq']}", token).body)
                assert (timeline["events"], timeline["latest_seq"]) == ([], 2)
                append("01JADE5XAMPK9M0Q7RS3T4V5W7", "another")
                another = gateway.get(after, token)
                for answer in (beyond, another):
                    assert (answer.status, json.loads(answer.body)["code"]) == (410, "CURSOR_GONE")
                append(job, "other")
                # The numbers that the client has are taken again: only what follows them is shown.
                timeline = json.loads(gateway.get(f"/v1/jobs/{job}/events?since={shown['latest_seq']}", token).body)
                assert (timeline["events"], timeline["latest_seq"]) == ([], 4)


def wait_until(is_so):
    deadline = time.monotonic() + START_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to it"
        time.sleep(0.05)
