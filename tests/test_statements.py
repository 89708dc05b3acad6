"""The statements of requests: one besides authentication, and none reads more than its page.

The plans are those that PostgreSQL logs of the requests themselves, so prepared and generic ones are seen too.
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from ulid import ULID

from jobs.api.v1 import queries
from jobs.api.v1.feed_cursor import FeedFilter, cursor_of, place_at
from jobs.database.events import EventAtPosition
from jobs.models import Job, JobEvent
from tenants import tokens
from tenants.models import Tenant
from tests.client import Client
from tests.gateway import database_of_this_test, serving

pytestmark = pytest.mark.django_db
NOON = "2026-04-15T12:00:00Z"


@pytest.fixture(autouse=True)
def long_token_cache(settings):
    """On a slow machine more than a second may pass between the request that looks the token up and the one that is
    measured."""
    settings.TOKEN_CACHE_SECONDS = 5


def picture(number, tenant="acme"):
    return {"storage_key": f"tenants/{tenant}/{number}.png", "kind": "render", "role": "final"}


def event(seq, artifacts=1, tenant="acme"):
    pictures = [picture(f"{seq}-{number}", tenant) for number in range(artifacts)]
    return {"seq": seq, "event_type": "stage", "created_at": NOON, "artifacts": pictures}


def statements(client, path, **headers):
    """The statements of one request whose token is remembered."""
    client.get("/v1/jobs?limit=1")
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path, headers=headers).status_code in (200, 304, 404)
    return [query["sql"] for query in captured]


def test_each_endpoint_costs_one_statement_for_one_row_and_for_two_hundred(acme_client, acme, job_of):
    small = job_of(acme, events=[event(1)], status="SUCCESS")
    many = [event(seq, artifacts=3) for seq in range(1, 201)]
    large = job_of(acme, events=many, artifacts=[picture(number) for number in range(200)], status="SUCCESS")
    for _ in range(200):
        job_of(acme)
    for one, two_hundred in [
        ("/v1/jobs?limit=1", "/v1/jobs?limit=200"),
        ("/v1/jobs?limit=1&offset=1", "/v1/jobs?limit=200&offset=1&status=NOT_STARTED&job_type=MODEL_GENERATOR"),
        (f"/v1/jobs/{small.public_id}", f"/v1/jobs/{large.public_id}"),
        (f"/v1/jobs/{small.public_id}/events", f"/v1/jobs/{large.public_id}/events"),
    ]:
        assert len(statements(acme_client, one)) == len(statements(acme_client, two_hundred)) == 1
    # One for the counts, one for the page.
    assert len(statements(acme_client, "/job?limit=1")) == len(statements(acme_client, "/job?limit=100")) <= 2


def test_a_credential_costs_one_more_until_it_is_remembered(acme, django_assert_num_queries):
    client = Client(headers={"Authorization": f"Bearer {tokens.issue(acme)}"})
    with django_assert_num_queries(2):
        client.get("/v1/jobs")
    with django_assert_num_queries(1):
        client.get("/v1/jobs")


def test_an_invalid_request_costs_no_statement(acme_client, job_of, acme):
    job = job_of(acme)
    for path in (
        "/v1/jobs?limit=0",
        "/v1/jobs?cursor=x",
        f"/v1/jobs/{job.public_id}/events?since=x",
        "/v1/jobs/nonsense",
    ):
        acme_client.get("/v1/jobs")
        with CaptureQueriesContext(connection) as captured:
            assert acme_client.get(path).status_code in (404, 422)
        assert len(captured) == 0


def test_unknown_and_foreign_ids_cost_the_same_one_statement(acme_client, globex, job_of):
    theirs = job_of(globex, events=[event(1, tenant="globex")]).public_id
    for tail in ("", "/events", "/events?since=7"):
        for headers in ({}, {"If-None-Match": "*"}):
            shapes = set()
            for public_id in (theirs, ULID()):
                (sql,) = statements(acme_client, f"/v1/jobs/{public_id}{tail}", **headers)
                shapes.add(re.sub(rf"{public_id.hex}|{public_id.to_uuid()}", "ID", sql))
            assert len(shapes) == 1


def test_a_poll_that_has_to_be_answered_costs_the_header_row_and_the_answer(acme_client, acme, job_of):
    job = job_of(acme, events=[event(1)])
    for path in (f"/v1/jobs/{job.public_id}", f"/v1/jobs/{job.public_id}/events"):
        etag = acme_client.get(path).headers["ETag"]
        assert len(statements(acme_client, path, **{"If-None-Match": etag})) == 1
        assert len(statements(acme_client, path, **{"If-None-Match": '"old"'})) == 2


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "query", ["", "?status=FAILURE", "?job_type=MODEL_GENERATOR", "?offset=7", f"?created_after={NOON}"]
)
def test_sqlite_answers_from_an_index_too(acme_client, acme, job_of, query):
    job = job_of(acme, events=[event(1)])
    for path in (f"/v1/jobs{query}", f"/v1/jobs/{job.public_id}", f"/v1/jobs/{job.public_id}/events"):
        (sql,) = statements(acme_client, path)
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            plan = [row[-1] for row in cursor.fetchall()]
        assert not [step for step in plan if step.startswith("SCAN") and "jobs_" in step], plan
        if "jobs?" in path or path.endswith("jobs"):
            assert not [step for step in plan if "B-TREE" in step], plan


# --- on PostgreSQL, with many jobs ---

TYPES = 7  # of the eight workflow types; the eighth is one job in a thousand
FILL = """
INSERT INTO jobs_job (public_id, tenant_id, job_type, status, created_at, updated_at, request, last_seq,
                      last_public_seq, version, is_operation)
SELECT (lpad(to_hex(1776254400000 + n * 1000), 12, '0') || substr(md5(n::text || %(tenant)s::text), 1, 20))::uuid,
       %(tenant)s,
       CASE WHEN n %% 1000 = 500 THEN 'MODEL_SWAP_WITH_IMAGE' WHEN n %% 10 = 9 THEN 'node.command'
            ELSE (%(types)s::text[])[n %% 7 + 1] END,
       CASE WHEN n %% 1000 IN (0, 500) THEN 'PARTIAL_FAILURE' WHEN n %% 3 = 0 THEN 'IN_PROGRESS' ELSE 'SUCCESS' END,
       to_timestamp(1776254400 + n), to_timestamp(1776254400 + n), '{"prompt": "studio"}', 0, 0, 1, n %% 10 = 9
FROM generate_series(1, %(jobs)s) n
"""
TIMELINES = """
INSERT INTO jobs_jobevent (job_id, tenant_id, seq, event_type, visibility, message, extra, created_at)
SELECT public_id, tenant_id, seq, 'stage', CASE WHEN seq %% 4 = 0 THEN 'internal' ELSE 'public' END, 'step', '{}',
       created_at
FROM (SELECT *, row_number() OVER (ORDER BY created_at) AS n FROM jobs_job WHERE tenant_id = %(tenant)s LIMIT 1000) j,
     generate_series(1, CASE WHEN n = 1 THEN 1501 ELSE 9 END) seq;
INSERT INTO jobs_artifact (job_id, tenant_id, event_id, position, storage_key, kind, role, meta)
SELECT job_id, tenant_id, id, 0, 'tenants/acme/' || id || '.png', 'render', 'final', '{}'
FROM jobs_jobevent WHERE tenant_id = %(tenant)s;
UPDATE jobs_job SET last_seq = seq, last_public_seq = seq, status = 'SUCCESS'
FROM (SELECT job_id, max(seq) AS seq FROM jobs_jobevent WHERE tenant_id = %(tenant)s GROUP BY job_id) e
WHERE public_id = job_id
"""
# Public events with positions, of a thousand jobs in turn; one in a thousand is of a rare type.
FEED = """
INSERT INTO jobs_jobevent (job_id, tenant_id, seq, event_type, visibility, message, extra, created_at, position)
SELECT ids[n %% 1000 + 1], %(tenant)s, 10000 + n / 1000, CASE WHEN n %% 1000 = 500 THEN 'rare' ELSE 'stage' END,
       'public', 'step', '{}', to_timestamp(1776254400), n
FROM generate_series(1, %(events)s) n,
     (SELECT array_agg(public_id) AS ids FROM (SELECT public_id FROM jobs_job WHERE tenant_id = %(tenant)s
      ORDER BY created_at LIMIT 1000 OFFSET 1000) AS old) AS jobs;
INSERT INTO jobs_jobcounts (tenant_id, not_started, in_progress, success, failure, partial_failure, last_position)
VALUES (%(tenant)s, 0, 0, 0, 0, 0, %(events)s) ON CONFLICT (tenant_id) DO UPDATE SET last_position = %(events)s
"""
# So many that a plan looks one up in an index: of two, all would be read.
TENANTS = """
WITH more AS (
    INSERT INTO tenants_tenant (slug, name, storage_prefix, is_active, created_at)
    SELECT 'tenant-' || n, '', '', true, to_timestamp(1776254400) FROM generate_series(1, 2000) n RETURNING id
)
INSERT INTO jobs_jobcounts (tenant_id, not_started, in_progress, success, failure, partial_failure, last_position)
SELECT id, 0, 0, 0, 0, 0, 0 FROM more
"""
SIZES = [pytest.param(20_000, id="20000"), pytest.param(100_000, id="100000", marks=pytest.mark.full)]


class Store:
    """Many jobs of one tenant beside those of another, committed and vacuumed, and a gateway that answers from them."""

    def __init__(self, jobs, server):
        self.jobs = jobs
        with connection.cursor() as cursor:  # what tests before left of their rows would count in a plan's costs
            cursor.execute("TRUNCATE tenants_tenant CASCADE")
        big, other = Tenant.objects.create(slug="acme"), Tenant.objects.create(slug="globex")
        types = sorted(queries.Job._meta.get_field("is_workflow").expression.cases[0].condition.children[0][1])
        types.remove("MODEL_SWAP_WITH_IMAGE")
        with connection.cursor() as cursor:
            cursor.execute(TENANTS)
            for tenant, number in ((other, jobs // 10), (big, jobs)):
                cursor.execute(FILL, {"tenant": tenant.pk, "types": types, "jobs": number})
                for statement in TIMELINES.split(";\n"):
                    cursor.execute(statement, {"tenant": tenant.pk})
                self.events = 2 * number if number < 50_000 else 10 * number
                for statement in FEED.split(";\n"):
                    cursor.execute(statement, {"tenant": tenant.pk, "events": self.events})
            self.vacuum(cursor)
        self.tenant, self.token = big, tokens.issue(big)
        self.log = server.folder / "log"
        self.gateway = None

    @staticmethod
    def vacuum(cursor):
        """As autovacuum leaves the tables, once no older transaction sees less than all of their rows."""
        cursor.execute("VACUUM (ANALYZE, INDEX_CLEANUP ON) jobs_job, jobs_jobevent, jobs_artifact, jobs_jobcounts")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            cursor.execute("SELECT relallvisible >= relpages FROM pg_class WHERE oid = 'jobs_job'::regclass")
            if cursor.fetchone()[0]:
                return
            cursor.execute("VACUUM (INDEX_CLEANUP ON) jobs_job")
        raise TimeoutError("Some transaction stays open.")

    def get(self, path, times=1, status=200, **headers):
        """The last answer, the statements that the server ran for it, and the plans of those that read jobs."""
        for _ in range(times):
            self.gateway.get("/v1/jobs?limit=1", self.token)  # the token is remembered
            before = self.log.stat().st_size
            answer = self.gateway.get(path, self.token, **headers)
            assert answer.status == status, answer
        return answer, *self.logged(before)

    def logged(self, offset):
        with self.log.open("rb") as log:
            log.seek(offset)
            _, *parts = re.split(r"^\S+ \S+ \S+ \[(\d+)\] ", log.read().decode(), flags=re.MULTILINE)
        ran: dict[str, list[str]] = {}  # by the server's process
        plans = []
        for process, entry in zip(parts[::2], parts[1::2], strict=True):
            if match := re.match(r"LOG:  (?:execute [^:]+|statement): (.*)", entry, re.DOTALL):
                ran.setdefault(process, []).append(match[1].strip())
                if "pg_is_in_recovery" in match[1]:  # the monitor's, once a second: with what a transaction begins with
                    del ran[process][-2:]
            elif match := re.match(r"LOG:  duration: .*? plan:\n(.*)", entry, re.DOTALL):
                plan = json.loads(match[1])
                if "jobs_" in plan["Query Text"]:
                    plans.append(plan["Plan"])
        return [statement for each in ran.values() for statement in each], plans


@pytest.fixture(scope="module", params=SIZES)
def store(request, django_db_setup, django_db_blocker):
    if connection.vendor != "postgresql":
        pytest.skip("plans are PostgreSQL's")
    server = request.getfixturevalue("postgresql_server")
    # Of this database only: other workers use the same server.
    logging = {
        "log_statement": "'all'",
        "session_preload_libraries": "'auto_explain'",
        "auto_explain.log_min_duration": "0",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_format": "json",
    }

    database = connection.settings_dict["NAME"]

    def set_up(*actions):
        server.psql(*(f"ALTER DATABASE {database} {action}" for action in actions))
        connection.close()
        connection.close_pool()  # settings of a session begin with it

    with django_db_blocker.unblock():
        filled = Store(request.param, server)
        set_up(*(f"SET {name} = {value}" for name, value in logging.items()))
        try:
            with serving(database_of_this_test(), TOKEN_CACHE_SECONDS="5") as filled.gateway:
                yield filled
        finally:
            with connection.cursor() as cursor:
                cursor.execute("TRUNCATE tenants_tenant CASCADE")
            set_up("RESET ALL")


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def rows_read(plan):
    """Rows that tables and indexes gave, those that a filter then threw away included."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(plan)
        if node["Node Type"].startswith(("Index", "Seq", "Bitmap Heap"))
    )


def check(plan, most_rows):
    kinds = {node["Node Type"] for node in nodes(plan)}
    assert not kinds & {"Seq Scan", "Sort", "Incremental Sort", "Bitmap Heap Scan"}, json.dumps(plan, indent=1)
    assert rows_read(plan) <= most_rows, json.dumps(plan, indent=1)


RARE_TYPE, RARE_STATUS = "job_type=MODEL_SWAP_WITH_IMAGE", "status=FAILURE"
COMMON_TYPE, COMMON_STATUS = "job_type=MODEL_GENERATOR", "status=SUCCESS"
FILTERS = {
    "nothing": "",
    "a type": COMMON_TYPE,
    "a rare type": RARE_TYPE,
    "a status": COMMON_STATUS,
    "a rare status": RARE_STATUS,
    "no job's status": "status=NOT_STARTED",
    "both": f"{COMMON_TYPE}&{COMMON_STATUS}",
    "a rare type of a status": f"{RARE_TYPE}&{COMMON_STATUS}",
    "a type of a rare status": f"{COMMON_TYPE}&{RARE_STATUS}",
    "both rare": f"{RARE_TYPE}&{RARE_STATUS}",
}


def seconds_in(seconds):
    return (datetime.fromtimestamp(1776254400, UTC) + timedelta(seconds=seconds)).isoformat()[:19]


@pytest.mark.postgresql
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("after", [None, pytest.param("early", marks=pytest.mark.full), "late"])
def test_a_list_is_read_from_an_index_in_its_order(store, filters, after):
    since = {
        None: "",
        "early": f"&created_after={seconds_in(10)}",
        "late": f"&created_after={seconds_in(store.jobs - 10)}",
    }
    # From the sixth time on PostgreSQL may have settled on a plan for any values.
    for times in (1, 8):
        _response, ran, (plan,) = store.get(f"/v1/jobs?{FILTERS[filters]}{since[after]}", times)
        check(plan, most_rows=50)
        # The tenant is named in the same round trip.
        assert [sql.partition("(")[0] for sql in ran] == ["SELECT set_config", "SELECT CAST"]


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "filters", [name for name in FILTERS if name not in ("no job's status", "a rare type of a status")]
)
def test_a_page_further_on_is_read_where_it_begins(store, filters):
    path = f"/v1/jobs?limit=1&{FILTERS[filters]}"
    for _page in range(2):
        response, _ran, (plan,) = store.get(path, 8)
        check(plan, most_rows=1)
        path = response.headers["Link"].partition("localhost")[2].partition(">")[0]


@pytest.mark.postgresql
@pytest.mark.parametrize("types", [[COMMON_TYPE, RARE_TYPE], [COMMON_TYPE, "job_type=BACKGROUND_GENERATOR"]])
def test_a_list_of_several_types_reads_no_more_than_a_few_pages(store, types):
    _response, _ran, (plan,) = store.get(f"/v1/jobs?limit=50&{'&'.join(types)}", 8)
    assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}
    assert rows_read(plan) < 1000


@pytest.mark.postgresql
@pytest.mark.parametrize("query", ["", "&status=processing", "&status=partial_failure", "&status=submitted"])
def test_the_fleets_list_is_read_from_an_index_too(store, query):
    for times in (1, 8):
        _response, ran, plans = store.get(f"/job?limit=100{query}", times)
        assert len(ran) <= 2 * 2  # each with the tenant's name
        for plan in plans:
            read = [node for node in nodes(plan) if node.get("Relation Name") in ("jobs_job", "jobs_jobevent")]
            assert "Seq Scan" not in {node["Node Type"] for node in read}, json.dumps(plan, indent=1)
            # Of keys twice, and of the rows once: the length of a page's timelines is found before they are read.
            assert sum(rows_read(node) for node in read if node["Relation Name"] == "jobs_job") <= 3 * 100


@pytest.mark.postgresql
def test_a_deep_offset_is_answered_from_an_index_alone(store):
    deep = store.jobs // 25
    for query in ("", f"&{COMMON_STATUS}", f"&{COMMON_TYPE}", f"&{COMMON_TYPE}&{COMMON_STATUS}"):
        response, *_ = store.get(f"/v1/jobs?limit=50&offset={deep}{query}")
        assert json.loads(response.body)["count"] == 50
        *_, (plan,) = store.get(f"/v1/jobs?limit=50&offset={deep}{query}", 8)
        scans = [node for node in nodes(plan) if "Scan" in node["Node Type"] and node["Actual Rows"] > deep]
        assert [node["Node Type"] for node in scans] == ["Index Only Scan"], json.dumps(plan, indent=1)
        assert scans[0]["Heap Fetches"] == 0


@pytest.mark.postgresql
def test_one_job_is_read_by_its_key_and_its_events_by_theirs(store):
    job = Job.objects.for_tenant(store.tenant).order_by("created_at")[0]
    for times in (1, 8):
        _response, ran, (plan,) = store.get(f"/v1/jobs/{job.public_id}", times)
        assert len(ran) == 2
        # What is sorted are the artifacts of this one job, which lie under its events.
        assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}
        _response, ran, (plan,) = store.get(f"/v1/jobs/{job.public_id}/events?since=700", times)
        assert len(ran) == 2
        # So are its events where the planner expects few after ``since``: then it reads all 801 of them.
        kinds = {node["Node Type"] for node in nodes(plan)}
        assert "Seq Scan" not in kinds
        following = 801 if "Bitmap Heap Scan" in kinds else 500 * 4 / 3
        assert rows_read(plan) <= 1 + following + 500, json.dumps(plan, indent=1)


def cursor_at(store, position):
    """The cursor of a feed without filters, or with ``event_type=rare``."""
    event = JobEvent.objects.for_tenant(store.tenant).get(position=position)
    place = place_at(position, EventAtPosition(position, event.job_id.hex, event.seq))
    return {
        query: cursor_of(place, store.tenant.pk, FeedFilter((), types))
        for query, types in (("", ()), ("event_type=rare", ("rare",)), ("event_type=none", ("none",)))
    }


@pytest.mark.postgresql
@pytest.mark.parametrize("depth", [0.001, 0.5, 0.9])
def test_a_page_of_the_feed_is_read_from_its_index_at_any_depth(store, depth, django_db_blocker):
    with django_db_blocker.unblock():
        cursors = cursor_at(store, int(store.events * depth))
    for limit in (1, 100, 500):
        answer, _, [plan] = store.get(f"/v1/events?limit={limit}&after={cursors['']}")
        assert len(json.loads(answer.body)["events"]) == limit
        # The event and its job, and where the page begins and ends.
        check(plan, 2 * limit + 8)


@pytest.mark.postgresql
@pytest.mark.parametrize("query", ["event_type=rare", "event_type=none"])
def test_a_rare_filter_of_the_feed_examines_5000_positions(store, query, django_db_blocker):
    with django_db_blocker.unblock():
        cursors = cursor_at(store, store.events // 4)
    answer, _, [plan] = store.get(f"/v1/events?{query}&after={cursors[query]}")
    page = json.loads(answer.body)
    assert page["has_more"]
    assert len(page["events"]) == (5 if "rare" in query else 0)
    check(plan, 5_000 + 2 * 5 + 8)


@pytest.mark.postgresql
def test_of_an_id_that_is_not_the_tenants_no_event_and_no_artifact_is_read(store):
    other = Tenant.objects.get(slug="globex")
    for public_id in (Job.objects.for_tenant(other).order_by("created_at")[0].public_id, ULID()):
        for tail in ("", "/events"):
            _response, ran, (plan,) = store.get(f"/v1/jobs/{public_id}{tail}", 8, status=404)
            assert len(ran) == 2
            read = {node["Relation Name"] for node in nodes(plan) if "Relation Name" in node and node["Actual Loops"]}
            assert read == {"jobs_job"}


@pytest.mark.postgresql
def test_a_poll_that_holds_reads_the_header_row_alone(store):
    job = Job.objects.for_tenant(store.tenant).order_by("created_at")[0]
    for path in (f"/v1/jobs/{job.public_id}", f"/v1/jobs/{job.public_id}/events"):
        etag = store.get(path)[0].headers["ETag"]
        _response, ran, (plan,) = store.get(path, 8, status=304, If_None_Match=etag)
        assert len(ran) == 2
        assert [node["Relation Name"] for node in nodes(plan) if "Relation Name" in node] == ["jobs_job"]
        check(plan, most_rows=1)


@pytest.mark.postgresql
def test_the_number_of_statements_is_the_servers_own_count(store):
    job = Job.objects.for_tenant(store.tenant).order_by("created_at")[0]
    for path in (
        "/v1/jobs?limit=1",
        "/v1/jobs?limit=200",
        f"/v1/jobs/{job.public_id}",
        f"/v1/jobs/{job.public_id}/events",
    ):
        _response, ran, plans = store.get(path)
        assert len(ran) == 2, ran
        assert len(plans) == 1


@pytest.mark.postgresql
def test_a_page_takes_milliseconds_however_many_jobs_there_are(store):
    quickest = 1.0
    for _ in range(20):
        started = time.perf_counter()
        assert store.gateway.get(f"/v1/jobs?{RARE_TYPE}&{RARE_STATUS}", store.token).status == 200
        quickest = min(quickest, time.perf_counter() - started)
    assert quickest < 0.05
