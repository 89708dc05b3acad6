"""``updated_after`` on ``GET /v1/jobs``: jobs whose latest event is later, in the order of the list."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, urlsplit

import pytest
from django.db import connection

from jobs.models import Job

NOON = "2026-04-15T12:00:00Z"


def ids(client, query):
    response = client.get(f"/v1/jobs?{query}")
    assert response.status_code == 200, response.content
    return [job["public_id"] for job in response.json()["jobs"]]


def event(seq, at, **more):
    return {"seq": seq, "event_type": "stage", "created_at": at, **more}


@pytest.fixture
def jobs(acme, job_of):
    """Created one after another; the first has the latest event, an internal one."""
    return [
        job_of(acme, events=[event(1, NOON), event(2, "2026-04-15T14:00:00.000001Z", visibility="internal")]),
        job_of(acme, events=[event(1, "2026-04-15T13:00:00Z")]),
        job_of(acme),  # without an event: the time of its creation
    ]


@pytest.mark.parametrize(
    ("after", "found"),
    [
        ("2026-04-15T11:00:00Z", [2, 1, 0]),
        ("2026-04-15T12:00:02Z", [1, 0]),  # excluded itself
        ("2026-04-15T13:00:00Z", [0]),
        ("2026-04-15T16:00:00+02:00", [0]),
        ("2026-04-15T16:00:00+0200", [0]),
        ("2026-04-15T14:00:00.000001Z", []),
    ],
)
def test_it_is_strict_and_keeps_the_order_of_the_list(acme_client, jobs, after, found):
    assert ids(acme_client, f"updated_after={quote(after)}") == [str(jobs[n].public_id) for n in found]


def test_it_holds_together_with_other_filters(acme_client, jobs):
    query = "updated_after=2026-04-15T12:30:00Z&status=IN_PROGRESS&job_type=MODEL_GENERATOR"
    assert len(ids(acme_client, query)) == 2
    assert len(ids(acme_client, f"{query}&created_after=2026-04-15T12:00:00Z")) == 1
    assert len(ids(acme_client, f"{query}&offset=1")) == 1


@pytest.mark.parametrize("value", ["", "null", "2026-04-15", "1776254400"])
def test_anything_but_a_time_is_refused(acme_client, value):
    (problem,) = acme_client.get(f"/v1/jobs?updated_after={value}").json()["detail"]
    assert (problem["loc"], problem["type"]) == (["query", "updated_after"], "datetime_parsing")


def test_a_cursor_is_bound_to_it_and_its_link_keeps_it(acme_client, jobs):
    response = acme_client.get("/v1/jobs?limit=1&updated_after=2026-04-15T12:30:00%2B00:00")
    sent = parse_qs(urlsplit(response.headers["Link"].partition(">")[0][1:]).query)
    assert sent["updated_after"] == ["2026-04-15T12:30:00Z"]
    cursor = quote(sent["cursor"][0])
    assert ids(acme_client, f"updated_after=2026-04-15T12:30:00Z&cursor={cursor}") == [str(jobs[0].public_id)]
    for other in ("", "&updated_after=2026-04-15T12:30:01Z", "&created_after=2026-04-15T12:30:00Z"):
        assert acme_client.get(f"/v1/jobs?cursor={cursor}{other}").status_code == 422


def test_its_validator_is_its_own(acme_client, jobs):
    plain = acme_client.get("/v1/jobs").headers["ETag"]
    assert acme_client.get("/v1/jobs?updated_after=2020-01-01T00:00:00Z").headers["ETag"] != plain


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_its_index_leaves_updates_of_jobs_heap_only(acme, job_of):
    job = job_of(acme)
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'job_updated'")
        assert "USING brin (updated_at)" in cursor.fetchone()[0]
        counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs_job'"
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(counts)
        updated, heap_only = cursor.fetchone()
        for second in range(10):
            at = job.created_at.replace(second=10 + second)
            Job.all_tenants.filter(pk=job.pk).update(updated_at=at, last_seq=second + 1, version=second + 2)
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(counts)
        updated_then, heap_only_then = cursor.fetchone()
    assert (updated_then - updated, heap_only_then - heap_only) == (10, 10)
