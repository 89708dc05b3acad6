"""Every statement of the API filters by tenant, and so do those of the console that read in its place.

On tables partitioned by tenant each reads one partition of each table.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from types import ModuleType
from uuid import UUID

import psycopg
import pytest
from django.db import connection
from ulid import ULID

from jobs.admin import past_view
from jobs.api.fleet import queries as fleet_queries
from jobs.api.v1 import queries as v1_queries
from jobs.database import pipeline
from jobs.database.prepared import ANY_LIMIT, PreparedQuery
from tests.gateway import serving
from tests.records import records

pytestmark = pytest.mark.postgresql

PARTITIONS = 16
TENANTS = [f"tenant-{number}" for number in range(20)]
# The primary key of each table that has a tenant: a unique index of a partitioned table holds what it is split by.
KEYS = {
    "jobs_job": "tenant_id, public_id",
    "jobs_jobevent": "tenant_id, id",
    "jobs_artifact": "tenant_id, id",
    "jobs_jobcounts": "tenant_id",
}
OWN_ROWS = "tenant_id = NULLIF(current_setting('app.tenant', true), '')::bigint"


def partition(server, database):
    """A copy of the tables in the schema ``partitioned``, which the roles of the gateway see in their place."""

    def psql(*statements):
        return server.psql(*statements, database=database).splitlines()

    psql("CREATE SCHEMA partitioned", "GRANT USAGE ON SCHEMA partitioned TO gateway_api")
    for table, key in KEYS.items():
        copy = f"partitioned.{table}"
        psql(
            f"CREATE TABLE {copy} (LIKE public.{table} INCLUDING ALL EXCLUDING INDEXES) PARTITION BY HASH (tenant_id)",
            f"ALTER TABLE {copy} ADD PRIMARY KEY ({key})",
            *(
                f"CREATE TABLE {copy}_{number} PARTITION OF {copy} "
                f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
                for number in range(PARTITIONS)
            ),
        )
        for index in psql(f"SELECT indexdef FROM pg_indexes WHERE tablename = '{table}' AND schemaname = 'public'"):
            if f"{table}_pkey" not in index:
                made = re.sub(rf"INDEX \w+ ON public\.{table}", f"INDEX ON {copy}", index)
                if "UNIQUE" in made and "tenant_id" not in made:
                    made = made.replace("USING btree (", "USING btree (tenant_id, ")
                psql(made)
        columns = psql(
            f"SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute "
            f"WHERE attrelid = 'public.{table}'::regclass AND attnum > 0 AND attgenerated = '' AND NOT attisdropped"
        )[0]
        psql(
            f"INSERT INTO {copy} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM public.{table}",
            *(
                [f"SELECT setval(pg_get_serial_sequence('{copy}', 'id'), max(id)) FROM {copy}"]
                if key.endswith(" id")
                else []
            ),
            f"ALTER TABLE {copy} ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY own_rows ON {copy} USING ({OWN_ROWS})",
            f"GRANT SELECT ON {copy} TO gateway_api",
            f"ANALYZE {copy}",
        )


# In one process, as each start costs a second. Prints the tokens.
FILL = """
import django, sys
django.setup()
from django.core.management import call_command
from tenants import tokens
from tenants.models import Tenant
call_command("grant_api_role", "gateway_api", stdout=sys.stderr)
tenants = [Tenant.objects.create(slug=slug) for slug in sys.argv[1:]]
call_command("backfill_jobs", "-", stdout=sys.stderr)
print(*map(tokens.issue, tenants[:2]))
"""


@pytest.fixture(scope="module")
def filled(new_store, postgresql_server):
    """A store whose tables have a partitioned copy, and a token of the first two tenants."""
    store = new_store()
    issued = store.python("-c", FILL, *TENANTS, stdin=b"".join(records(1_000, TENANTS))).stdout
    partition(postgresql_server, name_of(store))
    return store, issued.decode().split()


@pytest.fixture
def store(filled):
    return filled[0]


@pytest.fixture(scope="module")
def database(filled, postgresql_server):
    """A superuser's connection, whom row security does not bind: what is left out, the statement itself leaves out."""
    name = name_of(filled[0])
    where = {"host": str(postgresql_server.folder), "user": "postgres", "dbname": name}
    with psycopg.connect(**where, options="-c search_path=partitioned,public", autocommit=True) as connected:
        yield connected


def statements() -> dict[str, PreparedQuery]:
    """Everything the API can ask, by a name for it."""
    found: dict[str, PreparedQuery] = {}
    for module in (v1_queries, fleet_queries, past_view):
        found |= {
            f"{module.__name__}.{name}": each for name, each in vars(module).items() if isinstance(each, PreparedQuery)
        }
        for name, several in vars(module).items():
            if name in ("LISTS", "FIRST", "FEEDS"):
                found |= {f"{module.__name__}.{name}[{key}]": each for key, each in several.items()}
    return found


def test_all_statements_are_among_those_that_are_looked_at():
    def made(module: ModuleType) -> set[str]:
        return {
            name
            for name, each in vars(module).items()
            if isinstance(each, PreparedQuery)
            or (isinstance(each, dict) and any(isinstance(value, PreparedQuery) for value in each.values()))
        }

    assert made(v1_queries) == {"VERSION", "DETAIL", "EVENTS", "LISTS", "FEEDS", "FEED_END"}
    assert made(fleet_queries) == {"COUNTS", "FIRST", "LISTS"}
    assert made(past_view) == {"DETAIL", "EVENTS", "FLEET_JOB"}


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_a_statement_looks_at_one_partition_of_each_table(db, database, mode):
    tenant, job, at = database.execute(
        "SELECT tenant_id, public_id, created_at FROM jobs_job ORDER BY last_seq DESC LIMIT 1"
    ).fetchone()
    values = {"tenant": tenant, "since": 0, "up_to": 5, "offset": 1, "status": "SUCCESS"}
    values |= dict.fromkeys(("created_after", "updated_after", "cursor_time", "first_time"), at)
    values |= dict.fromkeys(("public_id", "cursor_id", "first_id"), job)
    values |= dict.fromkeys(("job_type_0", "job_type_1", "job_type_2"), "MODEL_GENERATOR")
    values |= {"after": 0, "job_types": '["MODEL_GENERATOR"]', "event_types": '["stage"]'}
    database.execute(f"SET plan_cache_mode = {mode}")
    looked_at = {}
    for number, (name, prepared) in enumerate(statements().items()):
        sql, template = prepared.compile(connection)
        sql = sql.replace(str(ANY_LIMIT), "50")
        bound = [values[part.name] if hasattr(part, "name") else part for part in template]
        given = psycopg.sql.SQL(", ").join(map(psycopg.sql.Literal, map(str, bound)))
        database.execute(f"PREPARE statement_{mode}_{number} AS {pipeline.numbered(sql).decode()}")
        [[[explained]]] = database.execute(
            psycopg.sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {}({})").format(
                psycopg.sql.Identifier(f"statement_{mode}_{number}"), given
            )
        ).fetchall()
        scanned = {node["Relation Name"] for node in nodes(explained["Plan"]) if "Relation Name" in node}
        by_table = {table: [name for name in scanned if name.startswith(f"{table}_")] for table in KEYS}
        looked_at[name] = {table: len(partitions) for table, partitions in by_table.items() if partitions}
        assert {name.rpartition("_")[2] for name in scanned} == {partition_of(database, tenant)}, (name, scanned)
    too_many = {name: tables for name, tables in looked_at.items() if not tables or set(tables.values()) != {1}}
    assert too_many == {}


def partition_of(database, tenant):
    """The number of the partition that holds the tenant, computed by PostgreSQL."""
    its_jobs = "SELECT DISTINCT tableoid::regclass::text FROM jobs_job WHERE tenant_id = %s"
    [[table]] = database.execute(its_jobs, [tenant])
    return table.rpartition("_")[2]


def test_a_statement_that_named_no_tenant_would_look_at_all_of_them(database):
    [[[explained]]] = database.execute("EXPLAIN (FORMAT JSON) SELECT FROM jobs_jobevent WHERE id = 7").fetchall()
    assert len([node for node in nodes(explained["Plan"]) if "Relation Name" in node]) == PARTITIONS


def test_the_api_answers_from_partitions_as_from_whole_tables(filled, postgresql_server):
    """With row security, and byte for byte."""
    store, tokens = filled
    name = name_of(store)
    [job] = postgresql_server.psql(
        f"SELECT public_id FROM jobs_job JOIN tenants_tenant t ON t.id = tenant_id WHERE slug = '{TENANTS[0]}' "
        "ORDER BY last_seq DESC LIMIT 1",
        database=name,
    ).split()
    public_id = ULID.from_uuid(UUID(job))
    paths = ["/v1/jobs?limit=200", "/v1/jobs?offset=7&status=FAILURE", f"/v1/jobs/{public_id}", "/job?limit=100"]
    paths += [f"/v1/jobs/{public_id}/events", "/job?offset=5&status=completed"]

    roles = {"DATABASE_API_URL": store.url.replace("postgres@", "gateway_api@"), "REQUIRE_ROW_SECURITY": "1"}

    def answers():
        # Links that outlive the test: those of two processes are the same within a signing window.
        with serving(store.url, PRESIGN_TTL_SECONDS="604800", **roles) as gateway:
            answers = [gateway.get(path, token) for token in tokens for path in paths]
        return [(answer.status, answer.body.replace(f":{gateway.port}/".encode(), b":port/")) for answer in answers]

    whole = answers()
    assert {status for status, _ in whole} == {200, 404}
    with in_partitions(postgresql_server, store):
        assert answers() == whole


# Loads a file twice, and appends to a job of its own.
WRITE = """
import django, sys
django.setup()
from django.core.management import call_command
from jobs.ingest import ledger
from tenants.models import Tenant
slug, file = sys.argv[1:]
for _ in range(2):
    call_command("backfill_jobs", file)
job = ledger.open_job(Tenant.objects.get(slug=slug), "MODEL_GENERATOR", {})
ledger.append(job, "queued", "Queued")
ledger.finish(job, "Done")
"""


def test_the_way_in_writes_to_partitions_as_to_whole_tables(store, postgresql_server, tmp_path):
    """The ledger and the loader; what the loader refuses there, and what not, is in docs/scale.md."""
    more = tmp_path / "more.ndjson"
    more.write_bytes(b"".join(records(50, TENANTS, seed=8)))
    with in_partitions(postgresql_server, store):
        assert store.python("-c", WRITE, TENANTS[0], more).stdout.decode().splitlines() == [
            "loaded 50, unchanged 0, rejected 0",
            "loaded 0, unchanged 50, rejected 0",
        ]
    counted = (
        f"SELECT (SELECT count(*) FROM {schema}.jobs_job), (SELECT count(*) FROM {schema}.jobs_jobevent)"
        for schema in ("partitioned", "public")
    )
    split, whole = (postgresql_server.psql(each, database=name_of(store)).strip().split("|") for each in counted)
    assert int(split[0]) - int(whole[0]) == 51
    assert int(split[1]) > int(whole[1])


def name_of(store):
    return store.url.partition("@/")[2].partition("?")[0]


@contextmanager
def in_partitions(server, store):
    """A connection that is made meanwhile finds the partitioned tables in the place of the whole ones."""
    server.psql(f"ALTER DATABASE {name_of(store)} SET search_path = partitioned, public")
    try:
        yield
    finally:
        server.psql(f"ALTER DATABASE {name_of(store)} RESET search_path")
