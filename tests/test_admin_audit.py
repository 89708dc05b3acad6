"""Audit entries of the console."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db.models import ProtectedError

from jobs.models import AuditAction, AuditEntry
from tenants.models import ApiToken


@pytest.fixture
def job(acme, job_of):
    return job_of(acme)


@pytest.fixture
def job_page(job):
    return f"/admin/jobs/job/{job.public_id}/change/"


def entries():
    return list(AuditEntry.objects.order_by("pk").values_list("actor__username", "action", "subject", "ticket"))


def test_every_view_of_a_job_page_writes_an_audit_entry(support_client, admin_client, job, job_page):
    support_client.get(job_page)
    admin_client.get(job_page)
    job_id = str(job.public_id)
    assert entries() == [("sam", AuditAction.JOB_VIEWED, job_id, ""), ("admin", AuditAction.JOB_VIEWED, job_id, "")]


def test_a_forbidden_request_writes_no_audit_entry(client, django_user_model, job_page):
    client.force_login(django_user_model.objects.create_user("new", is_staff=True))
    assert client.get(job_page).status_code == 403
    assert entries() == []


def test_a_timeline_is_404_for_a_user_who_has_not_opened_the_page(support_client, admin_client, job, job_page):
    timeline = f"/admin/jobs/job/{job.public_id}/timeline/"
    admin_client.get(job_page)
    assert support_client.get(timeline).status_code == 404
    support_client.get(job_page)
    assert support_client.get(timeline).status_code == 200


def test_audit_entries_name_the_ticket_until_it_is_changed(support_client, acme_token, job, job_page):
    token, ticket = ApiToken.objects.get(), "/admin/jobs/auditentry/ticket/"
    response = support_client.post(ticket, {"ticket": "SUP-123", "next": job_page}, follow=True)
    assert response.redirect_chain == [(job_page, 302)]
    assert 'value="SUP-123"' in response.content.decode()
    support_client.post(f"/admin/tenants/apitoken/{token.pk}/revoke/")
    support_client.post(ticket, {"ticket": ""})
    support_client.get(job_page)
    assert [entry[1:] for entry in entries()] == [
        (AuditAction.JOB_VIEWED, str(job.public_id), "SUP-123"),
        (AuditAction.TOKEN_REVOKED, token.prefix, "SUP-123"),
        (AuditAction.JOB_VIEWED, str(job.public_id), ""),
    ]


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_setting_a_ticket_does_not_redirect_to_another_site(support_client, elsewhere):
    response = support_client.post("/admin/jobs/auditentry/ticket/", {"ticket": "SUP-1", "next": elsewhere})
    assert response.url == "/admin/"


def test_a_ticket_that_is_too_long_is_an_error_and_the_previous_one_is_kept(support_client):
    address = "/admin/jobs/auditentry/ticket/"
    support_client.post(address, {"ticket": "SUP-1"})
    page = support_client.post(address, {"ticket": "x" * 65}, follow=True).content.decode()
    assert "at most 64 characters" in page
    assert 'value="SUP-1"' in page


@pytest.mark.parametrize("by", ["job", "ticket", "tenant", "user"])
def test_audit_entries_are_found_by_job_ticket_tenant_and_user(
    support_client, admin_client, acme, globex, job_of, job, job_page, by
):
    support_client.post("/admin/jobs/auditentry/ticket/", {"ticket": "SUP-1"})
    support_client.get(job_page)
    admin_client.get(f"/admin/jobs/job/{job_of(globex).public_id}/change/")
    term = {"job": str(job.public_id.to_uuid()), "ticket": "SUP-1", "tenant": "acme", "user": "sam"}[by]
    response = support_client.get("/admin/jobs/auditentry/", {"q": term})
    assert [entry.subject for entry in response.context["cl"].result_list] == [str(job.public_id)]
    assert job_page in response.content.decode()
    everything = support_client.get("/admin/jobs/auditentry/").context["cl"].result_list
    assert [entry.tenant_slug for entry in everything] == ["globex", "acme"]


def test_audit_entries_are_filtered_by_action(support_client, acme_token, job_page):
    support_client.get(job_page)
    support_client.post(f"/admin/tenants/apitoken/{ApiToken.objects.get().pk}/revoke/")
    response = support_client.get("/admin/jobs/auditentry/?action=token_revoked")
    assert [entry.action for entry in response.context["cl"].result_list] == [AuditAction.TOKEN_REVOKED]


def test_an_audit_entry_is_kept_when_its_job_and_tenant_are_deleted(support_client, acme, job, job_page):
    job_id = str(job.public_id)
    support_client.get(job_page)
    job.delete()
    acme.delete()
    assert entries() == [("sam", AuditAction.JOB_VIEWED, job_id, "")]
    assert support_client.get("/admin/jobs/auditentry/").status_code == 200


def test_a_user_with_audit_entries_cannot_be_deleted(support_client, job_page):
    support_client.get(job_page)
    with pytest.raises(ProtectedError):
        User.objects.get(username="sam").delete()


def test_the_home_page_links_to_jobs_that_the_user_viewed(support_client, job, job_page):
    support_client.get(job_page)
    support_client.get(job_page)
    assert support_client.get("/admin/").content.decode().count(f'href="{job_page}"') == 1
