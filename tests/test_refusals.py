"""Refused requests are counted by tenant, and shown on the tenant's page."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from tenants import refusals, tokens
from tenants.models import ApiToken, Refusal, Tenant
from tenants.refusals import RefusalKey, refusal_log
from tests.client import Client
from tests.gateway import database_of_this_test, serving
from tests.test_admin_jobs import visible_text


@pytest.fixture
def recorded(db, settings, monkeypatch):
    """Refusals are recorded, and written when the test says so: not by the thread, whose connection is another."""
    settings.RECORD_REFUSALS = True
    monkeypatch.setattr(refusal_log, "_writer", threading.main_thread())  # which is alive: no other is started
    refusal_log.flush()
    Refusal.objects.all().delete()

    def written():
        refusal_log.flush()
        rows = Refusal.objects.order_by("tenant__slug", "route", "status", "reason")
        return [(row.tenant.slug, row.route, row.status, row.reason, row.token_prefix, row.times) for row in rows]

    return written


def client_of(token):
    return Client(headers={"Authorization": f"Bearer {token}"})


def test_equal_refusals_of_a_tenant_are_one_row(recorded, acme, globex, job_of):
    good, revoked, expired = (tokens.issue(acme) for _ in range(3))
    prefixes = [token.split("_")[1] for token in (good, revoked, expired)]
    tokens.revoke(prefixes[1])
    ApiToken.objects.filter(prefix=prefixes[2]).update(expires_at=timezone.now() - timedelta(days=1))
    theirs = job_of(globex)
    for _ in range(3):
        assert client_of(revoked).get("/v1/jobs").status_code == 401
    assert client_of(expired).get("/job").status_code == 401
    wrong_secret = f"jgw_{prefixes[0]}_{'x' * 43}"
    assert client_of(wrong_secret).get("/v1/jobs").status_code == 401
    assert client_of(good).get(f"/v1/jobs/{theirs.public_id}").status_code == 404
    assert client_of(good).get("/v1/jobs?limit=0").status_code == 422
    assert client_of(good).get("/v1/jobs").status_code == 200
    expected = [
        ("acme", "job", 401, "expired", prefixes[2], 1),
        ("acme", "v1/jobs", 401, "revoked", prefixes[1], 3),
        ("acme", "v1/jobs", 401, "unknown", prefixes[0], 1),
        ("acme", "v1/jobs", 422, "", prefixes[0], 1),
        ("acme", "v1/jobs/<str:public_id>", 404, "", prefixes[0], 1),
    ]
    assert recorded() == expected
    client_of(revoked).get("/v1/jobs")
    assert recorded()[1][-1] == 4


def test_a_refusal_of_nobody_is_not_kept(recorded, acme):
    unknown = f"jgw_{'z' * 12}_{'x' * 43}"
    for client in (Client(), client_of(unknown), client_of("jgw_short"), client_of("eyJ.x.y")):
        assert client.get("/v1/jobs").status_code == 401
    assert Client().get("/nowhere").status_code == 404
    assert recorded() == []


def test_a_flood_holds_a_bounded_number_of_refusals(recorded, acme, monkeypatch):
    monkeypatch.setattr(refusals, "MAX_HELD", 3)
    for n in range(10):
        for _ in range(5):
            refusal_log.note(RefusalKey(acme.pk, f"route {n}", 401, "unknown", ""))
    assert [(row[1], row[-1]) for row in recorded()] == [(f"route {n}", 5) for n in range(3)]


def test_a_refusal_of_an_erased_tenant_is_dropped(recorded, acme, globex):
    refusal_log.note(RefusalKey(globex.pk, "job", 401, "revoked", ""))
    Refusal.objects.create(
        tenant=acme, route="job", status=401, reason="", times=1, first_at=timezone.now(), last_at=timezone.now()
    )
    Tenant.objects.all().delete()
    assert not Refusal.objects.exists()


def test_the_page_of_a_tenant_says_why_its_token_is_refused(support_client, recorded, acme, globex):
    address = f"/admin/tenants/tenant/{acme.pk}/change/"
    assert "belongs to no tenant" in support_client.get(address).content.decode()
    token = tokens.issue(acme)
    tokens.revoke(token.split("_")[1])
    for _ in range(2):
        client_of(token).get("/v1/jobs")
    client_of(tokens.issue(globex)).get("/v1/jobs?limit=0")
    recorded()
    page = support_client.get(address).content.decode()
    panel = visible_text(page.split('id="refusals-title"')[1].split("</section>")[0])
    assert f"/v1/jobs 401 the token is revoked jgw_{token.split('_')[1]}_… 2" in panel
    assert "422" not in panel
    assert token not in page


@pytest.mark.full_on_postgresql  # the tests above write there too
@pytest.mark.django_db(transaction=True)
def test_workers_write_refusals_and_remove_old_ones(acme):
    token = tokens.issue(acme)
    tokens.revoke(token.split("_")[1])
    old = timezone.now() - timedelta(days=31)
    Refusal.objects.create(tenant=acme, route="job", status=401, reason="", times=1, first_at=old, last_at=old)
    with serving(database_of_this_test(), workers=2, RECORD_REFUSALS="1") as gateway:
        for _ in range(20):
            assert gateway.get("/v1/jobs", token).status == 401

        give_up_at = time.monotonic() + 60
        while list(Refusal.objects.values_list("route", "times")) != [("v1/jobs", 20)]:
            assert time.monotonic() < give_up_at, list(Refusal.objects.values())
            time.sleep(0.1)
