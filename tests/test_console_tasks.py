"""Five tasks of support staff, by the number of clicks, pasted texts, keys and typed characters that they take.

docs/console.md has the numbers. Also what only a browser shows: how much of a list and of a job is seen at first.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from django.utils import timezone
from playwright.sync_api import Locator, Page, expect

from jobs.ingest import ledger
from jobs.models import Job
from tenants import tokens
from tenants.models import ApiToken
from tests.browser import TIMEOUT_MS, needs_chromium
from tests.test_admin_jobs import event, make_jobs

expect.set_options(timeout=TIMEOUT_MS)

pytestmark = [
    needs_chromium,
    pytest.mark.django_db(transaction=True),
    # The browser does not depend on the database, so one database is enough.
    pytest.mark.sqlite,
]


class Effort(NamedTuple):
    clicks: int = 0
    pastes: int = 0
    keys: int = 0  # typed characters too


class Hands:
    """A support agent at a page, who counts. Each task begins on the home page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.effort = Effort()

    def click(self, target: Locator) -> None:
        target.click()
        self.effort = self.effort._replace(clicks=self.effort.clicks + 1)

    def paste(self, text: str) -> None:
        self.page.evaluate("text => navigator.clipboard.writeText(text)", text)
        self.page.keyboard.press("ControlOrMeta+V")
        self.effort = self.effort._replace(pastes=self.effort.pastes + 1)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)
        self.effort = self.effort._replace(keys=self.effort.keys + 1)


@pytest.fixture
def hands(page: Page) -> Hands:
    return Hands(page)


def recent(job_of: Any, tenant: Any, *events: dict[str, Any], hours: float = 1) -> Job:
    """A job of so many hours ago, with these events at that time."""
    at = (timezone.now() - timedelta(hours=hours)).isoformat()
    return job_of(tenant, created_at=at, events=[each | {"created_at": at} for each in events])


def test_find_a_job_from_a_pasted_url_and_say_why_it_failed(hands, acme, job_of):
    job = job_of(acme, events=[event(1, "failed", message="The prompt asks for too many people")])
    # A text that is pasted anywhere on a page goes into the search box.
    hands.paste(f"https://shop.example.com/v1/jobs/{job.public_id}/events?since=0")
    hands.press("Enter")
    expect(hands.page.get_by_role("region", name="Why it failed")).to_contain_text("too many people")
    assert hands.effort == Effort(pastes=1, keys=1)


def test_list_a_tenants_stuck_jobs_longest_first(hands, acme, globex, job_of):
    for hours in (2, 9, 5):
        recent(job_of, acme, event(1, "stage"), hours=hours)
    recent(job_of, globex, event(1, "stage"), hours=20)
    hands.page.reload()
    hands.click(hands.page.get_by_role("link", name="3 stuck jobs of acme"))
    silent = hands.page.locator(".field-silent_for")
    expect(silent).to_have_count(3)  # the list is open
    assert [text.split()[0] for text in silent.all_inner_texts()] == ["9", "5", "2"]
    assert hands.effort == Effort(clicks=1)


def test_what_did_the_customer_see_when_the_job_failed(hands, acme, job_of):
    job = recent(job_of, acme, event(1, "stage", message="Rendering"), event(2, "failed", message="No GPU"))
    ledger.note(job, "Asked the team")
    hands.page.reload()
    hands.click(hands.page.get_by_role("link", name="1 failed job of acme"))
    hands.click(hands.page.get_by_role("link", name=str(job.public_id)))
    hands.click(hands.page.get_by_role("link", name="What the tenant saw then"))
    seen = hands.page.get_by_role("region", name="As the tenant saw it after event #2")
    expect(seen.get_by_text('"No GPU"').first).to_be_visible()
    expect(seen.get_by_text('"FAILURE"').first).to_be_visible()
    assert hands.effort == Effort(clicks=3)


def test_revoke_the_token_that_was_used_last(hands, acme):
    for days in (3, 0, 9):
        tokens.issue(acme, label=f"used {days} days ago")
        ApiToken.objects.filter(label=f"used {days} days ago").update(
            last_used_at=timezone.now() - timedelta(days=days)
        )
    hands.click(hands.page.get_by_role("navigation", name="Console").get_by_role("link", name="Tenants"))
    hands.click(hands.page.get_by_role("link", name="acme", exact=True))
    # The one that was used last is the first of the table.
    hands.click(hands.page.get_by_role("region", name="Tokens").get_by_role("link", name="Revoke jgw_").first)
    expect(hands.page.get_by_text("used 0 days ago")).to_be_visible()
    hands.click(hands.page.get_by_role("button", name="Revoke the token"))
    expect(hands.page.get_by_text("The API now rejects it")).to_be_visible()
    assert ApiToken.objects.get(label="used 0 days ago").revoked_at
    assert hands.effort == Effort(clicks=4)


def test_which_reason_fails_most_today(hands, acme, job_of):
    for n in range(3):
        recent(job_of, acme, event(1, "failed", message=f"No answer in {n} s"))
    recent(job_of, acme, event(1, "failed", message="Out of memory"))
    hands.page.reload()
    first = hands.page.get_by_role("region", name="Why jobs fail").get_by_role("row").nth(1)
    expect(first).to_contain_text("No answer in # s")
    expect(first).to_contain_text("75 %")
    assert hands.effort == Effort()


def test_twelve_rows_of_a_list_are_seen_at_first(page, acme, job_of):
    long = "The renderer gave up after it had tried again and again " * 5
    for _ in range(14):
        job_of(acme, job_type="COMPLEMENTARY_GARMENT_GENERATOR", events=[event(1, "failed", message=long)])
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto("/admin/jobs/job/?status=FAILURE")
    bottoms = page.locator("#result_list tbody tr").evaluate_all(
        "rows => rows.map(r => r.getBoundingClientRect().bottom)"
    )
    assert sum(bottom <= 800 for bottom in bottoms) >= 12


def test_on_a_phone_filters_are_folded_and_a_job_begins_with_status_and_reason(page, acme, job_of):
    job = job_of(acme, events=[event(1, "failed", message="No garment in the picture")])
    make_jobs(acme, 2)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("/admin/jobs/job/?tenant=acme&status=FAILURE")
    expect(page.get_by_role("link", name="Clear all filters")).to_be_hidden()
    assert page.locator("#result_list tbody tr").first.bounding_box()["y"] < 450
    page.get_by_role("heading", name="Filters").click()
    expect(page.get_by_role("link", name="Clear all filters")).to_be_visible()
    expect(page.get_by_label("From (UTC)")).to_be_visible()
    page.goto("/admin/jobs/job/")
    waiting = page.locator("tr", has=page.get_by_text("Not Started")).first
    expect(waiting.locator(".field-duration")).to_be_hidden()
    page.goto(f"/admin/jobs/job/{job.public_id}/change/")
    assert page.locator(".job-head .badge").bounding_box()["y"] < 400
    assert page.get_by_text("No garment in the picture").first.bounding_box()["y"] < 600
    assert page.title().startswith("Failure · ")


def test_jobs_of_a_filter_are_walked_by_keyboard_and_lead_back_to_the_same_page(page, acme, globex, job_of):
    failed = [job_of(acme, events=[event(1, "failed")]) for _ in range(3)]
    job_of(globex, events=[event(1, "failed")])
    page.goto("/admin/jobs/job/?tenant=acme&status=FAILURE")
    page.get_by_role("link", name=str(failed[2].public_id)).click()
    expect(page.get_by_text("1 of 3")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_text("2 of 3")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_text("3 of 3")).to_be_visible()
    page.keyboard.press("p")
    expect(page.get_by_text("2 of 3")).to_be_visible()
    page.get_by_role("navigation", name="Breadcrumbs").get_by_role("link", name="Jobs").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(3)
