"""Pages have a bounded size and cost: jobs with very many events or artifacts stay readable."""

from __future__ import annotations

import json
import re
from time import perf_counter
from typing import Any

import pytest
from django.db import connection

from jobs.models import Job

NOON = "2026-04-15T12:00:00Z"
PAGE_EVENTS, PAGE_ARTIFACTS, PAGE_BYTES, RESULT_ARTIFACTS = 500, 1_000, 2**20, 2_000
SECONDS = 1.0  # for any page; the best of five, as the machine does other things beside

NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s - 1)"
EVENTS = f"""
INSERT INTO jobs_jobevent (job_id, tenant_id, seq, event_type, visibility, stage, message, hostname, extra, created_at)
{NUMBERS} SELECT %s, %s, n + 1, %s, 'public', NULL, 'A step', %s, '{{}}', %s FROM numbers
"""
AGENTS = f"""
INSERT INTO jobs_jobevent (job_id, tenant_id, seq, event_type, visibility, message, hostname, extra, created_at)
{NUMBERS} SELECT %s, %s, n + 1,
  CASE n %% 4 WHEN 0 THEN 'submitted' WHEN 1 THEN 'acknowledged' WHEN 2 THEN 'started' ELSE 'completed' END,
  'public', 'A step', 'web-' || (n / 4), '{{"changed": true}}', %s FROM numbers
"""
ARTIFACTS = f"""
INSERT INTO jobs_artifact (job_id, tenant_id, event_id, position, storage_key, kind, role, meta)
{NUMBERS} SELECT e.job_id, e.tenant_id, e.id, n, 'tenants/acme/' || e.seq || '-' || n || '.png', 'render', %s,
  '{{"width": 1024}}' FROM jobs_jobevent e, numbers WHERE e.job_id = %s
"""


def execute(sql: str, *params: Any) -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # The requests before have set a timeout for the test's transaction, in which foreign keys are checked too.
            cursor.execute("SET LOCAL statement_timeout = 0; SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(sql, params)


def stored(job: Job) -> Any:
    return job.public_id.to_uuid() if connection.vendor == "postgresql" else job.public_id.hex


def stored_time(job: Job) -> Any:
    return job.created_at if connection.vendor == "postgresql" else job.created_at.replace(tzinfo=None)


def add_events(job: Job, number: int, hostname: str | None = None, event_type: str = "stage") -> None:
    execute(EVENTS, number, stored(job), job.tenant_id, event_type, hostname, stored_time(job))
    finish_loading(job, number)


def finish_loading(job: Job, last_seq: int) -> None:
    Job.all_tenants.filter(pk=job.pk).update(last_seq=last_seq, last_public_seq=last_seq)
    if connection.vendor == "postgresql":
        execute("ANALYZE jobs_job, jobs_jobevent, jobs_artifact")


def add_artifacts(job: Job, of_each_event: int, role: str = "final") -> None:
    execute(ARTIFACTS, of_each_event, role, stored(job))


def set_status(job: Job, status: str) -> None:
    Job.all_tenants.filter(pk=job.pk).update(status=status)


def get(client: Any, path: str) -> Any:
    """The body of an answer that took at most SECONDS."""
    elapsed: list[float] = []
    while not elapsed or (elapsed[-1] >= SECONDS and len(elapsed) < 5):
        started = perf_counter()
        response = client.get(path)
        elapsed.append(perf_counter() - started)
        assert response.status_code == 200, response.content
    assert elapsed[-1] < SECONDS, (path, elapsed)
    return response.json()


def pages(client: Any, job: Job) -> list[dict[str, Any]]:
    """Every page of the job's events, the empty one at the end left out."""
    found, since = [], 0
    while (body := get(client, f"/v1/jobs/{job.public_id}/events?since={since}"))["events"]:
        found.append(body)
        assert body["latest_seq"] == body["events"][-1]["seq"]
        since = body["latest_seq"]
    assert body["latest_seq"] == since
    return found


def seqs(found: list[dict[str, Any]]) -> list[list[int]]:
    return [[event["seq"] for event in body["events"]] for body in found]


def event(seq: int, artifacts: int = 0, **more: Any) -> dict[str, Any]:
    pictures = [
        {"storage_key": f"tenants/acme/{seq}-{n}.png", "kind": "render", "role": "final"} for n in range(artifacts)
    ]
    return {"seq": seq, "event_type": "stage", "created_at": NOON, "artifacts": pictures, **more}


# --- where a page of events ends ---


@pytest.mark.parametrize(
    ("artifacts", "expected"),
    [
        ([400, 400, 200, 1], [[1, 2, 3], [4]]),  # exactly 1,000 are a page
        ([400, 400, 201, 1], [[1, 2], [3, 4]]),
        ([0, 500, 500, 0, 1, 500], [[1, 2, 3, 4], [5, 6]]),  # an event without artifacts fits a full page
        ([1, 0, 0], [[1, 2, 3]]),
    ],
)
def test_a_page_ends_before_the_event_that_would_bring_more_than_a_thousand_artifacts(
    acme_client, acme, job_of, artifacts, expected
):
    job = job_of(acme, events=[event(seq, number) for seq, number in enumerate(artifacts, 1)])
    found = pages(acme_client, job)
    assert seqs(found) == expected
    assert [[len(each["artifacts"]) for each in body["events"]] for body in found] == [
        [artifacts[seq - 1] for seq in page] for page in expected
    ]


def test_an_event_beyond_the_bounds_is_a_page_alone(acme_client, acme, job_of):
    job = job_of(acme, events=[event(seq) for seq in range(1, 6)])
    execute(f"{ARTIFACTS} AND e.seq IN (2, 4)", 1_500, "final", stored(job))
    found = pages(acme_client, job)
    assert seqs(found) == [[1], [2], [3], [4], [5]]
    assert [len(body["events"][0]["artifacts"]) for body in found] == [0, 1_500, 0, 1_500, 0]


def test_a_page_ends_before_a_mebibyte_of_json(acme_client, acme, job_of):
    # Compressible, so that what is measured is not what the database stores of it.
    job = job_of(acme, events=[event(seq, extra={"log": "é" * 30_000}) for seq in range(1, 41)])
    found = pages(acme_client, job)
    assert seqs(found) == [list(range(first, min(first + 17, 41))) for first in (1, 18, 35)]
    assert all(len(json.dumps(body, ensure_ascii=False).encode()) < PAGE_BYTES * 1.02 for body in found)


def test_messages_and_the_details_of_artifacts_count_too(acme_client, acme, job_of):
    long = [event(seq, message="m" * 9_950) for seq in range(1, 151)]
    assert [len(page) for page in seqs(pages(acme_client, job_of(acme, events=long)))] == [104, 46]
    many = [event(seq, 10) for seq in range(1, 31)]
    for each in many:
        for picture in each["artifacts"]:
            picture["meta"] = {"text": "t" * 6_000}
    assert [len(page) for page in seqs(pages(acme_client, job_of(acme, events=many)))] == [17, 13]


def test_a_stored_event_of_several_mebibytes_is_a_page_alone(acme_client, acme, job_of):
    job = job_of(acme, events=[event(seq) for seq in range(1, 5)])
    extra = json.dumps({"log": "x" * 3_000_000})
    execute("UPDATE jobs_jobevent SET extra = %s WHERE job_id = %s AND seq = 3", extra, stored(job))
    assert seqs(pages(acme_client, job)) == [[1, 2], [3], [4]]


def test_internal_events_take_no_place_in_a_page(acme_client, acme, job_of):
    events = [event(seq, 300, visibility="internal" if seq % 2 else "public") for seq in range(1, 11)]
    for each in events:
        for artifact in each["artifacts"]:
            artifact["role"] = "intermediate"  # a job has at most 2,000 final ones
    assert seqs(pages(acme_client, job_of(acme, events=events))) == [[2, 4, 6], [8, 10]]


# --- jobs from before the bounds ---


@pytest.mark.parametrize("last", [pytest.param(60, id="15000"), pytest.param(500, id="125000", marks=pytest.mark.full)])
def test_a_job_of_very_many_artifacts_stays_readable(acme_client, acme, job_of, last):
    job = job_of(acme)
    add_events(job, last)
    add_artifacts(job, 250)
    finish_loading(job, last)
    for since in (0, 1, last // 2 - 2, last - 4, last - 2):
        body = get(acme_client, f"/v1/jobs/{job.public_id}/events?since={since}")
        assert [event["seq"] for event in body["events"]] == list(range(since + 1, min(since + 4, last) + 1))
        assert {len(event["artifacts"]) for event in body["events"]} == {250}
    assert get(acme_client, f"/v1/jobs/{job.public_id}")["result"] == []
    set_status(job, "SUCCESS")
    detail = get(acme_client, f"/v1/jobs/{job.public_id}")
    assert len(detail["result"]) == RESULT_ARTIFACTS
    assert detail["latest_event"]["seq"] == last
    (item,) = get(acme_client, "/job?limit=100")["items"]
    assert (len(item["timeline"]), len(item["result"])) == (last, RESULT_ARTIFACTS)


@pytest.mark.full
def test_a_job_of_500000_artifacts_stays_readable(acme_client, acme, job_of):
    job = job_of(acme)
    add_events(job, 500)
    add_artifacts(job, 1_000)
    finish_loading(job, 500)
    for since in (0, 499):
        (only,) = get(acme_client, f"/v1/jobs/{job.public_id}/events?since={since}")["events"]
        assert (only["seq"], len(only["artifacts"])) == (since + 1, 1_000)
    for status, shown in (("IN_PROGRESS", 0), ("SUCCESS", RESULT_ARTIFACTS), ("FAILURE", 0)):
        set_status(job, status)
        assert len(get(acme_client, f"/v1/jobs/{job.public_id}")["result"]) == shown
        (item,) = get(acme_client, "/job")["items"]
        assert (len(item["timeline"]), len(item["result"] or [])) == (500, shown)


def test_a_job_of_10000_events_is_read_page_by_page(acme_client, acme, job_of):
    job = job_of(acme)
    add_events(job, 10_000)
    assert seqs(pages(acme_client, job)) == [list(range(n, n + PAGE_EVENTS)) for n in range(1, 10_001, PAGE_EVENTS)]
    set_status(job, "FAILURE")  # and none of its events says why
    for limit in (1, 10, 100):
        (item,) = get(acme_client, f"/job?limit={limit}")["items"]
        assert len(item["timeline"]) == 500


def test_an_operation_of_10000_events_is_folded_in_time(acme_client, acme, job_of):
    job = job_of(acme, job_type="node.command", events=[event(1, hostname="web-0")])
    execute("DELETE FROM jobs_jobevent WHERE job_id = %s", stored(job))
    execute(AGENTS, 10_000, stored(job), job.tenant_id, stored_time(job))
    finish_loading(job, 10_000)
    set_status(job, "SUCCESS")
    (item,) = get(acme_client, "/job")["items"]
    assert (len(item["responses"]), len(item["agent_states"]), len(item["timeline"])) == (2_500, 2_500, 500)
    assert item["changed"] is True


def test_of_an_agent_that_repeats_itself_the_first_and_the_latest_count(acme_client, acme, job_of):
    lines = [("started", seq, "internal") for seq in range(1, 400)]
    lines += [("note", seq, "public") for seq in range(400, 500)]
    lines += [("failed", 500, "public"), ("started", 501, "public"), ("failed", 502, "public")]
    events = [
        event(
            seq,
            event_type=kind,
            visibility=visibility,
            hostname="web-01",
            extra={"error": f"number {seq}"},
            created_at=f"2026-04-15T12:{seq // 60:02}:{seq % 60:02}Z",
        )
        for kind, seq, visibility in lines
    ]
    events += [event(503, event_type="completed", hostname="web-02", extra={"data": 7, "changed": True})]
    job_of(acme, job_type="node.command", events=events)
    (item,) = get(acme_client, "/job")["items"]
    assert item["agent_states"]["web-01"] == {"status": "failed", "error": "number 502", "duration": "8m21s"}
    assert (item["status"], item["error"], item["result"]) == ("partial_failure", "number 502", 7)


# --- the timeline of /job ---


def test_a_timeline_is_the_last_500_public_events(acme_client, acme, job_of):
    events = [event(seq, visibility="internal" if seq in (3, 601) else "public") for seq in range(1, 604)]
    events[-1]["created_at"] = "2026-04-15T11:00:00Z"  # the latest by seq, shown first by time
    events[-1]["message"] = "last"
    job_of(acme, events=events)
    (item,) = get(acme_client, "/job")["items"]
    assert len(item["timeline"]) == 500
    assert item["timeline"][0]["message"] == "last"


def test_timelines_are_short_where_a_page_would_hold_more_than_5000_events(acme_client, acme, job_of):
    jobs = [job_of(acme) for _ in range(12)]
    for job in jobs[:10]:
        add_events(job, 600)
    for limit in (10, 11, 12, 100):  # ten times 500 are 5,000 and no more
        assert {len(item["timeline"]) for item in get(acme_client, f"/job?limit={limit}")["items"]} == {0, 500}
    add_events(jobs[10], 1)
    assert {len(item["timeline"]) for item in get(acme_client, "/job?limit=100")["items"]} == {0, 1, 50}
    assert {len(item["timeline"]) for item in get(acme_client, "/job?limit=10")["items"]} == {0, 1, 500}


# --- what is read ---


def explained(client: Any, path: str) -> list[dict[str, Any]]:
    """The nodes of the plan that PostgreSQL really ran for a page."""
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        client.get(path)
    sql = next(query["sql"] for query in captured if "jobs_jobevent" in query["sql"])
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        nodes = [cursor.fetchone()[0][0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    return nodes


def rows_of(nodes: list[dict[str, Any]], table: str) -> float:
    return sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes if node.get("Relation Name") == table)


@pytest.mark.postgresql
def test_no_artifact_beyond_the_page_is_read_and_none_before_success(acme_client, acme, job_of):
    add_events(job_of(acme), 5_000)  # of another job: in a table with one job alone, to read it all costs as little
    job = job_of(acme)
    add_events(job, 500)
    add_artifacts(job, 50)
    finish_loading(job, 500)
    events = explained(acme_client, f"/v1/jobs/{job.public_id}/events?since=100")
    whole = [node for node in events if node["Node Type"] == "Seq Scan" and node["Relation Name"] != "jobs_job"]
    assert not whole, json.dumps(events[0], indent=1)
    # Twenty events are a page. One more is looked at, and each of the two windows reads one ahead.
    assert rows_of(events, "jobs_jobevent") <= 23
    assert rows_of(events, "jobs_artifact") <= 23 * 50
    detail = explained(acme_client, f"/v1/jobs/{job.public_id}")
    assert rows_of(detail, "jobs_artifact") == 50  # those of the latest event
    assert rows_of(explained(acme_client, "/job"), "jobs_artifact") == 0


def test_the_bounds_are_those_of_the_document(anonymous_client):
    document = anonymous_client.get("/v1/openapi.json").json()
    description = document["components"]["schemas"]["JobEventsResponse"]["properties"]["events"]["description"]
    assert re.findall(r"\d[\d,]*\b", description) == ["500", "1,000", "1"]
