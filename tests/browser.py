"""The browser of tests, and the console in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from jobs.models import Artifact, Job, JobStatus
from tenants.models import ApiToken, Tenant
from tests.client import Client

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

# Long, because pages can be slow on a busy machine.
TIMEOUT_MS = 60_000


def log_in(context: BrowserContext, name: str, by_form: bool = False) -> Page:
    """The home page of the console, after a login by the form or with a session that exists, which saves two pages."""
    page = context.new_page()
    if not by_form:
        client = Client()
        client.force_login(User.objects.get(username=name))
        cookie = settings.SESSION_COOKIE_NAME
        context.add_cookies(
            [{"name": cookie, "value": client.cookies[cookie].value, "domain": "localhost", "path": "/"}]
        )
    page.goto("/admin/")
    if by_form:
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password").fill(name if name == "sam" else "password")
        page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="What needs attention")).to_be_visible()
    return page


@contextlib.contextmanager
def watched_page(browser: Any) -> Iterator[Any]:
    """A page with cookies of its own, what it asked for and what it complained of."""
    context = browser.new_context()
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    context.close()


def failed_job(tenant: Tenant) -> Job:
    """A workflow job that failed and has artifacts."""
    failed = Job.all_tenants.filter(tenant=tenant, status=JobStatus.FAILURE, is_operation=False)
    return failed.filter(pk__in=Artifact.all_tenants.values("job")).newest_first()[0]


def console_pages(tenant: Tenant) -> dict[str, str]:
    """The addresses of the console's pages by name; ``tenant`` has the demo jobs and a token."""
    operation = Job.all_tenants.filter(tenant=tenant, status=JobStatus.PARTIAL_FAILURE)[0]
    done = Job.all_tenants.filter(tenant=tenant, status=JobStatus.SUCCESS, is_workflow=True)[0]
    token = ApiToken.objects.filter(tenant=tenant)[0]
    return {
        "home": "/admin/",
        "jobs": "/admin/jobs/job/",
        "job-failed": f"/admin/jobs/job/{failed_job(tenant).public_id}/change/",
        "job-done": f"/admin/jobs/job/{done.public_id}/change/",
        "job-agents": f"/admin/jobs/job/{operation.public_id}/change/",
        "tenants": "/admin/tenants/tenant/",
        "tenant": f"/admin/tenants/tenant/{tenant.pk}/change/",
        "token-issue": f"/admin/tenants/tenant/{tenant.pk}/issue-token/",
        "tokens": "/admin/tenants/apitoken/",
        "token-revoke": f"/admin/tenants/apitoken/{token.pk}/revoke/",
        "audit": "/admin/jobs/auditentry/",
    }
