"""``/livez`` and ``/readyz``: the health checks of load balancers and supervisors."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time

import pytest
from django.core.files.base import ContentFile
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from jobs_gateway import health
from tests import servers
from tests.conftest import artifact_store
from tests.gateway import database_of_this_test, serving

READY = "database: ok\nmigrations: ok\nartifacts: ok\n"


@pytest.fixture(autouse=True)
def uncached_probes(monkeypatch):
    """No test gets the cached result of another, and a busy machine causes no time-out."""
    probes = [health.Probe(ask) for ask in (health.database, health.migrations, health.artifacts)]
    monkeypatch.setattr(health, "PROBES", probes)
    monkeypatch.setattr(health, "CACHE_SECONDS", 0)
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 20)


@pytest.fixture
def folder(local_store):
    local_store.save("tenants/acme/front.png", ContentFile(b"picture"))
    return local_store.location


@contextlib.contextmanager
def silent_server():
    """A port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_livez_uses_no_dependency(anonymous_client):  # the test may not touch the database
    response = anonymous_client.get("/livez")
    assert (response.status_code, response.content, response["Content-Type"]) == (
        200,
        b"ok\n",
        "text/plain; charset=utf-8",
    )


def test_readyz_has_a_line_for_each_dependency(db, anonymous_client, folder):
    response = anonymous_client.get("/readyz")
    assert (response.status_code, response.content.decode()) == (200, READY)
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_needs_no_credential_no_tls_no_known_host_and_meets_no_limit(
    db, anonymous_client, folder, settings, path
):
    settings.SECURE_SSL_REDIRECT = True
    settings.RATE_LIMIT_FAILED_PER_ADDRESS = settings.RATE_LIMIT_PER_TENANT = 1
    for _ in range(3):
        response = anonymous_client.get(path, headers={"Host": "10.1.2.3:8000", "Authorization": "Bearer wrong"})
        assert response.status_code == 200
        assert "X-Request-ID" in response


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_may_ask_with_head_and_with_nothing_else(db, anonymous_client, folder, path):
    assert (anonymous_client.head(path).status_code, anonymous_client.post(path).status_code) == (200, 405)


def test_a_migration_that_is_not_applied_is_counted(transactional_db, anonymous_client, folder):
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("jobs", "0002_support_console")
    try:
        response = anonymous_client.get("/readyz")
    finally:
        recorder.record_applied("jobs", "0002_support_console")
    assert (response.status_code, response.content.decode()) == (
        503,
        "database: ok\nmigrations: 1 to apply\nartifacts: ok\n",
    )


def test_readyz_reports_a_missing_folder_of_pictures(db, anonymous_client, folder):
    assert anonymous_client.get("/readyz").status_code == 200  # the first probe of a process creates the folder
    shutil.rmtree(folder)
    response = anonymous_client.get("/readyz")
    assert (response.status_code, response.content.decode()) == (
        503,
        "database: ok\nmigrations: ok\nartifacts: failed (FileNotFoundError)\n",
    )


def test_a_bucket_that_answers_is_ready(db, anonymous_client, s3_store):
    assert anonymous_client.get("/readyz").content.decode() == READY


@pytest.mark.parametrize("wrong", [{"bucket_name": "no-such-bucket"}, {"secret_key": "wrong", "access_key": "wrong"}])
def test_a_bucket_whose_links_would_lead_nowhere_is_not_ready(db, anonymous_client, s3_store, settings, wrong):
    options = settings.STORAGES["artifacts"]["OPTIONS"] | wrong
    artifact_store(settings, settings.STORAGES["artifacts"]["BACKEND"], **options)
    response = anonymous_client.get("/readyz")
    assert (response.status_code, response.content.decode()) == (
        503,
        "database: ok\nmigrations: ok\nartifacts: failed (StoreRefused)\n",
    )


def test_readyz_reports_a_missing_store(db, anonymous_client, s3_store, settings):
    (port,) = servers.free_ports(1)
    options = settings.STORAGES["artifacts"]["OPTIONS"] | {"endpoint_url": f"http://127.0.0.1:{port}"}
    artifact_store(settings, settings.STORAGES["artifacts"]["BACKEND"], **options)
    response = anonymous_client.get("/readyz")
    assert (response.status_code, response.content.decode()) == (
        503,
        "database: ok\nmigrations: ok\nartifacts: failed (EndpointConnectionError)\n",
    )


@pytest.mark.full_on_postgresql  # the store has no part in the database
def test_a_store_that_hangs_delays_each_answer_by_a_second_at_most(transactional_db):
    with silent_server() as port:
        store = {
            "AWS_STORAGE_BUCKET_NAME": "pictures",
            "AWS_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        with serving(database_of_this_test(), **store) as gateway:
            # The second one waits for the same question to the store, which may be given up meanwhile.
            for said in (["no answer within 1 s"], ["no answer within 1 s", "failed (ReadTimeoutError)"]):
                began = time.monotonic()
                answer = gateway.get("/readyz")
                assert time.monotonic() - began < 2
                assert answer.status == 503
                assert answer.body.decode() in [f"database: ok\nmigrations: ok\nartifacts: {each}\n" for each in said]


@pytest.mark.postgresql
def test_readyz_reports_a_hanging_database_within_two_seconds_and_livez_stays_ok(tmp_path):
    with silent_server() as port, serving(f"postgres://gateway@127.0.0.1:{port}/gateway") as gateway:
        for path, status in [("/livez", 200), ("/readyz", 503), ("/livez", 200), ("/readyz", 503)]:
            began = time.monotonic()
            answer = gateway.get(path)
            assert answer.status == status
            assert time.monotonic() - began < 2
        assert b"database: ok" not in answer.body
        assert b"migrations: ok" not in answer.body
