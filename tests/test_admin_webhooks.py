"""The console's pages of webhooks: health at a glance, the log, redelivery, and who may do what."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_network

import pytest
from django.utils import timezone

from jobs.ingest import ledger
from jobs.models import AuditAction, AuditEntry
from jobs.webhooks import endpoints, signing
from jobs.webhooks.models import Attempt, BlockedJob, Endpoint, Redelivery

URL = "https://receiver.example/hook"


@pytest.fixture(autouse=True)
def no_network_is_allowed(settings):
    settings.WEBHOOK_ALLOWED_NETWORKS = [ip_network("10.0.0.0/8")]


@pytest.fixture
def endpoint(acme):
    return endpoints.create(acme, URL)[0]


@pytest.fixture
def job(acme, endpoint, local_store):
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    ledger.append(job, "stage", "at s3://bucket/key")
    picture: ledger.NewArtifact = {"storage_key": "tenants/acme/a.png", "kind": "render", "role": "final"}
    ledger.finish(job, "Done", artifacts=[picture])
    return job


def attempt(endpoint, job, seq, outcome="failed", **columns):
    values = {"at": timezone.now(), "event_type": "job.stage", "number": 1, "duration_ms": 12, "status": 500}
    return Attempt.objects.create(endpoint=endpoint, job=job.pk, seq=seq, outcome=outcome, **values | columns)


def page_of(endpoint, action="change"):
    return f"/admin/webhooks/endpoint/{endpoint.pk}/{action}/"


def entries():
    return list(AuditEntry.objects.order_by("pk").values_list("actor__username", "action", "subject"))


def text_of(response):
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def test_the_list_shows_the_health_of_each_endpoint(support_client, acme, globex, endpoint, job):
    BlockedJob.objects.create(
        endpoint=endpoint, job=job.pk, next_seq=1, next_attempt_at=timezone.now(), since=timezone.now()
    )
    Endpoint.objects.update(failing_since=timezone.now(), last_failure_at=timezone.now() - timedelta(minutes=5))
    disabled, _ = endpoints.create(globex, "https://other.example/")
    endpoints.disable(disabled, "by hand")
    text = text_of(support_client.get("/admin/webhooks/endpoint/"))
    assert f"Endpoint {endpoint.pk} acme {URL} failing 2 1 never 5 min ago" in text
    assert "globex https://other.example/ disabled 0 0 never never" in text
    assert "Add" not in text
    assert "globex" not in text_of(support_client.get("/admin/webhooks/endpoint/?q=acme")).partition("Endpoint")[2]


def test_support_sees_attempts_with_request_answer_and_duration(support_client, endpoint, job):
    failed = attempt(endpoint, job, 2, answer="<b>out of order</b>", duration_ms=1234, event_type="job.succeeded")
    page = support_client.get(page_of(endpoint))
    assert f"job.succeeded {job}-2 1 failed 500 1,234 ms" in text_of(page)
    assert "Make a new secret" not in text_of(page)
    response = support_client.get(f"/admin/webhooks/attempt/{failed.pk}/change/")
    text = text_of(response)
    assert f"webhook-id {job}-2 webhook-timestamp {int(failed.at.timestamp())}" in text
    assert b"&lt;b&gt;out of order&lt;/b&gt;" in response.content
    assert "timestamp" in text
    assert "job.succeeded" in text
    assert "s3://" not in text
    [entry] = AuditEntry.objects.filter(action=AuditAction.JOB_VIEWED)  # it shows what the job's page shows
    assert (entry.tenant_slug, entry.subject) == (endpoint.tenant.slug, str(job.pk))
    assert f"{job}-2" in text_of(support_client.get("/admin/webhooks/attempt/"))


def test_the_body_of_an_event_that_is_gone_cannot_be_shown(support_client, endpoint, job):
    gone = attempt(endpoint, job, 9)
    test = Attempt.objects.create(
        endpoint=endpoint, at=timezone.now(), event_type="webhook.test", number=0, outcome="failed", duration_ms=1
    )
    for each in (gone, test):
        text = text_of(support_client.get(f"/admin/webhooks/attempt/{each.pk}/change/"))
        assert "The event is no longer in the store, or this was a test." in text
        assert "Send this event again" not in text


def test_support_sends_again_one_event_or_all_that_failed(support_client, endpoint, job):
    failed = attempt(endpoint, job, 1)
    attempt(endpoint, job, 2)
    attempt(endpoint, job, 2, "delivered")
    assert support_client.post(f"/admin/webhooks/attempt/{failed.pk}/redeliver/").status_code == 302
    assert list(Redelivery.objects.values_list("job", "seq")) == [(job.pk, 1)]
    Redelivery.objects.all().delete()
    hour_ago = timezone.now() - timedelta(hours=1)
    response = support_client.post(
        page_of(endpoint, "redeliver-failed"), {"since": f"{hour_ago:%Y-%m-%dT%H:%M}"}, follow=True
    )
    assert "1 event that failed since then will be sent again" in text_of(response)
    assert list(Redelivery.objects.values_list("job", "seq")) == [(job.pk, 1)]
    response = support_client.post(page_of(endpoint, "redeliver-failed"), {"since": "soon"}, follow=True)
    assert "Name the time" in text_of(response)
    assert entries() == [
        ("sam", "webhook_resent", f"{job}-1"),
        ("sam", "webhook_resent", str(endpoint)),
    ]


def test_a_test_event_says_what_the_receiver_answered(support_client, acme):
    endpoint, _ = endpoints.create(acme, "http://10.0.0.1:1/")
    Endpoint.objects.update(url="https://127.0.0.1:1/")
    text = text_of(support_client.post(page_of(endpoint, "test"), follow=True))
    assert "The receiver did not accept the test event" in text
    assert "not a public address" in text
    assert entries() == [("sam", "webhook_tested", str(endpoint))]


def test_a_superuser_adds_an_endpoint_and_sees_its_secret_once(admin_client, acme):
    response = admin_client.post(
        "/admin/webhooks/endpoint/add/", {"tenant": "acme", "url": URL, "event_types": "failed, succeeded,failed"}
    )
    endpoint = Endpoint.objects.get()
    assert (endpoint.tenant, endpoint.url, endpoint.event_types) == (acme, URL, ["failed", "succeeded"])
    secret = signing.decrypt(endpoint.secrets.get().encrypted)
    assert secret in response.content.decode()
    assert "no-store" in response.headers["Cache-Control"]
    assert secret not in admin_client.get(page_of(endpoint)).content.decode()
    assert entries() == [("admin", "webhook_added", str(endpoint))]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"tenant": "nobody", "url": URL}, "There is no tenant with this slug."),
        ({"tenant": "acme", "url": "https://127.0.0.1/"}, "127.0.0.1 is not a public address."),
        ({"tenant": "acme", "url": URL, "event_types": "x" * 51}, "An event type has 1 to 50 characters"),
    ],
)
def test_a_wrong_endpoint_is_refused_with_a_reason(admin_client, acme, given, reason):
    assert reason in text_of(admin_client.post("/admin/webhooks/endpoint/add/", given))
    assert not Endpoint.objects.exists()


def test_a_sixth_endpoint_is_refused(admin_client, acme):
    for _ in range(5):
        endpoints.create(acme, URL)
    response = admin_client.post("/admin/webhooks/endpoint/add/", {"tenant": "acme", "url": URL})
    assert "Tenant acme has 5 endpoints" in text_of(response)


def test_a_superuser_changes_disables_enables_rotates_and_deletes(admin_client, endpoint, job):
    # What a worker writes meanwhile stays.
    Endpoint.objects.update(position=7, lease_owner="worker")
    admin_client.post(page_of(endpoint), {"url": "https://other.example/", "event_types": "failed"})
    endpoint.refresh_from_db()
    assert (endpoint.url, endpoint.event_types, endpoint.position) == ("https://other.example/", ["failed"], 7)
    assert endpoint.lease_owner == "worker"
    admin_client.post(page_of(endpoint, "disable"))
    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.disabled_reason) == (False, "Disabled in the console by admin.")
    admin_client.post(page_of(endpoint, "enable"), {"from_now": "1"})
    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.position) == (True, 2)
    assert "whsec_" in admin_client.post(page_of(endpoint, "rotate")).content.decode()
    assert endpoint.secrets.count() == 2
    assert f"webhook endpoint {endpoint.pk}" in text_of(admin_client.get(page_of(endpoint, "delete")))
    admin_client.post(page_of(endpoint, "delete"), {"post": "yes"})
    assert not Endpoint.objects.exists()
    acts = [action for _, action, _ in entries()]
    assert acts == [*["webhook_changed"] * 4, "webhook_removed"]


@pytest.mark.parametrize("act", ["add", "change", "disable", "enable", "rotate", "delete"])
def test_support_changes_nothing(support_client, acme, endpoint, act):
    before = list(Endpoint.objects.values())
    address = "/admin/webhooks/endpoint/add/" if act == "add" else page_of(endpoint, act)
    given = {"tenant": "acme", "url": "https://other.example/", "post": "yes"}
    assert support_client.post(address, given).status_code == 403
    assert list(Endpoint.objects.values()) == before
    assert entries() == []


@pytest.mark.parametrize("act", ["test", "redeliver-failed", "disable", "enable", "rotate"])
def test_nothing_is_changed_by_a_get(admin_client, endpoint, act):
    assert admin_client.get(page_of(endpoint, act)).status_code == 405


def test_an_endpoint_that_does_not_exist_is_a_redirect_or_404(admin_client):
    assert admin_client.get("/admin/webhooks/endpoint/77/change/").status_code == 302
    assert admin_client.get("/admin/webhooks/attempt/77/change/").status_code == 302
    assert admin_client.post("/admin/webhooks/endpoint/77/test/").status_code == 404
    assert admin_client.post("/admin/webhooks/attempt/77/redeliver/").status_code == 404
