"""What a tenant could see after a chosen event, and pages of a long timeline."""

from __future__ import annotations

import json
import re

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from jobs.admin.job_detail import MAX_GALLERY, PAGE_EVENTS
from jobs.models import Artifact, JobEvent
from tests.client import Client, ConnectionReader
from tests.test_admin_jobs import artifact, event, visible_text


def page_of(client, job, query=""):
    response = client.get(f"/admin/jobs/job/{job.public_id}/change/{query}")
    assert response.status_code == 200
    return response


def as_of(client, job, seq):
    """The three responses after an event: the job, its events, and its item of /job."""
    return [json.loads(each.text) for each in page_of(client, job, f"?as_of={seq}").context["tenant_responses"]]


def now(client: Client, job):
    path = f"/v1/jobs/{job.public_id}"
    return [client.get(path).json(), client.get(f"{path}/events").json(), client.get("/job").json()["items"][0]]


WORKFLOW = [
    event(1, "queued", 1, message="Queued"),
    event(2, "note", 2, visibility="internal", message="hush"),
    event(3, "stage", 3, stage="render", message="Rendering", artifacts=[artifact("draft.png", "intermediate")]),
    event(4, "succeeded", 4, artifacts=[artifact("front.png", label="front"), artifact("back.png")]),
]
OPERATION = [
    event(1, "submitted", 1, hostname="a"),
    event(2, "submitted", 2, hostname="b"),
    event(3, "started", 3, hostname="a"),
    event(4, "completed", 4, hostname="a", extra={"data": {"n": 1}, "changed": True}),
    event(5, "started", 5, hostname="b", visibility="internal"),
    event(6, "failed", 6, hostname="b", extra={"error": "disk full"}),
]
# A page of events ends before the third, which would bring more than 1,000 artifacts.
LARGE = [
    event(seq, "stage", seq, artifacts=[artifact(f"{seq}-{n}.png", "intermediate") for n in range(400)])
    for seq in range(1, 4)
]


@pytest.mark.parametrize(
    ("events", "job_type"),
    [(WORKFLOW, "MODEL_GENERATOR"), (OPERATION, "vm.start"), (LARGE, "MODEL_GENERATOR")],
    ids=["workflow", "operation", "large"],
)
def test_after_each_event_the_responses_are_those_that_the_api_gave_then(
    support_client, acme_client, acme, job_of, local_store, events, job_type
):
    """The API is asked about the same job when it had no more events than that."""
    job = job_of(acme, job_type=job_type, request={"prompt": "studio"}, events=events)
    public_id = str(job.public_id)
    seen = {seq: as_of(support_client, job, seq) for seq in range(1, len(events) + 1)}
    for seq in range(1, len(events) + 1):
        job.delete()
        job = job_of(
            acme,
            public_id=public_id,
            created_at="2026-04-15T12:00:00Z",
            job_type=job_type,
            request={"prompt": "studio"},
            events=events[:seq],
        )
        assert seen[seq] == now(acme_client, job), seq


@pytest.mark.parametrize("seq", [3, 2**31, 9_999_999_999])
def test_after_an_event_that_is_not_there_yet_the_responses_are_those_of_now(
    support_client, acme_client, acme, job_of, local_store, seq
):
    job = job_of(acme, events=[event(1, "queued"), event(2, "stage")])
    assert as_of(support_client, job, seq) == now(acme_client, job)


@pytest.mark.parametrize("query", ["", "?as_of=1"])
def test_where_the_api_s_reads_fail_the_page_shows_its_503(support_client, acme, job_of, monkeypatch, query):
    job = job_of(acme, events=[event(1, "queued"), event(2, "stage")])
    read = ConnectionReader.read

    async def read_no_job(self, statement, values):
        if "public_id" in values:
            raise OperationalError("canceling statement due to statement timeout")
        return await read(self, statement, values)

    monkeypatch.setattr(ConnectionReader, "read", read_no_job)
    responses = page_of(support_client, job, query).context["tenant_responses"]
    assert [each.status for each in responses] == [503, 503, 503]


def test_an_agent_s_lane_has_the_beginning_of_its_error(support_client, acme, job_of):
    error = "the disk is full " * 100
    events = [event(1, "submitted", hostname="a"), event(2, "failed", hostname="a", extra={"error": error})]
    page = page_of(support_client, job_of(acme, job_type="vm.start", events=events)).content.decode()
    (lane,) = re.findall('<td class="error">([^<]*)</td>', page)
    assert lane.startswith("the disk is full")
    assert len(lane) == 400


def test_the_page_says_as_of_when_and_leads_back_to_now(support_client, acme, job_of):
    job = job_of(acme, events=[event(1, "queued"), event(2, "failed", 9, message="No")])
    page = page_of(support_client, job, "?_changelist_filters=tenant%3Dacme").content.decode()
    link = "?_changelist_filters=tenant%3Dacme&amp;as_of=2#tenant-view-title"
    assert page.count(f'href="{link}"') == 2  # of the reason and of the event
    past = page_of(support_client, job, "?_changelist_filters=tenant%3Dacme&as_of=1").content.decode()
    assert "As the tenant saw it after event #1" in past
    assert 'href="?_changelist_filters=tenant%3Dacme&amp;#tenant-view-title">As it is now' in past
    assert past.count('class="tenant-response"') == past.count('" open>\n    <summary><code>GET') == 3
    assert '"NOT_STARTED"' in visible_text(past.split('id="tenant-view-title"')[1])


LONG = 2 * PAGE_EVENTS + 1  # three pages, the last of which has one event


def test_a_timeline_is_read_in_pages_newest_or_oldest_first(support_client, acme, job_of):
    job = job_of(acme, events=[event(seq, "stage", message=f"step {seq} of many") for seq in range(1, LONG + 1)])

    def seqs(query):
        response = page_of(support_client, job, query)
        following = re.search(r'href="\?([^"#]*(?:after|before)_seq=\d+)', response.content.decode())
        return [line.seq for line in response.context["detail"].timeline], following and f"?{following[1]}"

    walked = {}
    for order in ("oldest", "newest"):
        found, query = [], f"?order={order}"
        while query:
            page, query = seqs(query.replace("&amp;", "&"))
            assert len(page) <= PAGE_EVENTS
            found += page
        walked[order] = found
    assert walked["oldest"] == list(range(1, LONG + 1))
    assert walked["newest"] == walked["oldest"][::-1]


def test_of_a_long_job_only_a_page_of_events_and_artifacts_is_read(support_client, globex, job_of):
    job = job_of(
        globex, job_type="vm.start", events=[event(1, "submitted", hostname="a"), event(2, "failed", 1, hostname="a")]
    )
    fields = {"job": job, "tenant": globex}
    first = job.events.get(seq=1)
    events = [
        JobEvent(**fields, seq=seq, event_type="note", created_at=first.created_at, hostname=None)
        for seq in range(3, 1_003)
    ]
    made = JobEvent.all_tenants.bulk_create(events)
    Artifact.all_tenants.bulk_create(
        Artifact(
            **fields, event=made[n], position=0, storage_key=f"tenants/globex/{n}.png", kind="k", role="intermediate"
        )
        for n in range(500)
    )
    job.last_seq = 1_002
    job.save()
    page_of(support_client, job)
    with CaptureQueriesContext(connection) as queries:
        response = page_of(support_client, job)
    said = visible_text(response.content.decode())
    assert "Events 1,002" in said
    assert f"the first {MAX_GALLERY} of 500, final ones first" in said
    assert "Why it failed" in said
    assert response.content.decode().count('class="artifact"') == MAX_GALLERY + PAGE_EVENTS - 2
    assert len(queries) < 25


def test_a_page_of_the_largest_job_has_a_bounded_size(support_client, acme, acme_client, job_of, local_store):
    """A MiB of JSON as elements would be tens of MB of HTML. Where it is text, all of it is there."""
    large = {"values": [0] * 20_000}
    pictures = [artifact(f"{n}.png") | {"meta": large} for n in range(10)]
    events = [event(seq, "stage", seq, message=f"step {seq} of ten", extra=large) for seq in range(1, 10)]
    job = job_of(
        acme,
        request={"values": [0] * 300_000},
        events=[*events, event(10, "succeeded", 10, extra=large, artifacts=pictures)],
    )
    response = page_of(support_client, job)
    assert len(response.content) < 8 * 2**20
    shown = [each.meta for each in response.context["detail"].artifacts]
    assert sum("too many for this page" in meta for meta in shown) == 6
    assert all(meta.count("0") >= 20_000 for meta in shown[:4])
    assert [json.loads(each.text) for each in response.context["tenant_responses"]] == now(acme_client, job)
    walked, query = [], "?"
    while query:
        response = page_of(support_client, job, query)
        walked += [line.seq for line in response.context["detail"].timeline]
        assert all(line.extra.count("0") >= 20_000 for line in response.context["detail"].timeline)
        following = re.search(r'href="\?(after_seq=\d+)', response.content.decode())
        query = following and f"?{following[1]}"
    assert walked == list(range(1, 11))


def test_a_page_of_many_small_values_has_a_bounded_number_of_elements(support_client, acme, job_of):
    events = [event(seq, "stage", extra={"values": [0] * 100}) for seq in range(1, 101)]
    page = page_of(support_client, job_of(acme, events=events)).content.decode()
    assert page.count('class="json-number"') < 10_000
    assert page.count('<details class="extra"') == 100


@pytest.mark.parametrize("text", ["one\ntwo\nthree\nfour\nfive", "x" * 500])
def test_a_long_text_is_folded_and_a_short_one_is_not(support_client, acme, job_of, text):
    job = job_of(acme, events=[event(1, "failed", message=text, extra={"error": "short"})])
    page = page_of(support_client, job).content.decode()
    assert page.count("<summary>Whole text</summary>") == 2  # of the reason and in the timeline
    assert page.count(f"<p>{text}</p>") == 2
    assert "<pre>short</pre>" in page


def test_the_page_begins_with_the_status_and_the_reason(support_client, acme, job_of):
    job = job_of(acme, events=[event(1, "failed", message="No garment")])
    page = page_of(support_client, job).content.decode()
    assert "<title>Failure · MODEL_GENERATOR of acme | Jobs Gateway console</title>" in page
    order = [page.index(part) for part in ('class="badge badge-bad">Failure', "No garment", "<dt>Created", "<dt>ULID")]
    assert order == sorted(order)
    assert re.search(r'<details class="panel ids" id="ids">', page)


def test_deep_nesting_does_not_make_a_page_large(support_client, acme, job_of):
    """Indented, each of these values would be forty times as long."""
    deep = [0] * 2_000
    for _ in range(58):
        deep = [deep]
    events = [event(seq, "stage", seq, extra={"deep": deep}) for seq in range(1, 60)]
    response = page_of(support_client, job_of(acme, events=events))
    assert len(response.content) < 2 * 2**20
    assert all(line.extra.count("0") >= 2_000 for line in response.context["detail"].timeline)
