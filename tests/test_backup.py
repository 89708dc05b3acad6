"""A dump and its restore: tokens, cursors and ETags from before stay valid."""

from __future__ import annotations

import re
import sqlite3

import pytest
from django.db import connection

from tests.gateway import serving

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def restored(request, tmp_path):
    """``restored()`` is the URL of a new database, restored from a dump of this test's as docs/deploy.md does it."""
    if connection.vendor == "sqlite":

        def restore():
            copy = tmp_path / "restored.sqlite3"
            source, target = sqlite3.connect(connection.settings_dict["NAME"]), sqlite3.connect(copy)
            source.backup(target)
            source.close()
            target.close()
            return f"sqlite:///{copy}"

        yield restore
        return
    server = request.getfixturevalue("postgresql_server")
    connect = ["--host", str(server.folder), "--username", "gateway"]

    def restore():
        dump = server.folder / "gateway.dump"
        server.run("pg_dump", *connect, "--format=custom", f"--file={dump}", connection.settings_dict["NAME"])
        server.psql("DROP DATABASE IF EXISTS restored", "CREATE DATABASE restored OWNER gateway")
        server.run("pg_restore", *connect, "--dbname=restored", "--exit-on-error", "--single-transaction", str(dump))
        dump.unlink()
        return server.url("restored", user="gateway")

    yield restore
    server.psql("DROP DATABASE IF EXISTS restored WITH (FORCE)")


def test_callers_go_on_where_they_were(acme, acme_token, acme_client, job_of, restored):
    for _ in range(4):
        events = [
            {"seq": seq, "event_type": "stage", "created_at": "2026-04-15T12:00:00Z", "message": str(seq)}
            for seq in (1, 2, 3)
        ]
        job = job_of(acme, events=events)
    # In this process, asked under the name that the server is: validators cover it.
    page, counted = (acme_client.get(path, headers={"Host": "localhost"}) for path in ("/v1/jobs?limit=2", "/job"))
    following = re.search(r"<[^>]*?(/v1/jobs\?[^>]*)>", page.headers["Link"])[1]
    timeline_path = f"/v1/jobs/{job}/events?since=1"
    next_page, timeline = (acme_client.get(path, headers={"Host": "localhost"}) for path in (following, timeline_path))
    assert [answer.status_code for answer in (page, next_page, timeline, counted)] == [200] * 4
    with serving(restored()) as gateway:
        assert gateway.get("/readyz").body.startswith(b"database: ok\nmigrations: ok\n")
        assert gateway.get(following, acme_token).body == next_page.content
        assert gateway.get(timeline_path, acme_token).body == timeline.content
        assert gateway.get("/v1/jobs?limit=2", acme_token, If_None_Match=page.headers["ETag"]).status == 304
        assert gateway.get("/job", acme_token).body == counted.content
