"""The list of jobs: sorting, the range of time, and the place of a job in the list that it was opened from."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.utils import timezone

from jobs.admin import neighbours
from jobs.models import JobStatus
from tests.test_admin_jobs import event, listed_ids, make_jobs, visible_text

LIST = "/admin/jobs/job/"


def links_of(client, url):
    """The place that a job's page says, and its links: to the list, to the previous and to the next job."""
    page = client.get(url).content.decode()
    place = re.search(r'<span class="place">([^<]*)</span>', page)
    before, after = (re.search(rf'rel="{rel}" href="([^"]+)"', page) for rel in ("prev", "next"))
    back = re.search(r'<a href="([^"]+)">Jobs', page.split("Breadcrumbs")[1])
    return [each and html.unescape(each[1]) for each in (place, back, before, after)]


def job_links(client, query):
    page = client.get(f"{LIST}{query}").content.decode()
    return [html.unescape(each) for each in re.findall(r'<th class="field-public_id"><a href="([^"]+)"', page)]


@pytest.fixture
def failures(acme, globex):
    """Sixty failures of acme, which are two pages, beside other jobs."""
    make_jobs(acme, 60, status=JobStatus.FAILURE)
    make_jobs(acme, 30, status=JobStatus.SUCCESS)
    make_jobs(globex, 5, status=JobStatus.FAILURE)


def id_of(url):
    return re.search(r"/job/(\w+)/", url)[1]


def test_a_job_has_its_place_in_the_list_that_it_was_opened_from(support_client, failures):
    query = "?status=FAILURE&tenant=acme"
    ids = listed_ids(support_client, query) + listed_ids(support_client, f"{query}&p=2")
    on_first_page = job_links(support_client, query)
    place, back, before, after = links_of(support_client, on_first_page[0])
    assert (place, before, id_of(after)) == ("1 of 60", None, ids[1])
    assert parse_qs(urlsplit(back).query) == {"status": ["FAILURE"], "tenant": ["acme"], "p": ["1"]}
    # From the last job of a page to the next page, and back to the page that has the job.
    place, back, before, after = links_of(support_client, on_first_page[49])
    assert (place, id_of(before), id_of(after)) == ("50 of 60", ids[48], ids[50])
    place, back, before, after = links_of(support_client, after)
    assert (place, id_of(before), id_of(after)) == ("51 of 60", ids[49], ids[51])
    assert parse_qs(urlsplit(back).query)["p"] == ["2"]
    assert ids[50] in support_client.get(back).content.decode()
    place, _, before, after = links_of(support_client, job_links(support_client, f"{query}&p=2")[9])
    assert (place, id_of(before), after) == ("60 of 60", ids[58], None)


def test_the_place_follows_the_order_of_the_list(support_client, failures):
    oldest = job_links(support_client, "?o=4")[0]
    assert links_of(support_client, oldest)[0] == "1 of 95"
    newest = job_links(support_client, "?status=FAILURE")[0]
    place, *_ = links_of(support_client, re.sub("_changelist_filters=.*", "_changelist_filters=o%3D4", newest))
    assert place == "95 of 95"


def test_the_place_in_a_long_list_has_a_bound(support_client, acme, monkeypatch, django_assert_max_num_queries):
    monkeypatch.setattr(neighbours, "MAX_COUNTED", 5)
    make_jobs(acme, 8)
    links = job_links(support_client, "?tenant=acme")
    assert links_of(support_client, links[0])[0] == "1 of more than 5"
    place, back, before, after = links_of(support_client, links[7])
    assert place is None
    assert back == f"{LIST}?tenant=acme"
    assert before
    assert after is None


def test_a_job_that_left_the_list_has_the_neighbours_of_its_tenant(support_client, failures):
    link = job_links(support_client, "?status=FAILURE&tenant=acme")[0]
    for filters in ("status%3DIN_PROGRESS", "o%3Dx%26nonsense", "from%3Dnever", "p%3Dx"):
        place, back, *_ = links_of(support_client, re.sub("filters=.*", f"filters={filters}", link))
        if filters != "p%3Dx" and "o%3Dx" not in filters:
            assert (place, back) == (None, f"{LIST}?tenant=acme")


def test_the_list_is_sorted_by_created_and_by_status(support_client, acme, job_of):
    done = job_of(acme, events=[event(1, "succeeded")])
    failed = job_of(acme, events=[event(1, "failed")])
    running = job_of(acme, events=[event(1, "stage")])
    done, failed, running = (str(job.public_id) for job in (done, failed, running))
    columns = re.findall(r'<th scope="col" class="([^"]*)column-(\w+)', support_client.get(LIST).content.decode())
    assert [name for kind, name in columns if "sortable" in kind] == ["job_status", "created"]
    assert listed_ids(support_client) == [running, failed, done]
    assert listed_ids(support_client, "?o=4") == [done, failed, running]
    assert listed_ids(support_client, "?o=-4") == [running, failed, done]
    assert listed_ids(support_client, "?o=0") == [failed, running, done]
    assert listed_ids(support_client, "?o=-0") == [done, running, failed]
    page = support_client.get(f"{LIST}?o=4&tenant=acme").content.decode()
    assert 'aria-sort="ascending"' in page
    assert 'href="?o=-4&amp;tenant=acme"' in page
    # No index has a type or a time before the status.
    for query in ("?job_type=MODEL_GENERATOR&o=0", "?from=2026-04-15T00:00&o=0", "?o=99", "?o=1", "?o=x"):
        assert listed_ids(support_client, query) == [running, failed, done]


def test_stuck_jobs_can_be_listed_shortest_silent_first(support_client, acme, job_of):
    ids = []
    for hours in (5, 9, 7):
        at = (timezone.now() - timedelta(hours=hours)).isoformat()
        stage = {"seq": 1, "event_type": "stage", "created_at": at}
        ids.append(str(job_of(acme, created_at=at, events=[stage]).public_id))
    assert listed_ids(support_client, "?attention=stuck") == [ids[1], ids[2], ids[0]]
    assert listed_ids(support_client, "?attention=stuck&o=5") == [ids[0], ids[2], ids[1]]
    assert listed_ids(support_client, "?attention=stuck&o=-5") == [ids[1], ids[2], ids[0]]


def test_a_range_of_time_with_hours_filters_jobs_and_audit_entries(support_client, acme, job_of):
    early, noon, late = (
        str(job_of(acme, created_at=f"2026-04-15T{hour}:30:00Z").public_id) for hour in ("09", "12", "18")
    )
    assert listed_ids(support_client, "?from=2026-04-15T12:00&to=2026-04-15T18:00") == [noon]
    assert listed_ids(support_client, "?from=2026-04-15T12:30") == [late, noon]
    assert listed_ids(support_client, "?to=2026-04-15T12:30") == [early]
    assert listed_ids(support_client, "?from=2026-04-15T12:00%2B03:00&to=2026-04-15T09:31Z") == [early]
    page = support_client.get(f"{LIST}?from=2026-04-15T12:00&tenant=acme").content.decode()
    assert 'name="from" value="2026-04-15T12:00"' in page
    assert support_client.get(f"{LIST}?from=yesterday").status_code == 302
    support_client.get(f"{LIST}{noon}/change/")
    entries = "/admin/jobs/auditentry/"
    now = timezone.now()
    for minutes, found in ((-1, 1), (1, 0)):
        at = (now + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M")
        assert len(support_client.get(f"{entries}?from={at}").context["cl"].result_list) == found


def test_a_job_that_has_not_begun_has_no_duration(support_client, acme):
    make_jobs(acme, 1, status=JobStatus.NOT_STARTED)
    page = support_client.get(LIST).content.decode()
    assert '<td class="field-duration"><span class="missing-value">–</span></td>' in page
    assert "ago –" in visible_text(page)
