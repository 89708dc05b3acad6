"""With its database, cache or artifact store down or hanging, the gateway responds within two seconds, and recovers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.request import urlopen

import orjson
import psycopg
import pytest
from django.db import connection

from tests import servers
from tests.gateway import serving
from tests.stores import gateway_on

pytestmark = pytest.mark.postgresql  # it starts its own servers: once is enough

JOB = "01JADE5XAMPK9M0Q7RS3T4V5W6"
ROUTES = ("/v1/jobs", f"/v1/jobs/{JOB}", f"/v1/jobs/{JOB}/events", "/job")
UNKNOWN_TOKEN = f"jgw_{'a' * 12}_{'b' * 43}"
# What a caller waits at most, and how long the gateway may need to notice that all is well again.
LONGEST_SECONDS = 2
RECOVERY_SECONDS = 10


# In one process, as a start costs a second: all that the gateway answers from, and the token that is printed.
FILL = """
import django, json, sys
django.setup()
from django.core.management import call_command
from jobs.ingest import bulk
from tenants import tokens
from tenants.models import Tenant
call_command("grant_api_role", "gateway_api", verbosity=0)
acme = Tenant.objects.create(slug="acme")
bulk.load_record(json.loads(sys.argv[1]))
print(tokens.issue(acme))
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What a gateway in production stands on, and the token of the tenant that has a job with a picture."""
    with servers.postgresql() as database, servers.valkey() as cache, servers.s3("artifacts") as store:
        commands = gateway_on(database, tmp_path_factory.mktemp("outage"))
        picture = {"storage_key": "tenants/acme/front.png", "kind": "render", "role": "final"}
        store.client().put_object(Bucket="artifacts", Key=picture["storage_key"], Body=b"picture")
        job = {"public_id": JOB, "tenant": "acme", "job_type": "MODEL_GENERATOR", "created_at": "2026-04-15T12:00:00Z"}
        event = {"seq": 1, "event_type": "succeeded", "created_at": job["created_at"], "artifacts": [picture]}
        record = orjson.dumps(job | {"events": [event]}).decode()
        token = commands.python("-c", FILL, record).stdout.decode().strip()
        yield database, cache, store, token


@pytest.fixture(scope="module")
def gateway(parts):
    """One process through all outages: what it recovers from, it recovers from by itself."""
    database, cache, store, _ = parts
    environment = {
        "DATABASE_API_URL": database.url("gateway", user="gateway_api"),
        "REQUIRE_ROW_SECURITY": "1",
        "CACHE_URL": cache.url,
        "RATE_LIMIT_PER_TENANT": "100000",
        "RATE_LIMIT_FAILED_PER_ADDRESS": "100000",
        "RECORD_TOKEN_USE": "1",
        **store.environment("artifacts"),
    }
    with serving(database.url("gateway", user="gateway"), **environment) as gateway:
        yield gateway


def get_in_time(gateway, route, token):
    """The response. Checks that it came in time and has a request id."""
    began = time.monotonic()
    answer = gateway.get(route, token)
    assert time.monotonic() - began < LONGEST_SECONDS, (route, answer)
    assert answer.headers["X-Request-ID"]
    return answer


def is_unavailable(answer, route):
    """That the answer is the 503 of its dialect."""
    assert answer.status == 503, answer
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Content-Type"] == "application/json"
    body = orjson.loads(answer.body)
    assert body == {"error": body["error"], "code": 503} if route == "/job" else {"code": "UNAVAILABLE"} | body
    return True


def wait_until_recovered(gateway, token):
    """Waits until every route responds as before the outage."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while any(gateway.get(route, token).status != 200 for route in ROUTES) or console(gateway).status != 302:
        assert time.monotonic() < deadline, gateway.log.read_text()
        time.sleep(0.1)
    assert gateway.get(ROUTES[0], UNKNOWN_TOKEN).status == 401


def console(gateway, **headers):
    """The console's response to an unknown session."""
    return gateway.get("/admin/", Cookie=f"sessionid={'a' * 32}", **headers)


@pytest.fixture(params=["stopped", "hanging"])
def without(request, parts, gateway):
    """``with without(server):`` it is gone or hangs while the block runs; before and after it all is well."""
    token = parts[-1]

    @contextmanager
    def without(server):
        wait_until_recovered(gateway, token)
        server.stop() if request.param == "stopped" else server.hang()
        try:
            yield
        finally:
            server.start() if request.param == "stopped" else server.go_on()
        wait_until_recovered(gateway, token)

    return without


@pytest.fixture(params=["database", "cache"])
def part(request, parts):
    return dict(zip(("database", "cache"), parts, strict=False))[request.param]


def ask_one_by_one(gateway, token):
    for route in ROUTES:
        for credential in (token, UNKNOWN_TOKEN):
            assert is_unavailable(get_in_time(gateway, route, credential), route)


def ask_all_at_once(gateway, token):
    with ThreadPoolExecutor(16) as callers:
        routes = [ROUTES[n % len(ROUTES)] for n in range(64)]
        answers = list(callers.map(lambda route: get_in_time(gateway, route, token), routes))
        assert all(map(is_unavailable, answers, routes))


def check_console(gateway):
    began = time.monotonic()
    answer = console(gateway)
    assert time.monotonic() - began < LONGEST_SECONDS
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert answer.body == b"The job store cannot be reached right now. Try again in a few seconds.\n"
    page = console(gateway, Accept="text/html")
    assert (page.status, page.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
    assert b"The console is not available right now" in page.body
    assert b'<a href="/admin/">Back to the console</a>' in page.body
    assert "style-src 'self'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize("ask_first", [ask_all_at_once, pytest.param(ask_one_by_one, marks=pytest.mark.full)])
def test_without_its_database_or_cache_it_answers_503_in_time_and_recovers(without, part, parts, gateway, ask_first):
    database, *_, token = parts
    with without(part):
        ask_first(gateway, token)
        time.sleep(1.1)  # until cached credentials and pauses have expired
        ask_one_by_one(gateway, token)  # a connection has been lost already
        malformed = get_in_time(gateway, ROUTES[0], "malformed")
        assert malformed.status == (401 if part is database else 503), "no database is needed to reject it"
        if part is database:
            check_console(gateway)


@pytest.mark.full  # above, other requests have lost their connections before the console's
def test_a_page_without_its_database_says_so_too(without, parts, gateway):
    with without(parts[0]):
        for _ in range(2):
            check_console(gateway)


@pytest.mark.parametrize("outage", ["hanging", "stopped"])
def test_links_are_signed_without_the_artifact_store(outage, parts, gateway):
    """Last, for a store that was stopped is empty when it comes back."""
    _, _, store, token = parts
    wait_until_recovered(gateway, token)
    store.stop() if outage == "stopped" else store.hang()
    try:
        for route in ROUTES:
            assert get_in_time(gateway, route, token).status == 200
        (picture,) = orjson.loads(get_in_time(gateway, ROUTES[1], token).body)["result"]
        assert picture["image_url"].startswith(f"{store.endpoint_url}/artifacts/tenants/acme/front.png?")
    finally:
        if outage == "hanging":
            store.go_on()
            assert urlopen(picture["image_url"]).read() == b"picture"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("route", ROUTES)
def test_a_read_that_takes_too_long_is_cancelled_by_the_database(route, acme, acme_client, settings, postgresql_server):
    settings.STATEMENT_TIMEOUT_MS = 200
    assert acme_client.get(ROUTES[0]).status_code == 200
    name = connection.settings_dict["NAME"]
    with psycopg.connect(host=str(postgresql_server.folder), dbname=name, user="postgres") as busy:
        busy.execute("LOCK TABLE jobs_job IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        answer = acme_client.get(route)
        assert time.monotonic() - began < 1
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        here = "datname = current_database()"  # other workers use the same server
        waiting = f"SELECT count(*) FROM pg_stat_activity WHERE {here} AND wait_event_type = 'Lock'"
        assert busy.execute(waiting).fetchone() == (0,), "the abandoned statement was cancelled"
    assert acme_client.get(ROUTES[0]).status_code == 200
