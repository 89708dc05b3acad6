"""The page at ``/`` of a trial in a browser: it shows the demo's jobs, and follows them by the gateway's own API."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from datetime import UTC, datetime
from itertools import pairwise, product

import pytest
from ulid import ULID

from tests.browser import needs_chromium, watched_page
from tests.shared_servers import copy_trial
from tests.stores import ROOT, Store
from tests.test_console_browser import save_screenshot
from tests.test_serve import serving

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

pytestmark = [needs_chromium, pytest.mark.sqlite]  # the trial's own database

TIMEOUT_MS = 60_000  # a busy machine


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A trial without a simulation, its address, and its store."""
    folder = copy_trial(tmp_path_factory.mktemp("trial") / "data")
    with serving(folder, "--demo", ACCESS_LOG="0") as (_, base_url, _):
        environment = {"DATA_DIR": str(folder), "ENV_FILE": os.devnull}
        yield base_url, Store(f"sqlite:///{folder / 'gateway.sqlite3'}", ROOT, environment)


@pytest.fixture
def page(browser):
    with watched_page(browser) as page:
        page.set_default_timeout(TIMEOUT_MS)
        yield page


@pytest.fixture(scope="module")
def simulation(trial):
    """Jobs that go on beside the tests, once one has asked for them."""
    _, store = trial
    quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    process = store.start("simulate", "--every=1s", "--speed=12", "--fail=0", "--keep=20", **quiet)
    yield process
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def cards(page):
    return page.locator("#jobs > li")


def ids(page):
    return page.locator("#jobs .id").all_inner_texts()


def opened(page, trial):
    base_url, _ = trial
    page.goto(base_url)
    expect(cards(page)).to_have_count(12, timeout=TIMEOUT_MS)
    return page


def expect_new_jobs(page, before):
    """Until a job that was not there is over, with a picture that has loaded."""
    known = " ".join(before)
    page.wait_for_function(
        """known => [...document.querySelectorAll('#jobs > li[data-status=SUCCESS]')].some(card =>
             !known.includes(card.querySelector('.id').textContent)
             && [...card.querySelectorAll('.finals img')].some(image => image.naturalWidth === 480))""",
        arg=known,
        timeout=TIMEOUT_MS,
    )


def test_it_shows_the_newest_jobs_with_their_stages_pictures_and_agents(page, trial):
    opened(page, trial)
    expect(page.locator("#connection")).to_have_text("Live", timeout=TIMEOUT_MS)
    expect(page.locator("#totals")).to_contain_text("succeeded", timeout=TIMEOUT_MS)
    expect(page.locator(".agents li").first).to_be_visible(timeout=TIMEOUT_MS)
    assert len(set(ids(page))) == 12
    operations = page.locator("#jobs > li", has=page.locator(".agents"))
    assert all("Ended: " in text for text in operations.locator(".events").all_inner_texts())
    names = page.locator("#jobs h3").all_inner_texts()
    assert "Model generator" in names
    assert (
        page.locator("#jobs img").evaluate_all(
            """images => Promise.all(images.map(async image => (await image.decode(), image.naturalWidth)))"""
        )
        == [480] * page.locator("#jobs img").count()
    )
    assert page.locator("#jobs img").count() > 0
    assert "data-token" not in page.content()
    assert {re.match("https?://[^/]+|data:", address)[0] for address in page.asked} == {trial[0]}
    assert not [address for address in page.asked if "jgw_" in address]
    assert page.complaints == []


def test_it_fits_the_screen_and_its_text_has_contrast(page, trial):
    page.emulate_media(reduced_motion="reduce")
    opened(page, trial)
    expect(page.locator(".agents li").first).to_be_visible(timeout=TIMEOUT_MS)
    for width, scheme in product((390, 1280), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 1400})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.getAnimations().length") == 0
        assert page.evaluate(CONTRASTS) >= 4.5
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(each => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_it_says_when_its_token_is_no_longer_valid(page, trial):
    page.route("**/v1/events*", lambda route: route.fulfill(status=401, body="{}"))
    page.goto(trial[0])
    expect(page.get_by_role("alert")).to_have_text(
        "The token of this page is no longer valid. Reload the page.", timeout=TIMEOUT_MS
    )


# Before the tests with a simulation, whose jobs, one a second, push others off the page.
def test_a_job_without_an_agent_yet_is_shown_and_followed(page, trial):
    _, store = trial
    opened(page, trial)
    expect(page.locator("#connection")).to_have_text("Live", timeout=TIMEOUT_MS)
    now = datetime.now(UTC).isoformat()
    event = {"seq": 1, "event_type": "queued", "hostname": "_api", "created_at": now}
    job = {"public_id": str(ULID()), "tenant": "demo", "job_type": "vm.start", "created_at": now, "events": [event]}
    store.run("backfill_jobs", "-", stdin=json.dumps(job).encode())
    expect(cards(page).filter(has_text=job["public_id"])).to_be_visible(timeout=TIMEOUT_MS)
    opened(page, trial)  # which asks what the agents of the newest jobs do
    expect(page.locator("#connection")).to_have_text("Live", timeout=TIMEOUT_MS)
    expect(cards(page).filter(has_text=job["public_id"])).to_be_visible()


def test_a_new_job_appears_and_its_pictures_come_without_a_reload(page, trial, simulation):
    opened(page, trial)
    page.evaluate("window.isTheSamePage = true")
    expect_new_jobs(page, ids(page))
    expect(page.locator("#announcement")).to_contain_text("Jobs that ended:", timeout=TIMEOUT_MS)
    assert cards(page).count() == 12
    assert page.evaluate("window.isTheSamePage")
    times = page.locator("#jobs time").evaluate_all("times => times.map(time => time.dateTime)")
    assert times == sorted(times, reverse=True)
    assert page.complaints == []


def test_without_streams_it_polls(page, trial, simulation):
    def refuse(route):
        if "event-stream" in route.request.headers.get("accept", ""):
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/events*", refuse)
    opened(page, trial)
    expect(page.locator("#connection")).to_have_text("Live, by polling", timeout=TIMEOUT_MS)
    expect_new_jobs(page, ids(page))


def test_paused_it_asks_for_nothing_and_then_misses_nothing(page, trial, simulation):
    opened(page, trial)
    expect(page.locator("#connection")).to_have_text("Live", timeout=TIMEOUT_MS)
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.locator("#connection")).to_have_text("Paused")
    page.wait_for_timeout(2000)  # what was on its way arrives
    before, asked = ids(page), len(page.asked)
    page.wait_for_timeout(2000)
    assert (ids(page), len(page.asked)) == (before, asked)
    page.get_by_role("button", name="Resume").press("Enter")
    expect_new_jobs(page, before)


def test_paused_while_it_loads_it_opens_no_stream_until_it_resumes(page, trial):
    base_url, _ = trial
    held = []

    def hold_the_first(route):
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/job?*", hold_the_first)
    page.goto(base_url)
    while not held:
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Pause").press("Enter")
    held[0].continue_()
    expect(cards(page)).to_have_count(12, timeout=TIMEOUT_MS)
    page.wait_for_timeout(1000)
    expect(page.locator("#connection")).to_have_text("Paused")
    page.get_by_role("button", name="Resume").press("Enter")
    expect(page.locator("#connection")).to_have_text("Live", timeout=TIMEOUT_MS)


@pytest.mark.full
def test_screenshots_of_the_page_are_saved(page, trial, simulation):
    page.set_viewport_size({"width": 1280, "height": 1100})
    page.emulate_media(reduced_motion="reduce")
    opened(page, trial)
    page.wait_for_function(
        """() => document.querySelectorAll('#jobs > li .finals').length >= 7
             && [...document.querySelectorAll('#jobs img')].every(image => image.complete)""",
        timeout=2 * TIMEOUT_MS,
    )
    save_screenshot(page.screenshot(), "live-page.png")


# The lowest contrast of the text of a card to the card's colour, by the formula of WCAG 2.
CONTRASTS = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = colour => numbers(colour).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const card = light(getComputedStyle(document.querySelector('.job')).backgroundColor);
  return Math.min(...[...document.querySelectorAll('.job .status, .job time, .job .id a, .job h3, .events span')]
    .map(each => light(getComputedStyle(each).color))
    .map(text => (Math.max(text, card) + 0.05) / (Math.min(text, card) + 0.05)));
}"""
