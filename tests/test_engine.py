"""The event loop of a worker: queries compiled before it serves; idle time, bursts and lost files."""

from __future__ import annotations

import gc
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

import pytest
from django.db import connection

from jobs.api.v1 import queries
from jobs.database import prepared
from jobs.models import Job
from tests.gateway import database_of_this_test, serving


def test_every_query_is_compiled_before_a_worker_serves():
    assert prepared._queries
    assert all(query.is_compiled for query in prepared._queries)


def test_a_query_that_was_not_compiled_does_not_compile_itself(monkeypatch):
    monkeypatch.setattr(prepared, "_queries", [])
    late = prepared.PreparedQuery(lambda: Job.objects.for_tenant(queries.TENANT))
    with pytest.raises(RuntimeError, match="compile_queries"):
        late.statement()


def test_two_threads_compile_the_same_statements():
    """Two threads that compiled one queryset at once could lose a JOIN: here each compiles a queryset of its own."""
    together = Barrier(2)

    def compile_all(_):
        together.wait()
        return [query.compile(connection)[0] for query in prepared._queries]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(compile_all, range(2))
    kept = [query._compiled[0] for query in prepared._queries]  # compiled by one thread, before there was another
    assert first == second == kept


def test_a_statement_is_written_for_as_many_values_as_there_are():
    for filters, query in queries.LISTS.items():
        if filters.job_type:
            sql, params = query.compile(connection)
            three, names = prepared.with_values(sql, params, 3)
            assert three.count("IN (%s, %s, %s)") == sql.count("IN (%s)") == (2 if filters.offset else 1)
            assert [part.name for part in names if getattr(part, "name", "").startswith("job_type")] == [
                "job_type_0",
                "job_type_1",
                "job_type_2",
            ] * (2 if filters.offset else 1)
            assert three.replace("%%", "").count("%s") == len(names)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/jobs", 200),
        ("/v1/jobs/{job}", 200),
        ("/v1/jobs/{job}", 304),
        ("/v1/jobs/{job}/events?since=1", 200),
        ("/v1/events", 200),
        ("/job", 200),
        ("/v1/jobs?limit=0", 422),
        ("/v1/nothing", 404),
    ],
)
def test_a_request_leaves_nothing_to_the_garbage_collector(path, status, acme, acme_client, job_of):
    """Cycles keep the request, its body and its rows in memory for longer, and collecting takes CPU."""
    path = path.format(job=job_of(acme).public_id)
    headers = {"If-None-Match": acme_client.get(path)["ETag"]} if status == 304 else {}
    acme_client.get(path, headers=headers)  # fills caches, some with classes
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert acme_client.get(path, headers=headers).status_code == status
        gc.collect()
        left = {type(each).__name__ for each in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
    assert not left & {"ApiRequest", "JobViewSet", "EventViewSet", "FleetJobViewSet", "Timeout"}


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
def test_a_database_file_that_is_lost_or_damaged_is_unavailable_and_recovers(acme_token, job_of, acme, tmp_path):
    job = job_of(acme)
    copy, away = tmp_path / "served.sqlite3", tmp_path / "away.sqlite3"
    with closing(sqlite3.connect(connection.settings_dict["NAME"])) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    with serving(f"sqlite:///{copy}", TOKEN_CACHE_SECONDS="0") as gateway:
        path = f"/v1/jobs/{job}"
        assert gateway.get(path, acme_token).status == 200
        copy.rename(away)
        assert gateway.get(path, acme_token).status == 503
        time.sleep(1.1)  # an answer of /readyz is reused for a second
        assert b"database: failed" in gateway.get("/readyz").body
        away.rename(copy)
        assert gateway.get(path, acme_token).status == 200
        shutil.copy(copy, away)
        copy.unlink()
        copy.write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
        assert gateway.get(path, acme_token).status == 503
        assert gateway.get("/livez").status == 200
        copy.unlink()
        away.rename(copy)
        assert gateway.get(path, acme_token).status == 200


@pytest.mark.postgresql
@pytest.mark.full
@pytest.mark.django_db(transaction=True)
def test_bursts_after_quiet_are_all_answered(acme_token, job_of, acme):
    """Connections that closed while they were idle are replaced, so that no burst gets 503."""
    path = f"/v1/jobs/{job_of(acme)}"
    with serving(database_of_this_test()) as gateway, ThreadPoolExecutor(20) as callers:
        for burst in range(4):
            time.sleep(35 if burst else 0)
            answers = list(callers.map(lambda _: gateway.get(path, acme_token).status, range(60)))
            assert answers == [200] * 60
