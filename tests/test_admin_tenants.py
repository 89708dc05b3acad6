"""Tenants and API tokens in the console."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta

import pytest
from django.utils import timezone

from jobs.ingest import ledger
from jobs.models import AuditAction, AuditEntry, JobCounts
from tenants import tokens
from tenants.models import ApiToken, Tenant
from tests.client import Client

TOKEN_FORM = {"label": "storefront", "expires_at": ""}


def audit_entries():
    return list(
        AuditEntry.objects.order_by("pk").values_list("actor__username", "action", "tenant_slug", "subject", "ticket")
    )


def api_status(token):
    return Client(headers={"Authorization": f"Bearer {token}"}).get("/v1/jobs").status_code


@pytest.fixture
def tenant_page(acme):
    return f"/admin/tenants/tenant/{acme.pk}/change/"


def test_the_page_of_a_tenant_shows_its_jobs_by_status_and_by_day(support_client, acme, globex, tenant_page):
    for end in (ledger.finish, ledger.finish, ledger.fail):
        end(ledger.open_job(acme, "MODEL_GENERATOR"), "The end")
    ledger.open_job(globex, "MODEL_GENERATOR")
    response = support_client.get(tenant_page)
    rows = response.context["statuses"]["rows"]
    assert {row["status"].value: row["jobs"] for row in rows} == {
        "NOT_STARTED": 0,
        "IN_PROGRESS": 0,
        "SUCCESS": 2,
        "FAILURE": 1,
        "PARTIAL_FAILURE": 0,
    }
    bars = response.context["days"]["bars"]
    assert len(bars) == 14
    assert bars[-1].title.endswith(": 3 jobs, 1 failed")
    assert (bars[-1].height, bars[-1].failed_height) == (120, 40)
    assert {bar.height for bar in bars[:-1]} == {0}
    listed = support_client.get(bars[-1].link).context["cl"].result_list
    assert len(listed) == 3
    other_page = support_client.get(f"/admin/tenants/tenant/{globex.pk}/change/")
    assert other_page.context["days"]["bars"][-1].title.endswith(": 1 job, 0 failed")
    assert 'aria-label="1 job: ' in other_page.content.decode()


def test_a_day_with_more_jobs_than_the_limit_shows_more_than(support_client, acme, tenant_page, monkeypatch):
    monkeypatch.setattr("jobs.admin.charts.MAX_COUNTED", 2)
    for _ in range(4):
        ledger.open_job(acme, "MODEL_GENERATOR")
    bars = support_client.get(tenant_page).context["days"]["bars"]
    assert bars[-1].title.endswith(": more than 2 jobs, 0 failed")


def test_lists_of_tokens_show_neither_token_nor_hash(support_client, acme, acme_token, tenant_page):
    prefix = acme_token.split("_")[1]
    token = ApiToken.objects.get()
    for address in (tenant_page, "/admin/tenants/apitoken/", f"/admin/tenants/apitoken/{token.pk}/change/"):
        page = support_client.get(address).content.decode()
        assert f"jgw_{prefix}_…" in page
        assert acme_token not in page
        assert hashlib.sha256(acme_token.encode()).hexdigest() not in page


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (None, "never"),
        (timedelta(minutes=1), "within the last hour"),
        (timedelta(minutes=59), "within the last hour"),
        (timedelta(minutes=61), "within the last 2 hours"),
        (timedelta(days=3), "3 d ago"),
    ],
)
def test_the_last_use_of_a_token_is_shown_to_the_hour(support_client, acme_token, tenant_page, age, text):
    ApiToken.objects.update(last_used_at=None if age is None else timezone.now() - age)
    for url in (
        tenant_page,
        "/admin/tenants/apitoken/",
        f"/admin/tenants/apitoken/{ApiToken.objects.get().pk}/revoke/",
    ):
        assert text in support_client.get(url).content.decode(), url


def test_the_list_of_tokens_cannot_be_filtered_by_hash(support_client, acme_token):
    assert support_client.get("/admin/tenants/apitoken/?token_hash__startswith=a").status_code == 400


def test_a_search_for_a_whole_token_finds_it(support_client, acme, acme_token, globex):
    tokens.issue(globex)
    response = support_client.get("/admin/tenants/apitoken/", {"q": acme_token})
    assert [token.tenant for token in response.context["cl"].result_list] == [acme]


def test_an_issued_token_is_shown_once_and_is_valid(admin_client, acme, tenant_page):
    response = admin_client.post(f"/admin/tenants/tenant/{acme.pk}/issue-token/", TOKEN_FORM)
    token = response.context["token"]
    assert tokens.TOKEN.fullmatch(token)
    assert token in response.content.decode()
    assert "no-store" in response.headers["Cache-Control"]
    assert api_status(token) == 200
    secret = token.split("_", 2)[2]
    for address in (tenant_page, "/admin/tenants/apitoken/", "/admin/jobs/auditentry/", "/admin/"):
        assert secret not in admin_client.get(address).content.decode()
    assert audit_entries() == [("admin", AuditAction.TOKEN_ISSUED, "acme", token.split("_")[1], "")]


def test_the_expiry_of_a_token_must_be_in_the_future(admin_client, acme):
    address = f"/admin/tenants/tenant/{acme.pk}/issue-token/"
    soon = (timezone.now() + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M")
    admin_client.post(address, {"label": "a month", "expires_at": soon})
    assert ApiToken.objects.get().expires_at.strftime("%Y-%m-%dT%H:%M") == soon
    refused = admin_client.post(address, {"label": "", "expires_at": "2020-01-01T00:00"})
    assert "This time is in the past" in refused.content.decode()
    assert ApiToken.objects.count() == 1


def test_revoking_a_token_asks_for_confirmation_and_makes_it_invalid(support_client, acme, acme_token, tenant_page):
    token = ApiToken.objects.get()
    address = f"/admin/tenants/apitoken/{token.pk}/revoke/"
    assert f'href="{address}"' in support_client.get(tenant_page).content.decode()
    asked = support_client.get(address).content.decode()
    assert "This cannot be undone" in asked
    assert api_status(acme_token) == 200
    response = support_client.post(address, follow=True)
    assert response.redirect_chain == [(tenant_page, 302)]
    assert "was revoked. The API now rejects it." in response.content.decode()
    assert api_status(acme_token) == 401
    assert f'href="{address}"' not in response.content.decode()
    assert audit_entries() == [("sam", AuditAction.TOKEN_REVOKED, "acme", token.prefix, "")]


def test_revoking_a_token_twice_writes_one_audit_entry(support_client, acme_token):
    token = ApiToken.objects.get()
    for _ in range(2):
        support_client.post(f"/admin/tenants/apitoken/{token.pk}/revoke/")
    assert len(audit_entries()) == 1


def test_a_superuser_can_deactivate_a_tenant_and_its_tokens_become_invalid(admin_client, acme, acme_token, tenant_page):
    admin_client.post(tenant_page, {"name": "Acme", "shop_domain": "acme.myshopify.com"})
    acme.refresh_from_db()
    assert not acme.is_active
    assert api_status(acme_token) == 401
    assert audit_entries() == [("admin", AuditAction.TENANT_CHANGED, "acme", "", "")]


def test_a_tenants_slug_and_folder_stay_as_they_are(admin_client, acme, tenant_page):
    admin_client.post(tenant_page, {"slug": "other", "storage_prefix": "", "name": "New name", "is_active": "on"})
    acme.refresh_from_db()
    assert (acme.slug, acme.storage_prefix, acme.name) == ("acme", "tenants/acme/", "New name")


def test_a_new_tenant_has_a_default_storage_prefix(admin_client):
    address = "/admin/tenants/tenant/add/"
    admin_client.post(address, {"slug": "initech", "storage_prefix": "", "is_active": "on"})
    admin_client.post(address, {"slug": "hooli", "storage_prefix": "old/hooli/", "is_active": "on"})
    overlapping = admin_client.post(address, {"slug": "evil", "storage_prefix": "tenants/", "is_active": "on"})
    assert "overlaps" in overlapping.content.decode()
    assert dict(Tenant.objects.values_list("slug", "storage_prefix")) == {
        "initech": "tenants/initech/",
        "hooli": "old/hooli/",
    }
    assert [entry[1:3] for entry in audit_entries()] == [
        (AuditAction.TENANT_ADDED, "initech"),
        (AuditAction.TENANT_ADDED, "hooli"),
    ]


def test_support_sees_the_fields_of_a_tenant_read_only(support_client, tenant_page):
    page = support_client.get(tenant_page).content.decode()
    assert "acme.myshopify.com" in page
    assert "issue-token" not in page
    assert not re.findall(r'<input[^>]*name="(?:name|shop_domain|is_active|_save)"', page)


def test_support_sees_labels_without_help_texts(support_client, admin_client, tenant_page):
    for client, has_help in ((support_client, False), (admin_client, True)):
        page = client.get(tenant_page).content.decode()
        assert "Is active" not in page
        assert "Active" in page
        assert ("Such as acme.myshopify.com" in page) == has_help
    assert "Is active" not in support_client.get("/admin/tenants/tenant/").content.decode()


def test_large_counts_are_shown_with_separators(support_client, acme, tenant_page):
    JobCounts.all_tenants.update_or_create(tenant=acme, defaults={"success": 20_000})
    assert ">20,000</a>" in support_client.get(tenant_page).content.decode()


def test_a_tenant_or_token_that_does_not_exist_is_a_redirect_or_404(support_client):
    assert support_client.get("/admin/tenants/tenant/999/change/").status_code == 302
    assert support_client.get("/admin/tenants/apitoken/999/revoke/").status_code == 404
    assert support_client.get("/admin/tenants/apitoken/999/change/").status_code == 302
