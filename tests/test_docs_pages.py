"""``/docs`` and ``/redoc``: the pages of the OpenAPI document load nothing from other hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from django.core.management import call_command
from django.urls import reverse

from tests.browser import needs_chromium
from tests.gateway import database_of_this_test, serving

pytestmark = pytest.mark.full_on_postgresql

PAGES = ("/docs", "/redoc")
SCHEMES = ("light", "dark")


class Page(HTMLParser):
    """What a page loads, and what is inline in it."""

    def __init__(self, response: Any) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.feed(response.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_files_of_the_gateway_and_has_nothing_inline(anonymous_client, path):
    response = anonymous_client.get(path)
    assert response.status_code == 200
    page = Page(response)
    assert page.inline == []
    assert len(page.loads) >= 4
    for url in page.loads:
        assert url.startswith("/static/")
        assert anonymous_client.get(url).status_code == 200, url
    assert f'data-document="{reverse("openapi")}"' in response.content.decode()


@pytest.mark.parametrize("path", PAGES)
def test_the_policy_allows_no_other_origin(anonymous_client, path):
    policy = anonymous_client.get(path).headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_pages_are_for_reading_only(anonymous_client):
    for path in PAGES:
        assert anonymous_client.head(path).status_code == 200
        assert anonymous_client.post(path).status_code == 405


def test_collected_files_get_names_of_their_content(anonymous_client, settings, tmp_path):
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}
    }
    call_command("collectstatic", interactive=False, verbosity=0)
    for path in PAGES:
        for url in Page(anonymous_client.get(path)).loads:
            assert re.search(r"\.[0-9a-f]{12}\.", url)
            assert (tmp_path / url.removeprefix("/static/")).exists()


@pytest.fixture(scope="module")
def address(django_db_setup: None) -> Iterator[str]:
    with serving(database_of_this_test()) as gateway:
        yield f"http://127.0.0.1:{gateway.port}"


@pytest.fixture
def served(address: str, transactional_db: None) -> str:
    """The address of a gateway that reads what this test has committed."""
    return address


@needs_chromium
def test_redoc_shows_every_operation_in_either_colour_scheme_and_requests_no_other_host(served, browser_page):
    for scheme in SCHEMES:
        browser_page.emulate_media(color_scheme=scheme)
        browser_page.goto(f"{served}/redoc")
        browser_page.wait_for_selector("h2:has-text('List jobs')")
        browser_page.wait_for_load_state("networkidle")
        assert_colours(browser_page, scheme, "h2:has-text('List jobs')", "body")
    assert_alone(browser_page, served)


@needs_chromium
def test_swagger_ui_follows_the_colour_scheme_and_sends_a_request_with_the_token_it_was_given(
    served, acme_token, browser_page
):
    page = browser_page
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{served}/docs")
        page.wait_for_selector(".swagger-ui .opblock-tag")
        assert_colours(page, scheme, ".swagger-ui .opblock-tag", "html")
    page.click("button.authorize")
    page.fill("input[aria-label='auth-bearer-value']", acme_token)
    page.click(".auth-btn-wrapper button.authorize")
    page.click("button.btn-done")
    page.click("#operations-jobs-listJobs .opblock-summary")
    page.select_option("#operations-jobs-listJobs [data-param-name=job_type] select", ["MODEL_GENERATOR"])
    with page.expect_response("**/v1/jobs?*") as answered:
        page.click("#operations-jobs-listJobs button.execute")
    assert answered.value.url == f"{served}/v1/jobs?job_type=MODEL_GENERATOR&limit=50&offset=0"
    assert answered.value.json() == {"jobs": [], "limit": 50, "offset": 0, "count": 0}
    page.wait_for_selector("#operations-jobs-listJobs .live-responses-table")
    assert_alone(page, served)


def luminance(page: Any, selector: str, name: str) -> float:
    """The relative luminance (0 to 1) of a colour of the first such element, roughly: the mean of its parts."""
    value = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{name}")
    return sum(map(int, re.findall(r"\d+", value)[:3])) / 765


def assert_colours(page: Any, scheme: str, text: str, background: str) -> None:
    """Light text on a dark background where the scheme is dark."""
    assert (luminance(page, text, "color") > 0.5) == (scheme == "dark")
    if scheme == "dark":
        assert luminance(page, background, "backgroundColor") < 0.25


def assert_alone(page: Any, served: str) -> None:
    assert page.complaints == []
    assert [url for url in page.asked if not url.removeprefix("blob:").startswith(served)] == []
