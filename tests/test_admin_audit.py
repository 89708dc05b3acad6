"""What the console keeps of who did what."""

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


def test_every_view_of_a_jobs_page_leaves_an_entry(support_client, admin_client, job, job_page):
    support_client.get(job_page)
    admin_client.get(job_page)
    job_id = str(job.public_id)
    assert entries() == [("sam", AuditAction.JOB_VIEWED, job_id, ""), ("admin", AuditAction.JOB_VIEWED, job_id, "")]


def test_a_view_that_was_refused_leaves_none(client, django_user_model, job_page):
    client.force_login(django_user_model.objects.create_user("new", is_staff=True))
    assert client.get(job_page).status_code == 403
    assert entries() == []


def test_what_an_open_page_reads_anew_is_not_read_without_having_opened_it(support_client, admin_client, job, job_page):
    timeline = f"/admin/jobs/job/{job.public_id}/timeline/"
    admin_client.get(job_page)
    assert support_client.get(timeline).status_code == 404
    support_client.get(job_page)
    assert support_client.get(timeline).status_code == 200


def test_entries_are_written_for_the_ticket_that_was_set_until_it_is_changed(support_client, acme_token, job, job_page):
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
def test_setting_a_ticket_leads_nowhere_else(support_client, elsewhere):
    response = support_client.post("/admin/jobs/auditentry/ticket/", {"ticket": "SUP-1", "next": elsewhere})
    assert response.url == "/admin/"


def test_a_ticket_that_is_too_long_is_refused_and_the_one_before_stays(support_client):
    address = "/admin/jobs/auditentry/ticket/"
    support_client.post(address, {"ticket": "SUP-1"})
    page = support_client.post(address, {"ticket": "x" * 65}, follow=True).content.decode()
    assert "at most 64 characters" in page
    assert 'value="SUP-1"' in page


@pytest.mark.parametrize("by", ["job", "ticket", "tenant", "user"])
def test_entries_are_listed_and_found_by_what_they_name(
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


def test_entries_are_narrowed_by_what_was_done(support_client, acme_token, job_page):
    support_client.get(job_page)
    support_client.post(f"/admin/tenants/apitoken/{ApiToken.objects.get().pk}/revoke/")
    response = support_client.get("/admin/jobs/auditentry/?action=token_revoked")
    assert [entry.action for entry in response.context["cl"].result_list] == [AuditAction.TOKEN_REVOKED]


def test_an_entry_outlives_what_it_names(support_client, acme, job, job_page):
    job_id = str(job.public_id)
    support_client.get(job_page)
    job.delete()
    acme.delete()
    assert entries() == [("sam", AuditAction.JOB_VIEWED, job_id, "")]
    assert support_client.get("/admin/jobs/auditentry/").status_code == 200


def test_who_has_entries_cannot_be_deleted_only_switched_off(support_client, job_page):
    support_client.get(job_page)
    with pytest.raises(ProtectedError):
        User.objects.get(username="sam").delete()


def test_home_leads_back_to_the_jobs_one_looked_at(support_client, job, job_page):
    support_client.get(job_page)
    support_client.get(job_page)
    assert support_client.get("/admin/").content.decode().count(f'href="{job_page}"') == 1
