"""The console in a real browser. The tests also save screenshots.

They are saved in ``var/screenshots`` or in the folder SCREENSHOTS. ``make screenshots`` updates those of the docs.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connections
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from jobs.ingest import ledger
from jobs.models import AuditAction, AuditEntry, Job, JobStatus
from tenants import tokens
from tests.browser import TIMEOUT_MS, console_pages, failed_job, log_in, needs_chromium
from tests.client import Client
from tests.gateway import Gateway, database_of_this_test, serving

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS") or ROOT / "var" / "screenshots")

expect.set_options(timeout=TIMEOUT_MS)

pytestmark = [
    needs_chromium,
    pytest.mark.django_db(transaction=True),
    # The browser does not depend on the database, so one database is enough. test_admin_*.py run on both.
    pytest.mark.sqlite,
]


def artifact_image_widths(page: Page) -> list[int]:
    """The widths in pixels of the images on a page, after they have loaded; 0 for an image that could not load."""
    widths = []
    for image in page.locator(".artifact img").all():
        image.scroll_into_view_if_needed()
        widths.append(
            image.evaluate(
                "async image => { if (!image.complete) await new Promise(done => image.onload = image.onerror = done);"
                " return image.naturalWidth }"
            )
        )
    return widths


def api_status(headers):
    """What the API answers; in a thread, for Playwright has an event loop in this one."""

    def ask():
        try:
            return Client(headers=headers).get("/v1/jobs").status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def test_a_failed_job_is_found_by_its_id_and_shows_the_reason(page, demo, browser_errors):
    job = failed_job(demo)
    reason = job.events.get(event_type="failed").message
    page.keyboard.press("/")
    page.keyboard.insert_text(f" {job.public_id.to_uuid()} ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=job.job_type)).to_be_visible()
    expect(page.get_by_role("region", name="Why it failed")).to_contain_text(reason)
    pictures = artifact_image_widths(page)
    assert len(pictures) >= 1
    assert min(pictures) > 100
    assert list(AuditEntry.objects.values_list("actor__username", "action", "subject")) == [
        ("sam", AuditAction.JOB_VIEWED, str(job.public_id))
    ]
    assert browser_errors == []


def test_images_open_in_place_are_walked_by_keyboard_and_a_missing_one_has_a_message(
    page, demo, s3_store, browser_errors
):
    job = Job.all_tenants.filter(tenant=demo, status=JobStatus.SUCCESS, is_workflow=True)[0]
    page.goto(f"/admin/jobs/job/{job.public_id}/change/")
    gallery = page.get_by_role("region", name="Artifacts").get_by_role("link")
    gallery.first.click()
    viewer = page.get_by_role("dialog", name="Artifact")
    image, facts = viewer.locator("img"), page.locator("#viewer-facts")
    expect(facts).to_contain_text(f"1 of {gallery.count()}")
    expect(facts).to_contain_text(" × ")
    first = image.get_attribute("src")
    assert image.evaluate("image => image.naturalWidth") > 100
    assert viewer.get_by_role("link", name="Download").get_attribute("href") == first
    assert "X-Amz-Signature" in first
    page.keyboard.press("ArrowRight")
    expect(facts).to_contain_text("2 of ")
    assert image.get_attribute("src") != first
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(facts).to_contain_text(f"{gallery.count()} of {gallery.count()}")
    page.keyboard.press("Escape")
    expect(viewer).to_have_count(0)
    expect(gallery.first).to_be_focused()
    assert browser_errors == []

    failed = failed_job(demo)
    s3_store.delete(failed.artifacts.first().storage_key)
    page.goto(f"/admin/jobs/job/{failed.public_id}/change/")
    page.locator(".artifacts").first.scroll_into_view_if_needed()
    expect(page.get_by_text("This image could not be loaded from the artifact store.").first).to_be_visible()

    # On a slow machine an image fails before the page's script runs.
    page.route(re.compile(r"/console[^/]*\.js"), lambda route: (time.sleep(1), route.continue_()))
    page.reload()
    expect(page.get_by_text("This image could not be loaded from the artifact store.").first).to_be_visible()


def test_a_token_that_support_revokes_is_rejected_by_the_api(page, acme, browser_errors):
    token = tokens.issue(acme, label="left behind")
    headers = {"Authorization": f"Bearer {token}"}
    assert api_status(headers) == 200
    page.get_by_role("navigation", name="Console").get_by_role("link", name="Tenants").click()
    page.get_by_role("link", name="acme", exact=True).click()
    page.get_by_role("link", name="Revoke jgw_").click()
    expect(page.get_by_text("This cannot be undone")).to_be_visible()
    page.get_by_role("button", name="Revoke the token").click()
    expect(page.get_by_text("The API now rejects it")).to_be_visible()
    assert api_status(headers) == 401
    assert browser_errors == []


def test_a_superuser_can_log_in_issue_a_token_and_copy_it(context, admin_user, acme, browser_errors):
    page = log_in(context, "admin", by_form=True)
    page.goto(f"/admin/tenants/tenant/{acme.pk}/change/")
    page.get_by_role("link", name="Issue a token").click()
    page.get_by_label("Label").fill("storefront")
    page.get_by_role("button", name="Issue the token").click()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    token = page.evaluate("navigator.clipboard.readText()")
    assert api_status({"Authorization": f"Bearer {token}"}) == 200
    assert browser_errors == []


def test_an_open_page_is_updated_without_a_reload(page, acme, settings, browser_errors):
    settings.CONSOLE_REFRESH_SECONDS = 0.1
    job = ledger.open_job(acme, "MODEL_GENERATOR", request={"prompt": "studio"})
    page.goto(f"/admin/jobs/job/{job.public_id}/change/")
    page.evaluate("window.isTheSamePage = true")
    page.get_by_text("GET /v1/jobs/").first.click()
    ledger.append(job, "stage", "Rendering the picture", stage="render")
    expect(page.get_by_text("Rendering the picture").first).to_be_visible()
    assert page.locator("#tenant-response-1").get_attribute("open") is not None  # an open element stays open
    ledger.finish(job, "Here it is")
    expect(page.locator(".job-head .badge")).to_have_text("Success")
    expect(page.locator("[data-live]")).to_have_count(0)
    assert page.evaluate("window.isTheSamePage")
    assert page.title() == "Success · MODEL_GENERATOR of acme | Jobs Gateway console"
    assert browser_errors == []


def test_an_update_closes_nothing_and_takes_no_focus(page, acme, settings):
    settings.CONSOLE_REFRESH_SECONDS = 0.1
    job = ledger.open_job(acme, "MODEL_GENERATOR", request={"a": {"b": {"c": {"d": 1}}}})
    page.goto(f"/admin/jobs/job/{job.public_id}/change/")
    shown = page.locator("#request details")
    assert [shown.nth(n).get_attribute("open") is not None for n in range(4)] == [True, True, False, False]
    shown.nth(0).locator("> summary").press("Enter")  # closes it
    shown.nth(0).locator("> summary").press("Enter")
    shown.nth(2).locator("> summary").press("Enter")
    ledger.append(job, "stage", "Rendering the picture", stage="render")
    expect(page.get_by_text("Rendering the picture").first).to_be_visible()
    assert [shown.nth(n).get_attribute("open") is not None for n in range(4)] == [True, True, True, False]
    assert shown.nth(2).locator("> summary").evaluate("each => each === document.activeElement")


def test_shortcuts_of_a_single_key_can_be_switched_off(page, demo):
    job = failed_job(demo)
    page.goto(f"/admin/jobs/job/{job.public_id}/change/")
    expect(page.locator("#find")).to_have_attribute("aria-keyshortcuts", "/")
    switch = page.get_by_role("button", name="Shortcuts")
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    page.reload()
    expect(switch).to_have_attribute("aria-pressed", "false")
    expect(page.locator("[aria-keyshortcuts]")).to_have_count(0)
    page.locator("body").press("/")
    assert not page.locator("#find").evaluate("each => each === document.activeElement")
    switch.click()
    page.locator("body").press("/")
    assert page.locator("#find").evaluate("each => each === document.activeElement")


@pytest.fixture(scope="module")
def served(django_db_setup) -> Iterator[Gateway]:
    """The gateway as it is run, whose pages wait. Nothing that is seen is found by polling, which is once a minute."""
    with serving(database_of_this_test(), CONSOLE_REFRESH_SECONDS="60") as gateway:
        yield gateway


@pytest.fixture
def gateway(served, transactional_db) -> Gateway:
    """One for all tests: it reads what each of them has committed."""
    return served


@pytest.fixture
def waiting_page(browser: Browser, gateway, support_client, browser_errors: list[str]) -> Iterator[Page]:
    """A page of Sam at ``gateway``, by a session that exists: the tests' passwords are hashed in a way of their own."""
    context = browser.new_context(base_url=f"http://localhost:{gateway.port}")
    context.set_default_timeout(TIMEOUT_MS)
    context.on("console", lambda said: browser_errors.append(said.text) if said.type in ("error", "warning") else None)
    cookie = settings.SESSION_COOKIE_NAME
    context.add_cookies(
        [{"name": cookie, "value": support_client.cookies[cookie].value, "domain": "localhost", "path": "/"}]
    )
    yield context.new_page()
    context.close()


def test_open_pages_follow_a_job_and_new_failures(waiting_page, gateway, acme, browser_errors):
    page, job = waiting_page, ledger.open_job(acme, "MODEL_GENERATOR")
    home, said = page.context.new_page(), page.locator("#live-status")
    page.goto(f"/admin/jobs/job/{job.public_id}/change/")
    ledger.append(job, "stage", "Rendering the picture", stage="render")
    expect(page.get_by_text("Rendering the picture").first).to_be_visible(timeout=10_000)
    expect(said).to_have_text("stage render Rendering the picture")
    ledger.note(job, "The GPU is slow")
    expect(page.get_by_text("The GPU is slow").first).to_be_visible(timeout=10_000)
    gateway.reload()
    ledger.append(job, "stage", "After the reload")
    expect(page.get_by_text("After the reload").first).to_be_visible(timeout=10_000)

    home.goto("/admin/")
    expect(home.get_by_text("No job failed.")).to_be_visible()
    ledger.fail(job, "There is no GPU")
    expect(home.locator("tr.is-new").get_by_role("link", name="1 failed job of acme, MODEL_GENERATOR")).to_be_visible(
        timeout=10_000
    )
    expect(home.locator("#live-status")).to_have_text("1 failed job of acme, MODEL_GENERATOR")
    home.get_by_role("link", name="1 failed job of acme").focus()
    for job_type in ("A_TYPE_THAT_COMES_FIRST", "MODEL_GENERATOR"):
        ledger.fail(ledger.open_job(acme, job_type), "There is no GPU")
    expect(home.get_by_role("link", name="2 failed jobs of acme, MODEL_GENERATOR")).to_be_focused(timeout=10_000)
    expect(page.locator(".job-head .badge")).to_have_text("Failure")
    expect(said).to_contain_text("Why it failed There is no GPU")
    expect(page.locator("[data-live]")).to_have_count(0)
    assert browser_errors == []


def test_an_open_page_says_that_it_is_no_longer_updated(waiting_page, acme):
    page, job = waiting_page, ledger.open_job(acme, "MODEL_GENERATOR")
    page.goto(f"/admin/jobs/job/{job.public_id}/change/")
    expect(page.locator(".live-dot")).to_be_visible()
    Session.objects.all().delete()
    expect(page.get_by_text("This page is no longer updated: you are logged out.")).to_be_visible(timeout=15_000)
    expect(page.locator(".live-dot")).to_have_count(0)


def test_the_tenant_filter_suggests_tenants(page, acme, globex, job_of):
    job_of(acme)
    job_of(globex)
    page.goto("/admin/jobs/job/")
    box = page.get_by_role("combobox", name="Slug of the tenant")
    with page.expect_response("**/autocomplete/**"):
        box.press_sequentially("g")
    expect(page.locator("#tenant-suggestions option")).to_have_attribute("value", "globex")
    box.fill("globex")
    page.wait_for_url("**/?tenant=globex")
    expect(page.locator(".field-tenant_link").first).to_have_text("globex")


def test_all_controls_of_a_job_page_are_reachable_by_keyboard_and_copy_ids_and_the_curl_command(page, demo):
    job = failed_job(demo)
    page.goto(f"/admin/jobs/job/{job.public_id}/change/")
    page.get_by_text("Ids, link and curl command").press("Enter")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText")
        )
    assert {"Copy the ULID", "Copy the curl command", "‹ Previous", "meta", "extra", "Jobs", "Set"} <= reached
    assert any(name.startswith("Open ") for name in reached)
    assert any(name.startswith("GET /v1/jobs/") for name in reached)
    for name, text in {
        "Copy the ULID": str(job.public_id),
        "Copy the UUID": str(job.public_id.to_uuid()),
        "Copy the curl command": "Authorization: Bearer $JGW_TOKEN",
    }.items():
        page.get_by_role("button", name=name).click()
        assert text in page.evaluate("navigator.clipboard.readText()")
    page.keyboard.press("p")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_the_times_of_a_timeline_do_not_overlap_its_dots_at_any_width(page, acme, job_of):
    times = ["2026-04-15T12:00:00Z", "2026-04-15T12:01:12.345Z", "2026-04-15T23:59:59.999Z", "2026-04-28T23:59:00Z"]
    events = [{"seq": seq, "event_type": "stage", "created_at": at} for seq, at in enumerate(times, 1)]
    page.goto(f"/admin/jobs/job/{job_of(acme, events=events).public_id}/change/")
    for width in (390, 800, 1100, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.get_by_text("+11 h 58 min").is_visible()
        overlaps = page.locator(".timeline > li").evaluate_all("""
            rows => rows.flatMap(row => {
              const left = row.getBoundingClientRect().left + parseFloat(getComputedStyle(row, "::after").left);
              return [...row.querySelectorAll(".gap, time")].map(each => each.getBoundingClientRect())
                .filter(box => box.width && box.left < left + 12 && box.right > left)
                .map(box => [left, box.left, box.right]);
            })""")
        assert overlaps == [], width


@pytest.mark.full  # test_console_accessibility measures these pages while they are open
def test_no_page_is_wider_than_a_phone(context, sam, admin_user, demo):
    tokens.issue(demo)
    page = log_in(context, "admin")
    page.set_viewport_size({"width": 390, "height": 844})
    for address in console_pages(demo).values():
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address


# --- Screenshots --------------------------------------------------------------------------------------------------

HEIGHTS = {"job-failed": 1500, "job-done": 1300, "job-agents": 1500}


@pytest.mark.full
@pytest.mark.parametrize(
    ("width", "scheme", "names"),
    [
        (1280, "light", None),
        (1280, "dark", ["home", "jobs", "job-failed", "tenant"]),
        (390, "light", ["home", "jobs", "job-failed", "tenant"]),
    ],
    ids=["light", "dark", "narrow"],
)
def test_screenshots_of_each_page_are_saved(context, sam, admin_user, demo, browser_errors, width, scheme, names):
    for label in ("storefront", "back office"):
        tokens.issue(demo, label=label)
    page = log_in(context, "admin")
    page.emulate_media(color_scheme=scheme)
    suffix = {"light": "", "dark": "-dark"}[scheme] if width == 1280 else "-narrow"
    page.get_by_label("Ticket").fill("SUP-2207")
    page.get_by_role("button", name="Set").click()
    for name, address in sorted(console_pages(demo).items(), key=lambda item: item[0] in ("home", "audit")):
        if names is None or name in names or name == "job-failed":
            page.set_viewport_size({"width": width, "height": HEIGHTS.get(name, 900) if width == 1280 else 1200})
            page.goto(address)
            artifact_image_widths(page)
            page.evaluate("scrollTo(0, 0)")
            save_screenshot(page.screenshot(), f"console-{name}{suffix}.png")
    if names is None:
        page.get_by_role("button", name="Log out").click()
        page.goto("/admin/login/")
        page.set_viewport_size({"width": 1280, "height": 700})
        save_screenshot(page.screenshot(), "console-sign-in.png")
    assert browser_errors == []


def save_screenshot(png: bytes, name: str) -> None:
    """Saves a PNG with 256 colours: a third of the size, with no visible difference."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        SCREENSHOTS / name, optimize=True
    )
