"""``GET /v1/events``: every public event of a tenant in one order, page by page."""

from __future__ import annotations

import itertools

import orjson
import pytest
from django.db import connection, transaction

from jobs.database import events
from jobs.ingest import ledger, removal
from jobs.models import Job, JobCounts, JobEvent

FEED = "/v1/events"


@pytest.fixture
def three_jobs(acme):
    """Nine public events of three jobs in turn, with internal notes in between."""
    jobs = [ledger.open_job(acme, job_type) for job_type in ("MODEL_GENERATOR", "BACKGROUND_GENERATOR", "restart")]
    for word in ("one", "two", "three"):
        for job in jobs:
            if job.job_type == "restart":
                ledger.append(job, "submitted", word, hostname=f"gpu-{word}")
            else:
                ledger.append(job, "queued", word)
            ledger.note(job, "for staff")
    return jobs


def ask(client, query="", after=None, status=200):
    parts = [part for part in (query, f"after={after}" if after is not None else "") if part]
    response = client.get(f"{FEED}?{'&'.join(parts)}")
    assert response.status_code == status, response.content
    return orjson.loads(response.content)


def messages(page):
    return [each["event"]["message"] for each in page["events"]]


def test_it_has_every_public_event_in_the_order_of_recording(acme_client, three_jobs):
    page = ask(acme_client)
    assert messages(page) == ["one"] * 3 + ["two"] * 3 + ["three"] * 3
    assert page["has_more"] is False
    first = page["events"][0]
    job = str(three_jobs[0].public_id)
    timeline = acme_client.get(f"/v1/jobs/{job}/events").json()["events"]
    assert first == {
        "id": f"{job}-1",
        "type": "job.queued",
        "job": {key: value for key, value in acme_client.get(f"/v1/jobs/{job}").json().items() if key in first["job"]},
        "event": timeline[0],
    }
    assert [each["event"] for each in page["events"] if each["job"]["public_id"] == job] == timeline


@pytest.mark.parametrize("limit", [1, 2, 4, 9, 10])
def test_pages_of_any_size_show_the_same(acme_client, three_jobs, limit):
    whole = ask(acme_client)["events"]
    walked, cursor = [], None
    while True:
        page = ask(acme_client, f"limit={limit}", cursor)
        assert len(page["events"]) <= limit
        walked += page["events"]
        cursor = page["cursor"]
        if not page["has_more"]:
            break
    assert walked == whole
    assert ask(acme_client, "", cursor) == {"events": [], "cursor": cursor, "has_more": False}


def test_a_cursor_continues_with_what_came_since(acme_client, three_jobs):
    cursor = ask(acme_client)["cursor"]
    ledger.append(three_jobs[1], "stage", "news")
    page = ask(acme_client, "", cursor)
    assert messages(page) == ["news"]
    assert page["events"][0]["job"]["status"] == "IN_PROGRESS"


def test_latest_is_from_now_on(acme_client, three_jobs):
    page = ask(acme_client, "", "latest")
    assert (page["events"], page["has_more"]) == ([], False)
    assert page["cursor"] == ask(acme_client)["cursor"]
    ledger.append(three_jobs[0], "stage", "news")
    assert messages(ask(acme_client, "", page["cursor"])) == ["news"]


def test_a_tenant_without_jobs_has_an_empty_feed_that_can_be_followed(acme, acme_client):
    page = ask(acme_client)
    assert (page["events"], page["has_more"]) == ([], False)
    assert ask(acme_client, "", "latest") == page
    ledger.append(ledger.open_job(acme, "MODEL_GENERATOR"), "queued", "first")
    assert messages(ask(acme_client, "", page["cursor"])) == ["first"]


FILTERS = {
    "job_type=MODEL_GENERATOR": 3,
    "job_type[]=MODEL_GENERATOR&job_type[]=BACKGROUND_GENERATOR": 6,
    "event_type=submitted": 3,
    "event_type[]=submitted&event_type[]=queued": 9,
    "event_type=nothing": 0,
    "job_type=MODEL_GENERATOR&event_type=submitted": 0,
    "event_type=%00": 0,
    "event_type=%22%5D%7B": 0,
}


def test_filters(acme_client, three_jobs):
    cursors = {}
    for query, limit in itertools.product(FILTERS, (1, 100)):
        found, cursor = [], None
        while True:
            page = ask(acme_client, f"{query}&limit={limit}", cursor)
            found += page["events"]
            cursor = page["cursor"]
            if not page["has_more"]:
                break
        assert len(found) == FILTERS[query], (query, limit)
        cursors[query, limit] = cursor
    ledger.append(three_jobs[0], "queued", "news")
    ledger.append(three_jobs[2], "submitted", "news", hostname="gpu-four")
    for (query, limit), cursor in cursors.items():
        news = messages(ask(acme_client, query, cursor))
        assert len(news) == {3: 1, 6: 1, 9: 2, 0: 0}[FILTERS[query]], (query, limit)


# So many events more of the job that one event is of, at the positions after another.
MORE = """
INSERT INTO jobs_jobevent (job_id, tenant_id, seq, event_type, visibility, message, extra, created_at, position)
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s)
SELECT job_id, tenant_id, 100 + n, 'stage', 'public', 'more', '{}', created_at, %s + n
FROM jobs_jobevent, numbers WHERE id = %s
"""


def test_a_rare_filter_examines_a_bounded_number_of_positions(acme_client, three_jobs, acme):
    first = JobCounts.objects.for_tenant(acme).get().last_position
    event = three_jobs[0].events.get(seq=1)
    with connection.cursor() as cursor:
        cursor.execute(MORE, [2 * events.EXAMINED_POSITIONS, first, event.pk])
    JobCounts.objects.for_tenant(acme).update(last_position=first + 2 * events.EXAMINED_POSITIONS)
    page = ask(acme_client, "event_type=rare")
    assert (page["events"], page["has_more"]) == ([], True)
    page = ask(acme_client, "event_type=rare", page["cursor"])
    assert (page["events"], page["has_more"]) == ([], True)
    page = ask(acme_client, "event_type=rare", page["cursor"])
    assert (page["events"], page["has_more"]) == ([], False)


def test_what_was_pruned_leaves_silently_and_cursors_hold(acme_client, acme, three_jobs):
    at_pruned = ask(acme_client, "limit=1")
    rest = ask(acme_client, "", at_pruned["cursor"])
    removal.remove(Job.all_tenants.filter(pk=three_jobs[0].pk))
    left = [each for each in rest["events"] if each["job"]["public_id"] != str(three_jobs[0].public_id)]
    assert ask(acme_client, "", at_pruned["cursor"])["events"] == left


def test_a_store_that_has_not_reached_the_cursor_or_has_another_event_there_answers_410(acme_client, acme, three_jobs):
    cursor = ask(acme_client)["cursor"]
    last = JobEvent.objects.for_tenant(acme).filter(position__isnull=False).order_by("position").last()
    lost = {"code": "CURSOR_GONE"}
    with transaction.atomic():
        JobCounts.objects.for_tenant(acme).update(last_position=last.position - 1)
        JobEvent.all_tenants.filter(pk=last.pk).delete()
        assert ask(acme_client, "", cursor, status=410)["code"] == lost["code"]
        transaction.set_rollback(True)
    with transaction.atomic():
        # The same position, with another event.
        JobEvent.all_tenants.filter(pk=last.pk).update(seq=1000)
        assert ask(acme_client, "", cursor, status=410)["code"] == lost["code"]
        transaction.set_rollback(True)
    assert ask(acme_client, "", cursor)["events"] == []


def test_an_event_where_there_was_none_is_another_store_too(acme_client, acme, three_jobs):
    key = f"{acme.storage_prefix}late.png"
    ledger.attach(three_jobs[0], [{"storage_key": key, "kind": "k", "role": "final"}])
    cursor = ask(acme_client)["cursor"]
    assert ask(acme_client, "", cursor)["events"] == []
    last = JobCounts.objects.for_tenant(acme).get().last_position
    assert not JobEvent.objects.for_tenant(acme).filter(position=last).exists()
    note = JobEvent.objects.for_tenant(acme).filter(position=None).first()
    JobEvent.all_tenants.filter(pk=note.pk).update(position=last, visibility="public")
    assert ask(acme_client, "", cursor, status=410)["code"] == "CURSOR_GONE"


def test_cursors_are_the_tenants_and_the_filters_own(acme_client, globex_client, three_jobs):
    cursor = ask(acme_client, "event_type=queued")["cursor"]
    for client, query in ((globex_client, "event_type=queued"), (acme_client, ""), (acme_client, "event_type=stage")):
        [problem] = ask(client, query, cursor, status=422)["detail"]
        assert problem["loc"] == ["query", "after"]
    assert ask(acme_client, "event_type=queued&limit=7", cursor)["has_more"] is False


@pytest.mark.parametrize("damaged", ["", "x", "latest ", "%00", "AAAA" * 10])
def test_what_is_no_cursor_is_422(acme_client, three_jobs, damaged):
    [problem] = ask(acme_client, "", damaged, status=422)["detail"]
    assert problem["loc"] == ["query", "after"]


def test_a_cursor_that_was_changed_is_422_and_tells_nothing(acme_client, acme, three_jobs):
    cursor = ask(acme_client)["cursor"]
    assert ask(acme_client)["cursor"] == cursor, "deterministic"
    for n in range(len(cursor)):
        changed = cursor[:n] + ("A" if cursor[n] != "A" else "B") + cursor[n + 1 :]
        ask(acme_client, "", changed, status=422)
    ask(acme_client, "", cursor[:-1], status=422)


def test_a_cursor_is_of_this_installations_key(acme_client, settings, three_jobs):
    cursor = ask(acme_client)["cursor"]
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another" * 10, [settings.SECRET_KEY]
    assert ask(acme_client, "", cursor)["has_more"] is False
    settings.SECRET_KEY_FALLBACKS = []
    ask(acme_client, "", cursor, status=422)


def test_holes_in_the_positions_lose_nothing(acme_client, acme, three_jobs):
    whole = ask(acme_client)["events"]
    late = [event.pk for event in JobEvent.objects.for_tenant(acme).filter(position__isnull=False).order_by("position")]
    for n, pk in enumerate(late[4:]):
        JobEvent.all_tenants.filter(pk=pk).update(position=100_000 + 3 * events.EXAMINED_POSITIONS * n)
    JobCounts.objects.for_tenant(acme).update(last_position=10**9)
    for query in ("limit=2", "limit=100", "limit=2&event_type=submitted&event_type=queued"):
        walked, cursor, pages = [], None, 0
        while True:
            page = ask(acme_client, query, cursor)
            walked, cursor, pages = walked + page["events"], page["cursor"], pages + 1
            if not page["has_more"]:
                break
        assert walked == whole
        assert pages < 20


def test_every_bad_parameter_is_reported_at_once(acme_client):
    query = f"limit=501&job_type=SHIRT&event_type=&event_type={'x' * 51}"
    problems = ask(acme_client, query, "nothing", status=422)["detail"]
    assert [problem["loc"] for problem in problems] == [
        ["query", "job_type", 0],
        ["query", "event_type", 0],
        ["query", "event_type", 1],
        ["query", "after"],
        ["query", "limit"],
    ]


def test_a_page_is_cut_by_artifacts_and_by_bytes_and_nothing_is_lost(acme, acme_client):
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    for n in range(3):
        artifacts = [
            {"storage_key": f"tenants/acme/{n}/{i}.png", "kind": "k", "role": "intermediate"} for i in range(400)
        ]
        ledger.append(job, "stage", f"artifacts {n}", artifacts=artifacts)
    for n in range(20):
        ledger.append(job, "stage", f"bytes {n}", extra={"text": "x" * 60_000})
    for query in ("limit=500", "limit=500&event_type=stage"):
        walked, sizes, cursor = [], [], None
        while True:
            page = ask(acme_client, query, cursor)
            walked += messages(page)
            sizes.append((len(page["events"]), sum(len(each["event"]["artifacts"]) for each in page["events"])))
            cursor = page["cursor"]
            if not page["has_more"]:
                break
        assert walked == [f"artifacts {n}" for n in range(3)] + [f"bytes {n}" for n in range(20)]
        assert max(artifacts for _, artifacts in sizes) <= 1_000
        assert len(sizes) == 3


def test_nothing_of_another_tenant_is_in_it(acme_client, globex_client, globex, three_jobs):
    theirs = ledger.open_job(globex, "MODEL_GENERATOR")
    ledger.append(theirs, "queued", "theirs")
    assert "theirs" not in messages(ask(acme_client))
    assert messages(ask(globex_client)) == ["theirs"]
    # As everywhere, the tenant is the credential's.
    assert ask(acme_client, f"tenant_id={globex.pk}") == ask(acme_client)


def test_it_has_no_etag_and_is_not_stored(acme_client, three_jobs):
    response = acme_client.get(FEED)
    assert "ETag" not in response.headers
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["Vary"] == "Authorization, Accept, Prefer"


def test_one_statement_reads_a_page(acme_client, three_jobs, django_assert_num_queries):
    acme_client.get(FEED)
    with django_assert_num_queries(1):
        acme_client.get(FEED)
    with django_assert_num_queries(1):
        acme_client.get(f"{FEED}?job_type=MODEL_GENERATOR&event_type=queued&limit=2")
