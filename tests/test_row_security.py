"""The second line of defence: with the scope of the code broken on purpose, PostgreSQL still shows no foreign row."""

from __future__ import annotations

import importlib
import itertools
from io import StringIO

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import ProgrammingError

from jobs.api.fleet import queries as fleet_queries
from jobs.api.v1 import queries as v1_queries
from jobs.database import artifacts, events, row_security
from jobs.models import Artifact, Job, JobCounts, JobEvent
from tenants import tokens
from tenants.scoping import TenantManager
from tests.conftest import client_with
from tests.test_checks import manage

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True, databases=["default", "api"])]


@pytest.fixture
def broken_scope(monkeypatch):
    """``for_tenant`` lets every row through, in the statements that are prepared too. Ask for it after the jobs."""
    with monkeypatch.context() as patch:
        patch.setattr(TenantManager, "for_tenant", lambda self, tenant: self._queryset_class(self.model))
        reload_statements()
        yield
    reload_statements()


def reload_statements():
    """In the order in which one module takes parts of its statements from another."""
    for module in (artifacts, events, v1_queries, fleet_queries):
        importlib.reload(module)


@pytest.fixture
def two_tenants(acme, globex, job_of):
    """A client of each, and a job of each."""

    def job_with_a_picture(tenant):
        picture = {"storage_key": f"tenants/{tenant.slug}/a.png", "kind": "render", "role": "final"}
        event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:00Z", "artifacts": [picture]}
        return job_of(tenant, events=[event])

    ours, theirs = job_with_a_picture(acme), job_with_a_picture(globex)
    return client_with(tokens.issue(acme)), ours, theirs


# Each is another statement.
LISTINGS = [
    *(f"/v1/jobs?{given}" for given in ("status=SUCCESS", "status=FAILURE", "job_type=MODEL_GENERATOR", "offset=0")),
    "/v1/jobs?job_type=MODEL_GENERATOR&job_type=BACKGROUND_SWAP_WITH_SPEC&status=SUCCESS",
    "/v1/jobs?created_after=2026-01-01T00:00:00Z&limit=200",
    *("/v1/jobs?offset=1", "/job?offset=1", "/job?limit=100", "/job?status=completed", "/job?status=failed"),
]


def what_acme_sees(client, ours, theirs):
    """Every job id and picture of the answers of all views, and the statuses of the foreign job's."""
    listing = client.get("/v1/jobs").json()["jobs"]
    fleet = client.get("/job").json()
    poll = {"If-None-Match": '"1-none"'}  # is read from the header row first
    foreign = [
        client.get(f"/v1/jobs/{theirs}{tail}", headers=headers).status_code
        for tail, headers in itertools.product(("", "/events", "/events?since=1"), ({}, poll, {"If-None-Match": "*"}))
    ]
    for given in LISTINGS:
        answer = client.get(given).json()
        jobs = [job["public_id"] for job in answer["jobs"]] if "jobs" in answer else [i["id"] for i in answer["items"]]
        assert set(jobs) <= {str(ours), str(ours.pk.to_uuid())}, given
        assert answer.get("status_counts", {}).get("completed", 1) == 1, given
    own = client.get(f"/v1/jobs/{ours}").json()
    events = client.get(f"/v1/jobs/{ours}/events").json()
    return {
        "listed": {job["public_id"] for job in listing},
        "fleet": {item["id"] for item in fleet["items"]},
        "total": fleet["total_items"],
        "foreign": foreign,
        "pictures": len(own["result"]),
        "events": [len(event["artifacts"]) for event in events["events"]],
    }


def expected_for_acme(ours):
    return {
        "listed": {str(ours)},
        "fleet": {str(ours.pk.to_uuid())},
        "total": 1,
        "foreign": [404] * 9,
        "pictures": 1,
        "events": [1],
    }


def test_the_roles_rows_are_those_of_the_tenant_it_named(api_role, two_tenants, acme):
    for model in (Job, JobEvent, Artifact, JobCounts):
        assert model.all_tenants.using("api").count() == 0, "no tenant named, no row"
        assert model.all_tenants.count() == 2, "the owner sees all"
    with api_role.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT set_config('app.tenant', %s, true)", [str(acme.pk)])
        cursor.execute("SELECT tenant_id FROM jobs_job")
        assert cursor.fetchall() == [(acme.pk,)]
        cursor.execute("COMMIT")
        cursor.execute("SELECT count(*) FROM jobs_job")
        assert cursor.fetchone() == (0,), "the setting ends with its transaction"


def test_all_views_answer_through_the_role(api_role, two_tenants):
    assert what_acme_sees(*two_tenants) == expected_for_acme(two_tenants[1])


def test_a_broken_scope_shows_foreign_rows_where_row_security_does_not_bind(two_tenants, broken_scope):
    client, _ours, theirs = two_tenants
    assert str(theirs) in {job["public_id"] for job in client.get("/v1/jobs").json()["jobs"]}
    assert client.get(f"/v1/jobs/{theirs}").status_code == 200


def test_a_broken_scope_shows_no_foreign_row_where_it_does(api_role, two_tenants, broken_scope):
    assert what_acme_sees(*two_tenants) == expected_for_acme(two_tenants[1])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs_job SET status = 'SUCCESS'",
        "DELETE FROM jobs_jobevent",
        "INSERT INTO tenants_tenant (slug) VALUES ('mallory')",
        "TRUNCATE jobs_artifact",
        "ALTER TABLE jobs_job DISABLE ROW LEVEL SECURITY",
        "SELECT * FROM auth_user",
    ],
)
def test_the_role_can_read_and_nothing_else(api_role, statement):
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"), api_role.cursor() as cursor:
        cursor.execute(statement)


def test_serving_as_the_owner_warns_and_is_refused_on_request(db, settings, caplog):
    row_security.check_before_serving()
    assert "grant_api_role" in caplog.text
    settings.REQUIRE_ROW_SECURITY = True
    with pytest.raises(ImproperlyConfigured, match="grant_api_role"):
        row_security.check_before_serving()


def test_serving_as_the_role_is_what_is_asked_for(api_role, settings, caplog):
    settings.REQUIRE_ROW_SECURITY = True
    row_security.check_before_serving()
    assert not caplog.text


def test_a_superuser_is_refused_as_the_role_of_the_api(db):
    with pytest.raises(CommandError, match="superuser"):
        call_command("grant_api_role", "postgres", stdout=StringIO())


def test_where_nothing_can_be_granted_it_says_what_to_do(postgresql_server, tmp_path):
    postgresql_server.psql("CREATE ROLE plain LOGIN", "CREATE DATABASE untouched OWNER plain")
    url = postgresql_server.url("untouched", user="plain")
    asked = {"DATABASE_URL": url, "DJANGO_SECRET_KEY": "s" * 50, "DATA_DIR": str(tmp_path)}
    missing = manage("grant_api_role", "gateway_api", **asked)
    assert missing.stderr == (
        'CommandError: Nothing was granted: relation "tenants_tenant" does not exist. '
        "Make the tables first: manage.py serve --prepare-only\n"
    )
    new = manage("grant_api_role", "another", **asked)
    assert new.stderr.startswith("CommandError: Nothing was granted: permission denied to create role. The role of ")
    postgresql_server.psql("DROP DATABASE untouched", "DROP ROLE plain")
