"""Audit entries of what commands do."""

from __future__ import annotations

import os
import pwd
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from jobs.models import AuditEntry
from tenants.models import ApiToken, Tenant
from tests.test_admin_jobs import event

USER = pwd.getpwuid(os.getuid()).pw_name


def run(*arguments):
    call_command(*arguments, stdout=StringIO(), stderr=StringIO())


def entries():
    rows = AuditEntry.objects.order_by("pk")
    assert all(row.actor is None and row.system_user == USER for row in rows)
    return [(row.action, row.tenant_slug, row.subject, row.command) for row in rows]


def test_commands_of_tenants_and_tokens_leave_audit_entries(db):
    run("create_tenant", "acme")
    run("issue_token", "acme", "--label", "a secret label")
    prefix = ApiToken.objects.get().prefix
    run("revoke_token", f"jgw_{prefix}_{'x' * 43}")
    run("revoke_token", prefix)  # the second time it changes nothing
    assert entries() == [
        ("tenant_added", "acme", "", "create_tenant acme"),
        ("token_issued", "acme", prefix, "issue_token acme"),
        ("token_revoked", "acme", prefix, f"revoke_token jgw_{prefix}"),
    ]


def test_erasing_a_tenant_leaves_an_audit_entry(acme, job_of):
    job_of(acme)
    run("erase_tenant", "acme", "--dry-run")
    assert entries() == []
    run("erase_tenant", "acme", "--yes")
    assert entries() == [("tenant_erased", "acme", "", "python manage.py erase_tenant acme")]
    assert not Tenant.objects.exists()


def test_pruning_jobs_leaves_an_audit_entry(acme, job_of, tmp_path):
    job_of(acme, events=[event(1, "succeeded")])
    record = tmp_path / "pruned.ndjson"
    run("prune_jobs", "--older-than", "1d", "--record", str(record), "--dry-run")
    assert entries() == []
    run("prune_jobs", "--older-than", "1d", "--record", str(record))
    ((action, tenant, subject, command),) = entries()
    assert (action, tenant, subject) == ("jobs_pruned", "", "up to 1 job")
    assert command.startswith("python manage.py prune_jobs --older-than 1d --record ")
    run("prune_jobs", "--older-than", "1d", "--record", str(record), "--tenant", "acme")
    assert len(entries()) == 1  # nothing was left to remove


def test_an_act_that_fails_leaves_no_entry(acme):
    for arguments in (
        ["create_tenant", "acme"],
        ["issue_token", "acme", "--label", "x" * 201],
        ["revoke_token", "none"],
    ):
        with pytest.raises(CommandError):
            run(*arguments)
    assert entries() == []


def test_the_console_shows_user_and_command_and_finds_them(support_client, db):
    run("create_tenant", "acme")
    address = "/admin/jobs/auditentry/"
    for query in ({}, {"q": USER}, {"q": "acme"}, {"action": "tenant_added"}):
        page = support_client.get(address, query).content.decode()
        assert f"{USER} (system)" in page
        assert "create_tenant acme" in page
    entry = AuditEntry.objects.get()
    assert "create_tenant acme" in support_client.get(f"{address}{entry.pk}/change/").content.decode()
    assert str(entry).startswith(f"{USER} added a tenant")
