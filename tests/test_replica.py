"""With a streaming replica, readers lose no event and never go backwards, also while either server is down."""

from __future__ import annotations

import json
import signal
import threading
import time
from ast import literal_eval
from contextlib import contextmanager, suppress
from itertools import count

import pytest
from ulid import ULID

from jobs.ulid import ulid_text
from tests import servers
from tests.feed_readers import Crowd, PageReader, StreamReader, WaitingReader
from tests.gateway import serving
from tests.stores import Store, gateway_on

pytestmark = pytest.mark.postgresql  # it starts its own servers: once is enough

# What a caller waits at most while a server is gone or hangs.
FAILOVER_SECONDS = 2
# How long all may take that comes by itself: replaying, noticing that a server is back.
SETTLE_SECONDS = 15
UNKNOWN = "01JADE5XAMPK9M0Q7RS3T4V5W6"
NEW_TOKEN = "tokens.issue(Tenant.objects.get(slug='acme'))"


@pytest.fixture(scope="module")
def primary():
    # Durable, so that a crash of the primary loses nothing that readers have seen.
    with servers.postgresql(durable=True) as server:
        yield server


# One process for all that is written, as a start costs a second: evaluates a line, prints what came out of it.
INTERPRETER = """
import sys
from django.core.management import call_command
from django.db import connection
from jobs.ingest import bulk
from tenants import tokens
from tenants.models import Tenant
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
    connection.close()
    connection.close_pool()  # the server may be another by the next line
"""


@pytest.fixture(scope="module")
def store(primary, tmp_path_factory):
    return gateway_on(primary, tmp_path_factory.mktemp("replica"))


@pytest.fixture(scope="module")
def python(store):
    """``python("1 + 1")`` in a separate process that uses the primary only."""
    process = store.start("shell", "--verbosity=0", "--command", INTERPRETER)

    def python(expression):
        process.stdin.write(f"{expression}\n".encode())
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, process.communicate()
        return literal_eval(line.decode())

    python("call_command('grant_api_role', 'gateway_api', verbosity=0)")
    python("[Tenant.objects.create(slug=slug).pk for slug in ('acme', 'globex')]")
    yield python
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def replica(primary, python):
    with servers.postgresql(True, {"wal_retrieve_retry_interval": "100ms"}, replica_of=primary) as server:
        yield server


@pytest.fixture(scope="module")
def token(python):
    return python(NEW_TOKEN)


@pytest.fixture(scope="module")
def served(primary, replica, token):
    environment = {
        "DATABASE_API_URL": primary.url("gateway", user="gateway_api"),
        "DATABASE_REPLICA_URL": replica.url("gateway", user="gateway_api"),
        "DATABASE_REPLICA_MAX_LAG_SECONDS": "3600",  # one test uses a separate process for this
        "REQUIRE_ROW_SECURITY": "1",
    }
    with serving(primary.url("gateway", user="gateway"), **environment) as gateway:
        yield gateway


@pytest.fixture
def gateway(served, token):
    wait_until_both_answer(served, token)
    return served


@pytest.fixture
def load(python):
    """``load(job, 3)`` makes the job, or adds to it, until it has three events."""

    def load(job, events, tenant="acme", wait_for=None):
        record = {"public_id": job, "tenant": tenant, "job_type": "MODEL_GENERATOR", "created_at": at(0)}
        record["events"] = [{"seq": seq, "event_type": "stage", "created_at": at(seq)} for seq in range(1, events + 1)]
        python(f"bulk.load_record({record})")
        if wait_for:
            wait_until_true(
                lambda: (
                    wait_for.psql(f"SELECT count(*) FROM jobs_jobevent WHERE {of(job)}", database="gateway").strip()
                    == str(events)
                )
            )

    return load


def at(second):
    return f"2026-04-15T12:{second // 60:02}:{second % 60:02}Z"


def of(job):
    return f"job_id = '{ULID.from_str(job).to_uuid()}'"


def wait_until_true(is_so, seconds=SETTLE_SECONDS):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not settle"
        time.sleep(0.02)


@contextmanager
def replay_paused(replica):
    """The replica answers, but replays nothing."""
    replica.psql("SELECT pg_wal_replay_pause()")
    wait_until_true(lambda: replica.psql("SELECT pg_get_wal_replay_pause_state()").strip() == "paused")
    try:
        yield
    finally:
        replica.psql("SELECT pg_wal_replay_resume()")


@contextmanager
def crashed(server, gateway, token):
    server.stop(signal.SIGQUIT)
    try:
        yield
    finally:
        server.start()
        wait_until_both_answer(gateway, token)


@contextmanager
def hanging(server, gateway, token):
    server.hang()
    try:
        yield
    finally:
        server.go_on()
        wait_until_both_answer(gateway, token)


def wait_until_both_answer(gateway, token):
    """Lists come from the replica, unknown jobs from the primary. A server that is up again is used within two
    seconds."""
    wait_until_true(
        lambda: (
            gateway.log.read_bytes().count(b"is marked as down") == gateway.log.read_bytes().count(b"answers again.")
        )
    )
    wait_until_true(lambda: gateway.get(f"/v1/jobs/{UNKNOWN}", token).status == 404)


def get_in_time(gateway, path, token, **headers):
    """Status and body. Checks that they came in time."""
    began = time.monotonic()
    answer = gateway.get(path, token, **headers)
    took = time.monotonic() - began
    assert took < FAILOVER_SECONDS, (path, answer, took)
    return answer.status, json.loads(answer.body) if answer.body else None, answer.headers["ETag"]


def seqs(gateway, job, token, since=0):
    status, body, _ = get_in_time(gateway, f"/v1/jobs/{job}/events?since={since}", token)
    return status, body.get("latest_seq"), [event["seq"] for event in body.get("events", ())]


# --- A replica that is behind -------------------------------------------------------------------------------------


def test_a_page_comes_from_the_replica_and_what_it_lacks_from_the_primary(gateway, replica, token, load):
    job = str(ULID())
    load(job, 2, wait_for=replica)
    with replay_paused(replica):
        load(job, 4)
        assert seqs(gateway, job, token) == (200, 2, [1, 2]), "what the replica has"
        assert seqs(gateway, job, token, since=2) == (200, 4, [3, 4]), "where the replica has no more"
        assert seqs(gateway, job, token, since=4) == (200, 4, []), "the cursor of an empty page"
        assert seqs(gateway, job, token, since=9) == (200, 4, [])


def test_a_job_that_the_replica_does_not_have_yet_is_found(gateway, replica, token, load):
    job, theirs = str(ULID()), str(ULID())
    with replay_paused(replica):
        load(job, 1)
        load(theirs, 1, tenant="globex")
        assert get_in_time(gateway, f"/v1/jobs/{job}", token)[0] == 200
        assert seqs(gateway, job, token) == (200, 1, [1])
        for path in (f"/v1/jobs/{theirs}", f"/v1/jobs/{UNKNOWN}", f"/v1/jobs/{theirs}/events"):
            assert get_in_time(gateway, path, token)[0] == 404
        listed = get_in_time(gateway, "/v1/jobs?limit=200", token)[1]["jobs"]
        assert job not in {each["public_id"] for each in listed}, "a listing is as old as the replica"


def test_a_poll_never_gets_an_older_version_than_before(gateway, primary, replica, token, load):
    job = str(ULID())
    load(job, 2, wait_for=replica)
    path = f"/v1/jobs/{job}"
    _, _, old = get_in_time(gateway, path, token)
    with replay_paused(replica):
        load(job, 3)
        assert get_in_time(gateway, path, token, If_None_Match=old) == (304, None, old), (
            "the replica has the old version"
        )
        _, _, new = get_in_time(gateway, f"{path}/events?since=2", token)
        assert get_in_time(gateway, f"{path}/events?since=2", token, If_None_Match=new) == (304, None, new)
        # The caller has seen the third event, so the replica's two are not enough for any request.
        status, body, newest = get_in_time(gateway, path, token, If_None_Match=new)
        assert (status, body["latest_event"]["seq"]) == (200, 3)
        assert newest != old
        with crashed(primary, gateway, token):
            assert get_in_time(gateway, path, token, If_None_Match=newest)[0] == 503
            assert get_in_time(gateway, path, token, If_None_Match=old) == (304, None, old)
            replica.psql("SELECT pg_wal_replay_resume()")


def test_what_a_standby_shows_before_its_primary_is_neither_gone_nor_repeated(
    gateway, primary, replica, store, token, load
):
    """A commit that waits for a synchronous standby is on the standbys, and not yet visible on the primary."""
    job = str(ULID())
    load(job, 1, wait_for=replica)
    primary.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
    append = f"from jobs.ingest import ledger; ledger.append('{job}', 'stage', 'early')"
    writer = store.start("shell", "--verbosity=0", "--command", append)
    try:
        wait_until_true(lambda: len(events(replica, job)) == 2, 60)
        assert seqs(gateway, job, token, since=1) == (200, 2, [2])
        status, page, _ = get_in_time(gateway, "/v1/events?limit=500", token)
        assert (status, page["events"][-1]["id"]) == (200, f"{job}-2")
        after = f"/v1/events?after={page['cursor']}"
        assert seqs(gateway, job, token, since=2)[0] == 503
        assert get_in_time(gateway, after, token)[0] == 503
    finally:
        primary.psql("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
        writer.communicate()
    wait_until_true(lambda: seqs(gateway, job, token, since=2) == (200, 2, []))
    status, page, _ = get_in_time(gateway, after, token)
    assert (status, page["events"]) == (200, [])


@pytest.mark.full
def test_a_replica_that_is_too_far_behind_is_only_asked_while_the_primary_is_gone(primary, replica, token, load):
    job = str(ULID())
    environment = {
        "DATABASE_API_URL": primary.url("gateway", user="gateway_api"),
        "DATABASE_REPLICA_URL": replica.url("gateway", user="gateway_api"),
        "DATABASE_REPLICA_MAX_LAG_SECONDS": "0.5",
    }
    with serving(primary.url("gateway", user="gateway"), **environment) as gateway:
        load(job, 1, wait_for=replica)
        assert seqs(gateway, job, token) == (200, 1, [1])
        with replay_paused(replica):
            load(job, 2)
            wait_until_true(lambda: seqs(gateway, job, token) == (200, 2, [1, 2]))
            with crashed(primary, gateway, token):
                assert seqs(gateway, job, token) == (200, 1, [1])
                assert seqs(gateway, job, token, since=1)[0] == 503
                replica.psql("SELECT pg_wal_replay_resume()")
        wait_until_true(lambda: b"has caught up" in gateway.log.read_bytes())


# --- A server that is gone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [crashed, hanging])
def test_without_the_replica_the_primary_answers(gateway, replica, token, load, gone):
    job = str(ULID())
    load(job, 1, wait_for=replica)
    with gone(replica, gateway, token):
        for _ in range(3):
            assert get_in_time(gateway, "/v1/jobs", token)[0] == 200
            assert get_in_time(gateway, "/job", token)[0] == 200
            assert get_in_time(gateway, f"/v1/jobs/{job}", token)[0] == 200
            assert seqs(gateway, job, token) == (200, 1, [1])
            assert seqs(gateway, job, token, since=1) == (200, 1, [])
            assert get_in_time(gateway, f"/v1/jobs/{UNKNOWN}", token)[0] == 404
        began = time.monotonic()
        for _ in range(20):
            assert get_in_time(gateway, f"/v1/jobs/{job}", token)[0] == 200
        assert time.monotonic() - began < FAILOVER_SECONDS, "who is gone is remembered"


@pytest.mark.parametrize("gone", [crashed, hanging])
def test_without_the_primary_the_replica_answers_what_it_can_vouch_for(
    gateway, primary, replica, python, token, load, gone
):
    job = str(ULID())
    load(job, 2, wait_for=replica)
    unused = python(NEW_TOKEN)
    wait_until_true(
        lambda: unused.split("_")[1] in replica.psql("SELECT prefix FROM tenants_apitoken", database="gateway")
    )
    with gone(primary, gateway, token):
        for credential in (token, unused):
            assert get_in_time(gateway, "/v1/jobs", credential)[0] == 200
            assert get_in_time(gateway, "/job", credential)[0] == 200
            assert get_in_time(gateway, f"/v1/jobs/{job}", credential)[0] == 200
            assert seqs(gateway, job, credential) == (200, 2, [1, 2])
            assert seqs(gateway, job, credential, since=1) == (200, 2, [2])
            # Only the primary can answer these: whether there is more, another job, another token.
            assert seqs(gateway, job, credential, since=2)[0] == 503
            assert get_in_time(gateway, f"/v1/jobs/{UNKNOWN}", credential)[0] == 503
        assert get_in_time(gateway, "/v1/jobs", f"jgw_{'a' * 12}_{'b' * 43}")[0] == 503
        assert get_in_time(gateway, "/v1/jobs", "")[0] == 401


def test_without_both_servers_the_response_is_in_time(gateway, primary, replica, token):
    primary.hang()
    replica.stop(signal.SIGQUIT)
    try:
        for path in ("/v1/jobs", f"/v1/jobs/{UNKNOWN}", f"/v1/jobs/{UNKNOWN}/events", "/job"):
            assert get_in_time(gateway, path, token)[0] == 503
    finally:
        primary.go_on()
        replica.start()
        wait_until_both_answer(gateway, token)


@pytest.mark.full
@pytest.mark.parametrize("gone", ["primary", "replica"])
def test_a_gateway_starts_and_is_ready_while_one_of_both_is_gone(primary, replica, token, load, gone):
    """With row security required too: a server that was down is checked for it before it is used."""
    job = str(ULID())
    load(job, 1, wait_for=replica)
    environment = {
        "DATABASE_API_URL": primary.url("gateway", user="gateway_api"),
        "DATABASE_REPLICA_URL": replica.url("gateway", user="gateway_api"),
        "REQUIRE_ROW_SECURITY": "1",
    }
    server = {"primary": primary, "replica": replica}[gone]
    server.stop(signal.SIGQUIT)
    try:
        with serving(primary.url("gateway", user="gateway"), **environment) as gateway:
            assert seqs(gateway, job, token) == (200, 1, [1])
            assert get_in_time(gateway, f"/v1/jobs/{UNKNOWN}", token)[0] == (503 if gone == "primary" else 404)
            assert gateway.get("/readyz").body.startswith(b"database: ok\nmigrations: ok\n")
            server.start()
            wait_until_both_answer(gateway, token)
    finally:
        if server.process is None:
            server.start()


@pytest.mark.full
def test_a_replica_whose_role_row_security_does_not_bind_is_refused(primary, replica, token):
    environment = {
        "DATABASE_API_URL": primary.url("gateway", user="gateway_api"),
        "DATABASE_REPLICA_URL": replica.url("gateway", user="gateway"),
        "REQUIRE_ROW_SECURITY": "1",
    }
    served = serving(primary.url("gateway", user="gateway"), **environment)
    with pytest.raises(servers.ServerFailed, match="DATABASE_REPLICA_URL"), served:
        pass


def test_check_rejects_a_replica_that_is_a_primary(primary, replica, store):
    def check(server):
        environment = {"DATABASE_REPLICA_URL": server.url("gateway", user="gateway_api")}
        commands = Store(store.url, store.folder, environment)
        return commands.run("check", "--database", "replica", expected=int(server is primary)).stderr.decode()

    output = check(primary)
    assert "(tenants.E006)" in output, "it takes writes of its own"
    assert "(tenants.W003)" in output, "and is the very server of DATABASE_URL"
    assert check(replica) == ""


# --- Readers beside a writer --------------------------------------------------------------------------------------

# Appends events with ever higher numbers to the jobs in turn, as long as it runs; what fails it tries again.
WRITER = """
import itertools, time
from django.db import DatabaseError, InterfaceError, connections
from jobs.ingest import ledger
for number, job in zip(itertools.count(), itertools.cycle({jobs})):
    while True:
        try:
            ledger.append(job, "stage", str(number))
            break
        except (DatabaseError, InterfaceError):
            connections.close_all()
            time.sleep(0.1)
    time.sleep(0.01)
"""


class Reader(threading.Thread):
    """Polls one job with the cursor it was given last, as a client does, and notes what it saw."""

    def __init__(self, gateway, token, job, conditional):
        super().__init__(daemon=True)
        self.gateway, self.token, self.job, self.conditional = gateway, token, job, conditional
        self.seen, self.cursor, self.statuses, self.slowest, self.wrong = [], 0, [], 0.0, []
        self.stopping = threading.Event()

    def run(self):
        headers = {}
        while not self.stopping.wait(0.005):
            began = time.monotonic()
            answer = self.gateway.get(f"/v1/jobs/{self.job}/events?since={self.cursor}", self.token, **headers)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.statuses.append(answer.status)
            if answer.status != 200:
                continue
            body = json.loads(answer.body)
            if (body["latest_seq"] or 0) < self.cursor:
                self.wrong.append((self.cursor, body["latest_seq"]))
            self.seen += [(event["seq"], event["message"]) for event in body["events"]]
            headers = {"If_None_Match": answer.headers["ETag"]} if self.conditional and not body["events"] else {}
            self.cursor = body["latest_seq"] or 0


def outages(rounds, seconds):
    """(which server, how it goes away, for how long), in turn."""
    for _ in range(rounds):
        for how in (crashed, hanging):
            for which in ("replica", "primary"):
                yield which, how, seconds


@pytest.mark.parametrize(
    ("rounds", "seconds", "readers"), [(1, 0.8, 4), pytest.param(5, 6, 12, marks=pytest.mark.full)]
)
def test_readers_lose_nothing_while_both_servers_go_away_in_turn(
    gateway, primary, replica, store, token, load, rounds, seconds, readers
):
    jobs = [str(ULID()) for _ in range(2)]
    for job in jobs:
        load(job, 1, wait_for=replica)
    writer = store.start("shell", "--command", WRITER.format(jobs=jobs))
    crowd = [Reader(gateway, token, jobs[number % 2], conditional=number % 4 < 2) for number in range(readers)]
    of_feed = Crowd(
        [kind(gateway, token, number) for number, kind in enumerate((PageReader, StreamReader, WaitingReader))]
    )
    statuses_by_request = {}
    try:
        of_feed.start()
        for reader in crowd:
            reader.start()
        for number, (which, how, pause) in zip(count(), outages(rounds, seconds)):
            time.sleep(pause / 2)
            before = [len(reader.statuses) for reader in crowd]
            with how({"replica": replica, "primary": primary}[which], gateway, token):
                time.sleep(pause)
                statuses_by_request[number, which] = {
                    status for reader, start in zip(crowd, before, strict=True) for status in reader.statuses[start:]
                }
        wait_until_true(lambda: all(len(events(primary, job)) > 50 for job in jobs), 60)
        assert writer.poll() is None, writer.communicate()
    finally:
        writer.kill()
        writer.communicate()
    truth = {job: events(primary, job) for job in jobs}
    with suppress(AssertionError):
        wait_until_true(lambda: all(len(reader.seen) >= len(truth[reader.job]) for reader in crowd))
    feed = feed_of(primary, "acme")
    with suppress(AssertionError):
        wait_until_true(lambda: all(len(reader.saved) >= len(feed) for reader in of_feed.readers))
    of_feed.stop()
    assert of_feed.failures == []
    for reader in of_feed.readers:
        assert reader.saved == feed, type(reader)
    for reader in crowd:
        reader.stopping.set()
    for reader in crowd:
        reader.join()
        assert reader.seen == truth[reader.job]
        assert reader.wrong == []
        assert reader.slowest < FAILOVER_SECONDS
    for (_, which), statuses in statuses_by_request.items():
        assert statuses <= ({200, 304} if which == "replica" else {200, 304, 503}), (which, statuses)


def feed_of(server, slug):
    """The ids of a tenant's public events, by position."""
    rows = server.psql(
        "SELECT job_id, seq FROM jobs_jobevent WHERE position IS NOT NULL "
        f"AND tenant_id = (SELECT id FROM tenants_tenant WHERE slug = '{slug}') ORDER BY position",
        database="gateway",
    )
    return [f"{ulid_text(job)}-{seq}" for job, _, seq in (row.partition("|") for row in rows.splitlines())]


def events(server, job):
    lines = server.psql(f"SELECT seq, message FROM jobs_jobevent WHERE {of(job)} ORDER BY seq", database="gateway")
    return [(int(seq), message) for seq, _, message in (line.partition("|") for line in lines.splitlines())]
