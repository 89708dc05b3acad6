"""Behind PgBouncer in transaction mode, with ``DATABASE_PREPARED=0``: the same answers, and tenants never mix."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from tests import servers
from tests.gateway import serving
from tests.shared_servers import is_of_this_run
from tests.stores import Store, gateway_on
from tests.streams import first, stream

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.skipif(
        not shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin"),
        reason="no PgBouncer is installed: apt-get install pgbouncer",
    ),
]

TENANTS = ("acme", "globex")
# Gateways, and how often each thread asks.
SIZES = [pytest.param((1, 10), id="short"), pytest.param((2, 40), id="two gateways", marks=pytest.mark.full)]
THREADS = 4  # half of each tenant, whatever gateway they ask

# Everything that goes in, in one process, as a start costs a second. Prints a token of each tenant.
FILL = """
import django, sys
django.setup()
from django.core.management import call_command
from tenants import tokens
from tenants.models import Tenant
call_command("grant_api_role", "gateway_api", stdout=sys.stderr)
tenants = [Tenant.objects.create(slug=slug) for slug in sys.argv[1:]]
call_command("backfill_jobs", "-", "--batch=7", stdout=sys.stderr)
print(*map(tokens.issue, tenants))
"""


def job_of(slug, number):
    """A record with a picture whose every text names its tenant."""
    picture = {"storage_key": f"tenants/{slug}/{number}.png", "kind": slug, "role": "final"}
    event = {"seq": 1, "event_type": "succeeded", "message": slug, "created_at": "2026-04-15T12:00:00Z"}
    return {
        "public_id": f"01JADE5XAMPK9M0Q7RS3T4V{TENANTS.index(slug)}{number:02}",
        "tenant": slug,
        "job_type": "MODEL_GENERATOR",
        "created_at": "2026-04-15T12:00:00Z",
        "request": {"of": slug},
        "events": [event | {"artifacts": [picture]}],
    }


@pytest.fixture(scope="module", params=SIZES)
def pooled(request, tmp_path_factory):
    """Gateways on two connections to PostgreSQL, one for each role, and a token of each tenant."""
    number, rounds = request.param
    with ExitStack() as running:
        postgresql = running.enter_context(servers.postgresql())
        folder = tmp_path_factory.mktemp("pooled")
        # Migrations go round the pooler, as its manual asks for; everything else through it.
        gateway_on(postgresql, folder)
        pooler = running.enter_context(servers.pgbouncer(postgresql, "gateway", "gateway_api", connections=1))
        urls = {user: f"postgres://{user}@/gateway?host={pooler}" for user in ("gateway", "gateway_api")}
        commands = Store(urls["gateway"], folder, {"DATABASE_PREPARED": "0"})
        records = [job_of(slug, number) for slug in TENANTS for number in range(20)]
        issued = commands.python("-c", FILL, *TENANTS, stdin="\n".join(map(json.dumps, records)).encode()).stdout
        tokens = dict(zip(TENANTS, issued.decode().split(), strict=True))
        environment = {"DATABASE_API_URL": urls["gateway_api"], "DATABASE_PREPARED": "0", "REQUIRE_ROW_SECURITY": "1"}
        gateways = [running.enter_context(serving(urls["gateway"], **environment)) for _ in range(number)]
        yield gateways, tokens, postgresql, pooler, commands, rounds


def test_two_tenants_on_one_connection_never_see_each_other(pooled):
    gateways, tokens, postgresql, *_, rounds = pooled
    wrong, asked = [], []

    def ask(gateway, slug, token):
        other = TENANTS[1 - TENANTS.index(slug)]
        own, foreign = job_of(slug, 3)["public_id"], job_of(other, 3)["public_id"]
        for _ in range(rounds):
            for path, status in [
                ("/v1/jobs?limit=50", 200),
                ("/v1/jobs?limit=50&status=SUCCESS&job_type=MODEL_GENERATOR", 200),
                (f"/v1/jobs/{own}", 200),
                (f"/v1/jobs/{own}/events", 200),
                ("/job?limit=50", 200),
                (f"/v1/jobs/{foreign}", 404),
                (f"/v1/jobs/{foreign}/events", 404),
            ]:
                answer = gateway.get(path, token)
                ids = answer.body.count(b"01JADE5XAMPK9M0Q7RS3T4V") or answer.body.count(b'"operation"')
                of_a_page = 20 if "limit" in path else status == 200
                if answer.status != status or ids != of_a_page or other.encode() in answer.body:
                    wrong.append((path, answer))
            asked.append(slug)

    asking = gateways * (THREADS // len(TENANTS) // len(gateways))
    threads = [threading.Thread(target=ask, args=(each, *pair)) for each in asking for pair in tokens.items()]
    assert len(threads) == THREADS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(asked) == THREADS * rounds
    connections = (  # autovacuum has some of its own
        "SELECT usename, count(*) FROM pg_stat_activity "
        "WHERE datname = 'gateway' AND backend_type = 'client backend' GROUP BY 1 ORDER BY 1"
    )
    assert postgresql.psql(connections).split() == ["gateway|1", "gateway_api|1"], "all of them shared one"


def test_a_connection_that_goes_back_to_the_pooler_names_no_tenant(pooled):
    gateways, tokens, _, pooler, *_ = pooled
    where = {"host": pooler, "user": "gateway_api", "dbname": "gateway", "prepare_threshold": None}
    with psycopg.connect(**where, autocommit=True) as connection:
        for gateway in gateways:
            assert gateway.get("/v1/jobs", tokens["acme"]).status == 200
            assert connection.execute("SELECT count(*) FROM jobs_job").fetchone() == (0,)


def test_what_was_loaded_through_it_is_exported_through_it(pooled):
    *_, commands, _ = pooled
    records = [json.loads(line) for line in commands.export("--batch", 3).splitlines()]
    assert [(record["public_id"], record["tenant"]) for record in records] == sorted(
        (job["public_id"], job["tenant"]) for slug in TENANTS for number in range(20) for job in [job_of(slug, number)]
    )


# The API's own test files, run through the pooler.
ESSENTIALS = (
    "list_jobs",
    "get_job",
    "job_events",
    "feed",
    "feed_under_writers",
    "fleet",
    "conditional",
    "authentication",
    "row_security",
    "ledger",
)


@pytest.mark.full
def test_the_essentials_of_the_api_hold_through_it():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *(f"tests/test_{name}.py" for name in ESSENTIALS)],
        cwd=ROOT,
        env={name: os.environ[name] for name in os.environ if not is_of_this_run(name)}
        | {"TEST_DATABASE": "postgresql", "TEST_POOLER": "pgbouncer"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


OPEN_AND_APPEND = """
import django
django.setup()
from jobs.ingest import ledger
from tenants.models import Tenant
for slug in ("globex", "acme"):
    ledger.append(ledger.open_job(Tenant.objects.get(slug=slug), "MODEL_GENERATOR"), "queued", "news of " + slug)
"""


def test_the_apis_role_wakes_streams_behind_the_pooler(pooled):
    gateways, tokens, *_, commands, _ = pooled
    settings_module = {"DJANGO_SETTINGS_MODULE": "jobs_gateway.settings"}
    writer = Store(commands.url, commands.folder, {**commands.environment, **settings_module})

    async def follow() -> list[str]:
        async with stream(gateways[0].port, "/v1/events", tokens["acme"]) as opened:
            assert opened.status == 200
            writing = asyncio.create_task(asyncio.to_thread(writer.python, "-c", OPEN_AND_APPEND))
            frames = await first(opened, 1)
            await writing
            return [frame.json["event"]["message"] for frame in frames]

    assert asyncio.run(follow()) == ["news of acme"]
