"""Commands whose connection to the database is lost wait, and go on where they were."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError, call_command
from django.db import connection

from jobs.management import id_list
from jobs.models import Artifact, Job
from jobs.postgresql.base import ConnectionEnded
from tenants.models import Tenant
from tests import servers
from tests.servers import wait_until
from tests.stores import counts_of, gateway_on, true_counts

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

STATEMENT = "CREATE TRIGGER ends AFTER {} FOR EACH STATEMENT EXECUTE FUNCTION end_connection()"
COMMIT = (
    "CREATE CONSTRAINT TRIGGER ends AFTER {} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    "EXECUTE FUNCTION end_connection()"
)


@pytest.fixture
def ended():
    """``ended("DELETE ON jobs_job", at)``: the server ends the connection that runs the third such statement, or at the
    commit of the transaction that removed the third row."""

    def end(what, at=STATEMENT):
        with connection.cursor() as cursor:
            cursor.execute("CREATE SEQUENCE ended")
            cursor.execute(
                "CREATE FUNCTION end_connection() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF nextval('ended') = 3 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; "
                "RETURN NULL; END $$"
            )
            cursor.execute(at.format(what))

    yield end
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION end_connection CASCADE")
        cursor.execute("DROP SEQUENCE ended")


@pytest.fixture
def jobs(acme, job_of, local_store):
    """Six jobs of acme, each with a picture."""

    def make(number):
        key = f"tenants/acme/{number}.png"
        local_store.save(key, ContentFile(b"no picture"))
        return job_of(acme, artifacts=[{"storage_key": key, "kind": "render", "role": "final"}])

    return [make(number) for number in range(6)]


@pytest.fixture
def files(local_store):
    return lambda: list(local_store.list_objects("", ""))


def run(*arguments, **options):
    """What the command writes to standard error."""
    err = io.StringIO()
    call_command(*arguments, stdout=io.StringIO(), stderr=err, **options)
    return err.getvalue()


@pytest.mark.parametrize("at", [STATEMENT, COMMIT], ids=["statement", "commit"])
def test_prune_jobs_goes_on(acme, jobs, files, tmp_path, ended, at):
    record = tmp_path / "pruned.ndjson"
    ended("DELETE ON jobs_job", at)
    said = run("prune_jobs", "--older-than=1m", "--objects", f"--record={record}", "--batch=1")
    assert "The database is away, waiting 60 s for it" in said
    assert "The database answers again" in said
    assert said.splitlines()[-1] == "6 jobs, 0 events, 6 artifacts, 6 objects removed"
    assert not Job.all_tenants.exists()
    assert counts_of(acme) == {}
    assert files() == []
    recorded = [json.loads(line)["public_id"] for line in record.read_text().splitlines()]
    # A job is recorded before the commit that removes it, so that of a lost commit comes again.
    assert recorded == [str(job.public_id) for job in (jobs if at is STATEMENT else [*jobs[:3], *jobs[2:]])]


# The commit is full: prune_jobs shows it, by the same code.
@pytest.mark.parametrize(
    "at", [pytest.param(STATEMENT, id="statement"), pytest.param(COMMIT, id="commit", marks=pytest.mark.full)]
)
def test_erase_tenant_goes_on(acme, jobs, files, ended, at):
    ended("DELETE ON jobs_job", at)
    assert "The database answers again" in run("erase_tenant", "acme", "--yes", "--objects", "--batch=1")
    assert not Tenant.objects.exists()
    assert not Job.all_tenants.exists()
    assert files() == []


def test_erase_tenant_goes_on_when_the_tenants_row_is_removed(acme, jobs, ended):
    ended("DELETE ON tenants_tenant")
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('ended', 2)")
    assert "The database answers again" in run("erase_tenant", "acme", "--yes")
    assert not Tenant.objects.exists()


def test_backfill_artifacts_goes_on(acme, jobs, ended):
    ended("UPDATE ON jobs_artifact")
    said = run("backfill_artifacts", "--batch=1")
    assert "The database answers again" in said
    assert said.splitlines()[-1].startswith("filled 6, unchanged 0, missing 0, orphaned 0")
    assert Artifact.all_tenants.filter(size=10).count() == 6


def test_export_jobs_goes_on_with_the_list_of_ids(acme, jobs, tmp_path, monkeypatch):
    whole, failures = id_list.record_reader.ids, iter([ConnectionEnded("the server has gone")])

    def ids(*args):
        for failure in failures:
            raise failure
        return whole(*args)

    monkeypatch.setattr(id_list.record_reader, "ids", ids)
    said = run("export_jobs", str(tmp_path / "jobs"), f"--ids={tmp_path / 'ids'}")
    assert "The database answers again" in said
    assert (tmp_path / "ids").read_text().split()[:6] == sorted(str(job.public_id) for job in jobs)


@pytest.fixture
def server():
    with servers.postgresql() as made:
        yield made


@pytest.fixture
def store(server, tmp_path):
    made = gateway_on(server, tmp_path)
    server.psql(
        "INSERT INTO tenants_tenant (slug, name, storage_prefix, is_active, created_at) "
        "VALUES ('demo', 'Demo', 'tenants/demo/', true, now())",
        database="gateway",
    )
    environment = {"DATABASE_WAIT_SECONDS": "10", "ARTIFACTS_DIR": str(tmp_path / "artifacts")}
    return replace(made, environment=environment)


def test_what_runs_until_it_is_stopped_goes_on_too_and_stops_after_the_time(server, store, tmp_path):
    """Both commands at once, each on a database of its own, so that one outage is enough."""
    server.psql("CREATE DATABASE second TEMPLATE gateway OWNER gateway")
    second = replace(store, url=server.url("second", user="gateway"))
    running = {}
    for on, *command in ((store, "simulate", "--every=0.1s", "--speed=50"), (second, "deliver_webhooks")):
        log = tmp_path / command[0]
        with log.open("wb") as output:
            running[command[0]] = on.start(*command, stderr=output), log

    def is_connected(database):
        its_own = f"usename = 'gateway' AND datname = '{database}'"
        return server.psql(f"SELECT count(*) > 0 FROM pg_stat_activity WHERE {its_own}").strip() == "t"

    def wait_until_connected():
        wait_until(lambda: is_connected("gateway"), *running["simulate"])
        wait_until(lambda: is_connected("second"), *running["deliver_webhooks"])

    try:
        wait_until_connected()
        server.stop()
        server.start()
        wait_until_connected()
        server.stop()
        for name, (process, log) in running.items():
            process.communicate(timeout=60)
            assert process.returncode == 1
            assert "The database failed: " in log.read_text()
            assert f"python manage.py {name}" in log.read_text()
    finally:
        for process, _ in running.values():
            process.kill()
            process.communicate()


def test_it_stops_after_the_time_and_names_the_command_that_resumes(acme, jobs, tmp_path, ended, settings):
    settings.DATABASE_WAIT_SECONDS = 0
    ended("DELETE ON jobs_job")
    with pytest.raises(CommandError, match=r"The database failed(.|\n)*Resume with:\n.*prune_jobs --older-than"):
        run("prune_jobs", "--older-than=1m", f"--record={tmp_path / 'pruned.ndjson'}", "--batch=1")
    assert counts_of(acme) == true_counts(acme)
    assert Job.all_tenants.count() == 4
