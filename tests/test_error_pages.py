"""Errors of the console are pages with a way back for a browser, and text for any other client.

``tests/test_outage.py`` and ``tests/test_nginx.py`` have those of a gateway without its database, and of nginx alone.
"""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from tests.client import Client

HTML = {"Accept": "text/html,application/xhtml+xml"}


def is_page(response, status, text):
    page = response.content.decode()
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/html")
    assert text in page
    assert '<a href="/admin/">Back to the console</a>' in page
    assert "/static/gateway/error" in page
    assert (
        "style-src 'self'" in response.headers["Content-Security-Policy"]
        or "default-src 'self'" in (response.headers["Content-Security-Policy"])
    )
    return True


def test_403_and_404_are_pages_with_a_way_back(support_client, db):
    staff = Client()
    staff.force_login(User.objects.create_user("new", is_staff=True))
    assert is_page(staff.get("/admin/jobs/job/", headers=HTML), 403, "You may not see this page")
    assert is_page(support_client.get("/admin/nothing/", headers=HTML), 404, "There is no such page")
    assert is_page(support_client.get("/nothing", headers=HTML), 404, "There is no such page")
    assert is_page(
        support_client.get("/admin/jobs/job/?tenant__slug=a", headers=HTML), 400, "This request cannot be read"
    )


def test_a_form_without_its_cookie_is_a_page_with_a_way_back(sam):
    client = Client(enforce_csrf_checks=True)
    assert is_page(client.post("/admin/login/", {"username": "sam"}, headers=HTML), 403, "This form has expired")


@pytest.mark.parametrize("headers", [HTML, {}], ids=["browser", "other"])
def test_429_is_a_page_for_a_browser_and_text_for_others(sam, settings, headers):
    settings.RATE_LIMIT_FAILED_PER_ADDRESS = 1
    form = {"username": "sam", "password": "wrong"}
    client = Client()
    responses = [client.post("/admin/login/", form, headers=headers) for _ in range(3)]
    assert responses[-1].headers["Retry-After"].isdigit()
    if headers:
        assert is_page(responses[-1], 429, "Too many attempts")
    else:
        assert responses[-1].status_code == 429
        assert responses[-1].headers["Content-Type"] == "text/plain; charset=utf-8"
