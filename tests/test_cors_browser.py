"""Pages of other origins in a real browser: what the fetch standard lets them read of the API and of pictures."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest
from PIL import Image

from tests.browser import needs_chromium, watched_page
from tests.gateway import database_of_this_test, serving

pytestmark = [
    needs_chromium,
    pytest.mark.django_db(transaction=True),
    pytest.mark.sqlite,  # no database is asked: once is enough
]

# As App Bridge, Sentry and OpenTelemetry add headers. Resolves to what the page could read.
ASK = """async ([url, token]) => {
    const response = await fetch(url, {headers: {
        Authorization: `Bearer ${token}`, "Content-Type": "application/json", "X-Requested-With": "XMLHttpRequest",
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "sentry-trace": "1", baggage: "a=b",
        tracestate: "a=b", Prefer: "wait=0", "Last-Event-ID": "x", "Cache-Control": "no-cache",
    }});
    const names = ["ETag", "Job-Status", "X-Request-ID", "RateLimit", "RateLimit-Policy", "Retry-After"];
    const headers = Object.fromEntries(names.map(name => [name, response.headers.get(name)]));
    return {status: response.status, headers, body: await response.json()};
}"""
FETCH_PICTURE = "async url => (await (await fetch(url)).arrayBuffer()).byteLength"
SHOW = """async url => {
    const image = new Image();
    image.src = url;
    await image.decode();
    return image.naturalWidth;
}"""
DRAW = """async ([url, crossOrigin]) => {
    const image = new Image();
    image.crossOrigin = crossOrigin;
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return [canvas.toDataURL().slice(0, 22), [...context.getImageData(0, 0, 1, 1).data]];
}"""


class BlankPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>A shop</title>")

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def origins():
    """Two origins that serve a blank page."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), BlankPage) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


class Shop(NamedTuple):
    allowed: str  # origins
    other: str
    job_url: str
    picture_url: str
    token: str
    picture_bytes: int


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A file of the artifact store."""
    folder = tmp_path_factory.mktemp("artifacts") / "tenants/acme"
    folder.mkdir(parents=True)
    Image.new("RGB", (3, 2), (200, 100, 50)).save(folder / "front.png")
    return folder / "front.png"


@pytest.fixture(scope="module")
def gateway(django_db_setup, origins, picture):
    store = str(picture.parents[2])
    environment = {"ARTIFACTS_DIR": store, "CORS_ALLOWED_ORIGINS": origins[0], "RATE_LIMIT_PER_TENANT": "100"}
    with serving(database_of_this_test(), **environment) as gateway:
        yield gateway


@pytest.fixture
def shop(gateway, origins, picture, acme, acme_token, job_of):
    artifact = {"storage_key": "tenants/acme/front.png", "kind": "render", "role": "final"}
    event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:09Z", "artifacts": [artifact]}
    job = job_of(acme, events=[event])
    host = f"127.0.0.1:{gateway.port}"
    [final] = json.loads(gateway.get(f"/v1/jobs/{job}", acme_token, Host=host).body)["result"]
    assert final["image_url"].startswith(f"http://{host}/artifacts/")
    return Shop(*origins, f"http://{host}/v1/jobs/{job}", final["image_url"], acme_token, picture.stat().st_size)


@pytest.fixture
def browser_page(browser):
    """One browser for all tests of this file, none of which has a cache of the one before."""
    with watched_page(browser) as page:
        yield page


def test_a_page_of_an_allowed_origin_reads_answers_and_their_headers(shop, browser_page):
    browser_page.goto(shop.allowed)
    answer = browser_page.evaluate(ASK, [shop.job_url, shop.token])
    assert (answer["status"], answer["body"]["status"]) == (200, "SUCCESS")
    headers = answer["headers"]
    assert headers["Job-Status"] == "SUCCESS"
    assert headers["RateLimit-Policy"] == '"tenant";q=100;w=60'
    assert all(headers[name] for name in ("ETag", "X-Request-ID", "RateLimit"))
    refusal = browser_page.evaluate(ASK, [shop.job_url, "wrong"])
    assert (refusal["status"], refusal["body"]["code"]) == (401, "UNAUTHENTICATED")


def test_a_page_of_an_allowed_origin_draws_a_picture_to_a_canvas(shop, browser_page):
    browser_page.goto(shop.allowed)
    # Shown first without CORS: the browser must not draw that response from its cache.
    assert browser_page.evaluate(SHOW, shop.picture_url) == 3
    drawn = ["data:image/png;base64,", [200, 100, 50, 255]]
    assert browser_page.evaluate(DRAW, [shop.picture_url, "anonymous"]) == drawn
    assert browser_page.evaluate(FETCH_PICTURE, shop.picture_url) == shop.picture_bytes
    assert browser_page.complaints == []


def test_a_page_of_another_origin_shows_a_picture_and_reads_nothing(shop, browser_page):
    playwright = pytest.importorskip("playwright.sync_api")
    browser_page.goto(shop.other)
    assert browser_page.evaluate(SHOW, shop.picture_url) == 3
    for script, given, reason in (
        (ASK, [shop.job_url, shop.token], "Failed to fetch"),
        (FETCH_PICTURE, shop.picture_url, "Failed to fetch"),
        (DRAW, [shop.picture_url, "anonymous"], "cannot be decoded"),
        (DRAW, [shop.picture_url, None], "Tainted canvases may not be exported"),
    ):
        with pytest.raises(playwright.Error, match=reason):
            browser_page.evaluate(script, given)
