"""Security test 12: the search of all responses and log lines finds secrets.

That nothing does is held by every other test, in its tear-down: see ``no_leaks`` in conftest.py.
"""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path

from jobs.api import tenant_renderer
from jobs.api.errors import V1
from tests import leak_checks
from tests.gateway import ROOT
from tests.leak_checks import Leak, watch

PICTURE = {"storage_key": "tenants/acme/front.png", "kind": "render", "role": "final"}


@pytest.fixture
def leaks():
    """Looks now, so that what a test made leave on purpose does not fail it at its end."""

    def look():
        with pytest.raises(Leak) as found:
            watch.check()
        return str(found.value)

    return look


@pytest.fixture
def job(acme, job_of):
    event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:00Z", "artifacts": [PICTURE]}
    return job_of(acme, request={"see": PICTURE["storage_key"]}, events=[event])


def test_what_an_answer_should_hold_is_no_leak(job, acme_client):
    picture = acme_client.get(f"/v1/jobs/{job}").json()["result"][0]
    acme_client.get(f"/v1/jobs/{job}/events")
    acme_client.get("/job")
    assert "tenants/acme/front.png" in picture["image_url"]
    assert {"tenants/acme/front.png", picture["image_url"].rpartition("signature=")[2]} <= watch.in_links_only
    before = watch.searched
    watch.check()
    assert watch.searched - before >= 3


@pytest.mark.parametrize("tail", ["", "/events"])
def test_a_storage_key_in_an_answer_is_seen(job, acme_client, monkeypatch, leaks, tail, acme, job_of):
    as_it_is = SimpleNamespace(
        redact_text=lambda text: text, redact_value=lambda value: value, is_clean=lambda *_: False
    )
    monkeypatch.setattr(tenant_renderer, "redactor", lambda *_: as_it_is)
    if tail:
        event = {"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z", "message": "tenants/acme/x"}
        job = job_of(acme, events=[event], artifacts=[PICTURE | {"storage_key": "tenants/acme/x"}])
    acme_client.get(f"/v1/jobs/{job}{tail}")
    assert "outside a link" in leaks()


def test_a_signature_outside_a_link_is_seen(job, acme_client, leaks):
    link = acme_client.get(f"/v1/jobs/{job}").json()["result"][0]["image_url"]
    watch.record("a page", f"the signature is {link.rpartition('signature=')[2]}")
    assert "a page holds" in leaks()


def test_a_token_in_an_error_is_seen(acme_token, acme_client, monkeypatch, leaks):
    def telling(problem):
        return {"code": problem.code, "detail": acme_token}

    monkeypatch.setattr("jobs.api.errors.V1", V1._replace(body=telling))
    acme_client.get("/v1/nothing")
    assert "the answer to /v1/nothing holds a secret" in leaks()


@pytest.mark.parametrize("level", ["warning", "error", "exception"])
def test_a_secret_in_the_log_is_seen(level, leaks):
    getattr(logging.getLogger("jobs.errors"), level)("cannot sign with %s", settings.SECRET_KEY)
    assert "the log of jobs.errors holds a secret" in leaks()


def test_the_log_scrubs_what_looks_like_a_token_itself(acme_token):
    logging.getLogger("jobs.errors").error("a caller sent %s", acme_token)
    watch.check()


def page_with_the_secret_key(request):
    return HttpResponse(settings.SECRET_KEY)


urlpatterns = [path("telling", page_with_the_secret_key)]


@override_settings(ROOT_URLCONF=__name__)
def test_pages_are_watched_too(client, leaks):
    assert client.get("/telling").status_code == 200
    assert "the answer to /telling holds a secret" in leaks()


def test_every_file_that_the_security_page_and_the_leak_checks_name_is_there():
    page = (ROOT / "docs" / "security.md").read_text()
    named = {f"tests/{name}" for name in re.findall(r"`(?:tests/)?(test_\w+\.py)`", page)}
    named |= set(re.findall(r"`((?:jobs|jobs_gateway|tenants|deploy)/[\w/.]+\.\w+)`", page))
    named |= {f"tests/{file}.py" for file in leak_checks.GROUP_OF}
    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
