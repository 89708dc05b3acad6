"""The console's list of jobs, home page and job pages: what they show, and what they must not show."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from django.utils import timezone
from ulid import ULID

from jobs.fold import AGENT_RANKS
from jobs.ingest import ledger
from jobs.models import AuditEntry, Job, JobStatus

XSS = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def event(seq, event_type, second=0, **fields):
    created_at = f"2026-04-15T12:00:{second:02}Z"
    return {"seq": seq, "event_type": event_type, "created_at": created_at} | fields


def artifact(name, role="final", **fields):
    return {"storage_key": f"tenants/acme/{name}", "kind": "on_model_render", "role": role} | fields


def get_job_page(client, job):
    response = client.get(f"/admin/jobs/job/{job.public_id}/change/")
    assert response.status_code == 200
    return response.content.decode()


def listed_ids(client, query=""):
    """The ids in the list with this query string, from top to bottom."""
    response = client.get(f"/admin/jobs/job/{query}")
    assert response.status_code == 200, response.headers
    return [str(job.public_id) for job in response.context["cl"].result_list]


def visible_text(page):
    """The text of a page without tags, with single spaces."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))


# --- The list -----------------------------------------------------------------------------------------------------


def test_the_list_shows_status_and_last_event_of_each_job_newest_first(support_client, acme, globex, job_of):
    older = job_of(acme, events=[event(1, "queued"), event(2, "failed", 9, message="No garment in the picture")])
    newer = job_of(globex)
    response = support_client.get("/admin/jobs/job/")
    assert [job.pk for job in response.context["cl"].result_list] == [newer.pk, older.pk]
    row = response.content.decode().split(str(older.public_id))
    assert '<span class="badge badge-bad">Failure</span>' in row[0]
    said = visible_text(row[2])
    for part in ("acme", "MODEL_ GENERATOR", "ago", "9 s", "failed No garment in the picture"):
        assert part in said


@pytest.mark.parametrize("spelling", [str, lambda job_id: str(job_id).lower(), ULID.to_uuid, lambda i: i.to_uuid().hex])
def test_a_search_for_an_id_of_either_api_redirects_to_the_job(support_client, acme, job_of, spelling):
    job_of(acme)
    job = job_of(acme)
    response = support_client.get("/admin/jobs/job/", {"q": f" {spelling(job.public_id)} "})
    assert response.status_code == 302
    assert response.url == f"/admin/jobs/job/{job.public_id}/change/"


@pytest.mark.parametrize("name", ["acme", "acme.myshopify.com", "ACME.myshopify.com", "https://acme.myshopify.com/"])
def test_a_search_for_a_slug_or_shop_domain_lists_the_jobs_of_the_tenant(support_client, acme, globex, job_of, name):
    job, _theirs = job_of(acme), job_of(globex)
    assert listed_ids(support_client, f"?q={name}") == [str(job.public_id)]


@pytest.mark.parametrize("nothing", ["01JADE", "%", "x" * 500, "01JADE5XAMPK9M0Q7RS3T4V5W6", "’ OR 1=1"])
def test_a_search_for_anything_else_finds_no_jobs(support_client, acme, job_of, nothing):
    job_of(acme)
    response = support_client.get("/admin/jobs/job/", {"q": nothing})
    assert list(response.context["cl"].result_list) == []
    assert "0 jobs" in visible_text(response.content.decode())


def test_the_list_marks_an_internal_last_event(support_client, acme, job_of):
    note = event(2, "note", 9, visibility="internal", message="Check the quota")
    job_of(acme, events=[event(1, "stage", message="Rendering"), note])
    assert "note internal Check the quota" in visible_text(support_client.get("/admin/jobs/job/").content.decode())
    Job.all_tenants.get().events.filter(seq=2).update(visibility="public")
    assert "note Check the quota" in visible_text(support_client.get("/admin/jobs/job/").content.decode())


def test_the_list_shows_why_an_operation_failed(support_client, globex, job_of):
    events = [
        event(1, "failed", 1, hostname="gpu-03", message="Failed", extra={"error": "disk full"}),
        event(2, "completed", 2, hostname="gpu-04", message="Completed"),
    ]
    job = job_of(globex, job_type="vm.start", events=events)
    assert job.status == JobStatus.PARTIAL_FAILURE
    page = support_client.get("/admin/jobs/job/").content.decode()
    assert "failed gpu-03 · disk full" in visible_text(page)
    assert 'title="gpu-03 · disk full"' in page


@pytest.mark.parametrize("error", [None, {"code": 7}, 7, ""])
def test_the_list_shows_the_message_of_a_failure_without_an_error_text(support_client, globex, job_of, error):
    job_of(
        globex, job_type="vm.start", events=[event(1, "failed", hostname="a", message="Gone", extra={"error": error})]
    )
    assert "failed a · Gone" in visible_text(support_client.get("/admin/jobs/job/").content.decode())


def test_filters_can_be_combined(support_client, acme, globex, job_of):
    failed = job_of(acme, events=[event(1, "failed")])
    other_type = job_of(acme, job_type="BACKGROUND_GENERATOR", events=[event(1, "failed")])
    done = job_of(acme, events=[event(1, "succeeded")])
    theirs = job_of(globex, job_type="vm.start")
    ids = {name: str(job.public_id) for name, job in locals().items() if isinstance(job, Job)}

    def names(query):
        listed = listed_ids(support_client, query)
        return {name for name, job_id in ids.items() if job_id in listed}

    assert names("?tenant=acme") == {"failed", "other_type", "done"}
    assert names("?tenant=nobody") == set()
    assert names("?status=FAILURE") == {"failed", "other_type"}
    assert names("?status=nonsense") == set()
    assert names("?job_type=MODEL_GENERATOR") == {"failed", "done"}
    assert names("?job_type=vm.start") == {"theirs"}
    assert names("?tenant=acme&status=FAILURE&job_type=MODEL_GENERATOR") == {"failed"}
    assert names("?created_at__year=2026&created_at__month=4&created_at__day=15") == set(ids)
    assert names("?created_at__year=2025") == set()


@pytest.mark.parametrize(
    "query",
    [
        "?request__contains=secret",
        "?tenant__slug=acme",
        "?created_at__month=4",
        "?created_at__year=2026&created_at__day=4",
        "?created_at__year=99999",
        "?created_at__year=9999",
        "?created_at__year=0",
        "?created_at__year=2026&created_at__month=13",
        "?created_at__year=2026%00",
        "?version__gt=1",
    ],
)
def test_a_link_cannot_filter_by_other_fields(support_client, acme, job_of, query):
    job_of(acme)
    assert support_client.get(f"/admin/jobs/job/{query}").status_code in (302, 400)


def test_a_link_cannot_change_the_order_of_the_list(support_client, acme, job_of):
    at = "2026-04-15T12:00:0{}Z"
    older = job_of(acme, public_id="7" + "Z" * 25, created_at=at.format(1))
    newer = job_of(acme, public_id="0" * 26, created_at=at.format(2))
    assert (
        listed_ids(support_client, "?o=-2")
        == listed_ids(support_client)
        == [str(newer.public_id), str(older.public_id)]
    )


def test_stuck_jobs_are_listed_longest_silent_first(support_client, acme, job_of):
    now = timezone.now()

    def job(created_hours_ago, silent_hours):
        created, last = (now - timedelta(hours=hours) for hours in (created_hours_ago, silent_hours))
        stage = {"seq": 1, "event_type": "stage", "created_at": last.isoformat()}
        return str(job_of(acme, created_at=created.isoformat(), events=[stage]).public_id)

    ids = [job(9, 8), job(30, 7), job(7, 6)]
    assert listed_ids(support_client, "?attention=stuck") == ids
    page = visible_text(support_client.get("/admin/jobs/job/?attention=stuck").content.decode())
    for text in ("Silent for", "8 h", "7 h", "6 h", "3 jobs"):
        assert text in page
    assert "Silent for" not in visible_text(support_client.get("/admin/jobs/job/").content.decode())


def test_a_filter_with_a_nul_finds_nothing(support_client, acme, job_of):
    job_of(acme)
    assert listed_ids(support_client, "?job_type=%00") == []
    assert listed_ids(support_client, "?tenant=%00") == []


def test_the_tenant_filter_suggests_tenants(support_client, acme, globex):
    suggest = "/admin/autocomplete/?app_label=jobs&model_name=job&field_name=tenant&term="
    assert [result["text"] for result in support_client.get(f"{suggest}acm").json()["results"]] == ["acme"]
    assert support_client.get(f"{suggest}glob").json()["results"] == [{"id": str(globex.pk), "text": "globex"}]
    assert (
        'data-suggest="/admin/autocomplete/?app_label=jobs' in support_client.get("/admin/jobs/job/").content.decode()
    )


def test_the_list_has_pages_of_fifty_jobs_and_shows_the_total(support_client, acme):
    make_jobs(acme, 51)
    first, second = listed_ids(support_client), listed_ids(support_client, "?p=2")
    assert (len(first), len(second), len({*first, *second})) == (50, 1, 51)
    assert "51 jobs" in visible_text(support_client.get("/admin/jobs/job/").content.decode())


def test_a_total_over_a_thousand_jobs_is_shown_as_an_estimate(support_client, acme):
    make_jobs(acme, 1_001)
    response = support_client.get("/admin/jobs/job/")
    total = response.context["cl"].paginator.total
    assert re.fullmatch(r"about [0-9,]+ \(estimate\)|more than 1,000", total)
    assert f"{total} jobs" in visible_text(response.content.decode())
    assert len(listed_ids(support_client, "?p=20")) == 50
    assert support_client.get("/admin/jobs/job/?p=21").status_code == 302


def test_the_list_has_links_to_years_months_and_days(support_client, acme, job_of):
    job_of(acme)
    months = support_client.get("/admin/jobs/job/?created_at__year=2026").content.decode()
    assert 'href="?created_at__month=4&amp;created_at__year=2026"' in months
    days = support_client.get("/admin/jobs/job/?created_at__year=2026&created_at__month=2").content.decode()
    assert "created_at__day=28" in days
    assert "created_at__day=29" not in days


def make_jobs(tenant, count, **fields):
    start = datetime(2026, 4, 15, tzinfo=UTC)
    times = [start + timedelta(seconds=second) for second in range(count)]
    Job.all_tenants.bulk_create(
        Job(public_id=ULID.from_datetime(at), tenant=tenant, job_type="X", created_at=at, updated_at=at, **fields)
        for at in times
    )


# --- The home page ------------------------------------------------------------------------------------------------


def test_the_home_page_counts_failed_and_stuck_jobs_and_links_to_them(support_client, acme, globex, job_of, settings):
    settings.CONSOLE_STUCK_AFTER_SECONDS = 600
    now = timezone.now().replace(microsecond=0)

    def ago(minutes):
        return (now - timedelta(minutes=minutes)).isoformat()

    def job(tenant, *events, created=3000, **fields):
        events = [{"seq": seq, "event_type": kind, "created_at": ago(at)} for seq, (kind, at) in enumerate(events, 1)]
        return job_of(tenant, created_at=ago(created), events=events, public_id=str(ULID()), **fields)

    failed = job(acme, ("failed", 30), created=6000)
    operation = job(globex, ("failed", 30), job_type="vm.start")
    job(acme, ("failed", 1500))
    stuck = job(globex, ("stage", 11))
    job(globex, ("stage", 9))
    job(acme, ("queued", 100))

    response = support_client.get("/admin/")
    said = visible_text(response.content.decode())
    assert "Failed in the last 24 hours 2 jobs" in said
    assert "Stuck in progress 1 job In progress, with no event for more than 10 min." in said
    links = set(re.findall(r'href="(/admin/jobs/job/\?attention[^"]*)"', response.content.decode()))
    pages = {
        html.unescape(link): listed_ids(support_client, html.unescape(link)[len("/admin/jobs/job/") :])
        for link in links
        if "reason" not in link
    }
    assert pages == {
        "/admin/jobs/job/?attention=failed": [str(operation.public_id), str(failed.public_id)],
        "/admin/jobs/job/?attention=failed&tenant=acme&job_type=MODEL_GENERATOR": [str(failed.public_id)],
        "/admin/jobs/job/?attention=failed&tenant=globex&job_type=vm.start": [str(operation.public_id)],
        "/admin/jobs/job/?attention=stuck": [str(stuck.public_id)],
        "/admin/jobs/job/?attention=stuck&tenant=globex": [str(stuck.public_id)],
    }


def test_the_home_page_links_to_tenants(support_client, acme, globex, job_of):
    def job(tenant, event_type, ago):
        at = (timezone.now() - ago).isoformat()
        job_of(tenant, created_at=at, events=[{"seq": 1, "event_type": event_type, "created_at": at}])

    job(acme, "failed", timedelta(minutes=1))
    job(globex, "stage", timedelta(days=1))
    page = support_client.get("/admin/").content.decode()
    for tenant in (acme, globex):
        assert page.count(f'<a href="/admin/tenants/tenant/{tenant.pk}/change/">{tenant.slug}</a>') == 1


def test_job_types_are_spelled_as_in_the_api(support_client, acme, job_of):
    job_of(acme)
    page = support_client.get("/admin/jobs/job/").content.decode()
    assert "Model generator" not in page
    assert re.search(r'<a href="\?job_type=MODEL_GENERATOR">\s*MODEL_<wbr>GENERATOR<wbr>\s*</a>', page)


def test_the_home_page_shows_no_jobs_to_staff_without_permission(client, django_user_model, acme, job_of):
    job_of(acme, events=[event(1, "failed")])
    client.force_login(django_user_model.objects.create_user("new", is_staff=True))
    said = visible_text(client.get("/admin/").content.decode())
    assert "Failed" not in said
    assert "acme" not in said


# --- The page of a job --------------------------------------------------------------------------------------------


def test_the_timeline_shows_all_events_and_marks_internal_ones(support_client, acme, job_of):
    job = job_of(
        acme,
        request={"prompt": "studio", "sizes": [1, 2]},
        events=[
            event(1, "queued", message="Queued"),
            event(2, "stage", 2, stage="render", visibility="internal", message="gpu-7 took it", extra={"gb": 21.5}),
            event(3, "failed", 9, message="The renderer gave up", extra={"error": "TimeoutError: 30 s"}),
        ],
    )
    page = get_job_page(support_client, job)
    said = visible_text(page.split('class="timeline"')[1])
    assert "#1 queued public Queued" in said
    assert "+2 s" in said
    assert "#2 stage internal render gpu-7 took it extra" in said
    assert '"gb" : 21.5' in said
    assert "#3 failed public The renderer gave up TimeoutError: 30 s" in said
    assert "+7 s" in said
    why = visible_text(page.split('class="failure"')[1].split("</section>")[0])
    assert "Why it failed The renderer gave up TimeoutError: 30 s Event #3" in why
    assert '"prompt" : "studio"' in visible_text(page)


def test_an_internal_reason_of_a_failure_is_marked_as_internal(support_client, acme, job_of):
    job = job_of(acme, events=[event(1, "failed", visibility="internal", message="Quota")])
    assert "internal: the tenant cannot see it" in visible_text(get_job_page(support_client, job))


def test_images_have_signed_urls_and_load_lazily_and_final_ones_come_first(support_client, acme, job_of, local_store):
    events = [
        event(1, "stage", artifacts=[artifact("draft.png", "intermediate", label="draft")]),
        event(
            2, "succeeded", 9, artifacts=[artifact("front.png", label="front"), artifact("notes.json", label="notes")]
        ),
    ]
    page = get_job_page(support_client, job_of(acme, events=events))
    gallery = page.split('class="artifacts"')[1].split("</section>")[0]
    assert re.findall(r"<strong>(\w+)</strong>", gallery) == ["front", "notes", "draft"]
    images = re.findall(r"<img [^>]*>", gallery)
    assert len(images) == 2  # notes.json is not an image: it is a link
    for image in images:
        assert 'loading="lazy"' in image
        assert "tenants/acme/" in image
        assert re.search(r'src="http://testserver/artifacts/[^"]*\?', image)


def test_an_artifact_that_cannot_be_signed_has_a_message_in_its_place(support_client, acme, job_of):
    job = job_of(acme, events=[event(1, "succeeded", artifacts=[artifact("front.png")])])
    job.artifacts.update(storage_key="../../etc/passwd")
    page = get_job_page(support_client, job)
    assert "cannot be signed" in page
    assert "passwd" not in page


def test_each_agent_of_an_operation_has_a_row(support_client, globex, job_of):
    events = [
        event(1, "submitted", hostname="a.fra"),
        event(2, "submitted", hostname="b.fra", visibility="internal"),
        event(3, "started", 2, hostname="a.fra"),
        event(4, "started", 4, hostname="b.fra"),
        event(5, "completed", 7, hostname="a.fra", extra={"changed": True}),
        event(6, "failed", 10, hostname="b.fra", extra={"error": "disk full"}),
    ]
    page = get_job_page(support_client, job_of(globex, job_type="vm.start", events=events))
    lanes = [visible_text(row) for row in page.split("agents-title")[2].split("</section>")[0].split("<tr>")[2:]]
    assert "a.fra completed" in lanes[0]
    assert "5 s" in lanes[0]
    assert "b.fra failed" in lanes[1]
    assert "6 s disk full" in lanes[1]


@pytest.mark.parametrize("event_type", [*AGENT_RANKS, "retried", "something_new"])
def test_an_agent_in_any_state_is_shown(support_client, globex, job_of, event_type):
    job = job_of(globex, job_type="vm.start", events=[event(1, event_type, hostname="a.fra")])
    assert "a.fra" in get_job_page(support_client, job)


def test_a_long_timeline_has_pages(support_client, acme, job_of):
    job = job_of(acme, events=[event(seq, "stage", message=f"step {seq} of many") for seq in range(1, 502)])
    first = support_client.get(f"/admin/jobs/job/{job.public_id}/change/")
    assert [line.seq for line in first.context["detail"].timeline] == list(range(1, 501))
    assert 'href="?after_seq=500#timeline-title"' in first.content.decode()
    second = support_client.get(f"/admin/jobs/job/{job.public_id}/change/?after_seq=500")
    assert [line.seq for line in second.context["detail"].timeline] == [501]


def test_the_tenants_view_is_the_response_of_the_api(support_client, acme_client, acme, job_of, local_store):
    events = [event(1, "queued"), event(2, "succeeded", 9, artifacts=[artifact("front.png")])]
    job = job_of(acme, events=[*events, event(3, "note", 10, visibility="internal", message="hush")])
    page = support_client.get(f"/admin/jobs/job/{job.public_id}/change/")
    *shown, item = page.context["tenant_responses"]
    paths = (f"/v1/jobs/{job.public_id}", f"/v1/jobs/{job.public_id}/events")
    responses = {path: acme_client.get(path) for path in paths}
    assert {each.path: json.loads(each.text) for each in shown} == {path: responses[path].json() for path in paths}
    assert [each.etag for each in shown] == [responses[path]["ETag"] for path in paths]
    assert json.loads(item.text) == acme_client.get("/job").json()["items"][0]


def test_ids_and_a_curl_command_without_a_secret_can_be_copied(support_client, acme, acme_token, job_of):
    job = job_of(acme)
    page = html.unescape(get_job_page(support_client, job))
    assert f'data-copy="{job.public_id}"' in page
    assert f'data-copy="{job.public_id.to_uuid()}"' in page
    curl = f'curl -sS -H "Authorization: Bearer $JGW_TOKEN" http://testserver/v1/jobs/{job.public_id}'
    assert curl in page
    assert acme_token not in page


def test_without_a_list_previous_and_next_are_the_newer_and_older_job_of_the_tenant(
    support_client, acme, globex, job_of
):
    at = "2026-04-15T12:00:00Z"
    ids = sorted(str(ULID()) for _ in range(3))
    oldest, middle, newest = (job_of(acme, public_id=job_id, created_at=at) for job_id in ids)
    job_of(globex, created_at=at)

    def neighbours(job):
        page = get_job_page(support_client, job)
        return [re.search(rf'rel="{rel}" href="/admin/jobs/job/(\w+)/', page) for rel in ("prev", "next")]

    before, after = neighbours(middle)
    assert (before[1], after[1]) == (str(newest.public_id), str(oldest.public_id))
    assert neighbours(newest)[0] is None
    assert neighbours(oldest)[1] is None


def test_the_timeline_is_updated_until_the_job_ends(support_client, acme, job_of):
    job = job_of(acme, events=[event(1, "stage", message="Rendering")])
    page = get_job_page(support_client, job)
    version = re.search(r'data-version="([^"]+)" data-live', page)[1]
    timeline = f"/admin/jobs/job/{job.public_id}/timeline/"
    assert support_client.get(timeline, {"version": version}).status_code == 204

    ledger.note(job, "gpu-7")
    response = support_client.get(timeline, {"version": version})
    assert "gpu-7" in response.content.decode()
    assert "data-live" in response.content.decode()

    ledger.finish(job, message="Done")
    ended = support_client.get(timeline, {"version": version}).content.decode()
    assert "data-live" not in ended
    assert "badge-good" in ended
    assert AuditEntry.objects.count() == 1  # for the first request of the page


# --- What pages must not contain ----------------------------------------------------------------------------------


def hostile_job(job_of, acme):
    return job_of(
        acme,
        job_type=f"T{XSS}"[:100],
        request={XSS: [XSS, {"deep": XSS}]},
        events=[
            event(1, "stage", stage=XSS, message=XSS, hostname=None, extra={XSS: XSS}),
            event(
                2,
                "failed",
                9,
                message=XSS,
                extra={"error": XSS},
                artifacts=[artifact("front.png", kind=f"k{XSS}"[:100], label=XSS, meta={XSS: XSS})],
            ),
        ],
    )


def test_html_in_any_field_is_escaped_on_every_page(support_client, acme, job_of):
    acme.name = XSS
    acme.save()
    job = hostile_job(job_of, acme)
    for address in (
        f"/admin/jobs/job/{job.public_id}/change/",
        f"/admin/jobs/job/{job.public_id}/timeline/",
        "/admin/jobs/job/",
        f"/admin/jobs/job/?job_type={XSS}&q={XSS}&tenant={XSS}",
        f"/admin/tenants/tenant/{acme.pk}/change/",
        "/admin/tenants/tenant/",
        "/admin/",
    ):
        page = support_client.get(address).content.decode()
        assert "<script>alert" not in page, address
        assert "<img src=x" not in page, address
    assert html.escape(XSS) in get_job_page(support_client, job)


def test_html_in_a_hostname_is_escaped(support_client, acme, job_of):
    page = get_job_page(support_client, job_of(acme, events=[event(1, "started", hostname=XSS)]))
    assert "<script>alert" not in page


def test_storage_keys_appear_only_in_signed_urls(support_client, acme, job_of, local_store):
    reference = "s3://bucket/tenants/acme/hidden.png"
    key = "tenants/acme/hidden.png"
    job = job_of(
        acme,
        request={key: reference, "list": [key]},
        events=[
            event(1, "stage", stage=key, message=f"made {key}", extra={"file": reference, key: 1}),
            event(
                2,
                "failed",
                3,
                message=f"lost {reference}",
                extra={"error": f"no such object {key}"},
                artifacts=[artifact("front.png", label=key, meta={"source": reference})],
            ),
        ],
    )
    for address in (f"/admin/jobs/job/{job.public_id}/change/", "/admin/jobs/job/"):
        page = support_client.get(address).content.decode()
        assert "hidden.png" not in page
        assert "s3://" not in page
        assert "[redacted]" in page
        unsigned = re.sub(r"http://testserver/artifacts/[^\"&]*\?", "", html.unescape(page))
        assert "tenants/acme/" not in unsigned


def test_no_page_has_inline_scripts_or_styles_or_links_to_other_sites(
    support_client, admin_client, acme, acme_token, job_of
):
    job = hostile_job(job_of, acme)
    token = acme.tokens.get()
    for client in (support_client, admin_client):
        for address in (
            "/admin/",
            "/admin/jobs/job/",
            f"/admin/jobs/job/{job.public_id}/change/",
            "/admin/tenants/tenant/",
            f"/admin/tenants/tenant/{acme.pk}/change/",
            "/admin/tenants/apitoken/",
            f"/admin/tenants/apitoken/{token.pk}/change/",
            f"/admin/tenants/apitoken/{token.pk}/revoke/",
            f"/admin/tenants/tenant/{acme.pk}/issue-token/",
            "/admin/tenants/tenant/add/",
            "/admin/jobs/auditentry/",
        ):
            page = PageParser(client.get(address).content.decode())
            assert page.inline == [], address
            assert [link for link in page.links if re.match(r"\w+:|//", link) and "testserver/" not in link] == []


class PageParser(HTMLParser):
    """Collects the inline scripts and styles of a page, and all its links."""

    def __init__(self, page):
        super().__init__()
        self.inline, self.links = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.inline += [(tag, name) for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append((tag, None))
        self.links += [given[name] for name in ("src", "href", "action") if given.get(name)]


def test_the_list_shows_a_badge_for_every_status(support_client, acme):
    for status in JobStatus:
        make_jobs(acme, 1, status=status)
    page = support_client.get("/admin/jobs/job/").content.decode()
    for status in JobStatus:
        assert f">{status.label}</span>" in page
