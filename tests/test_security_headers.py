"""Security headers of pages and API, from a real server, with TLS and for other origins."""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_network

import pytest

from jobs.api.request import GatewayRequest
from jobs_gateway.application import allow_origins
from tests.gateway import ClosedUnread, serving

pytestmark = pytest.mark.sqlite  # no database is used, apart from one token: once is enough

PAGES = ["/", "/docs", "/redoc", "/admin/login/"]
SHOP = "https://shop.example.com"
EXPOSED = {
    "ETag",
    "Link",
    "X-Request-ID",
    "Retry-After",
    "Job-Status",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
}
UNKNOWN_JOB = "/v1/jobs/01JADE5XAMPK9M0Q7RS3T4V5W6"


@pytest.fixture(scope="module")
def store(new_store):
    return new_store("acme")


@pytest.fixture(scope="module")
def token(store):
    return store.run("issue_token", "acme").stdout.decode().split()[-1]


@pytest.fixture(scope="module")
def gateway(store):
    """Behind TLS that a proxy on this machine ends, for the pages of one other origin."""
    production = {"DJANGO_SECURE": "1", "TRUSTED_PROXIES": "127.0.0.1", "CORS_ALLOWED_ORIGINS": SHOP}
    with serving(store.url, **production) as gateway:
        yield gateway


def over_tls(gateway, path, **headers):
    return gateway.get(path, X_Forwarded_Proto="https", **headers)


# --- pages ---


@pytest.mark.parametrize("path", [*PAGES, "/nothing-here"])
def test_every_page_says_what_it_may_load_and_who_may_frame_it(gateway, path):
    answer = over_tls(gateway, path)
    assert answer.status == (404 if path == "/nothing-here" else 200)
    policy = {name: sources for name, *sources in map(str.split, answer.headers["Content-Security-Policy"].split(";"))}
    assert policy["default-src"] == ["'self'"]
    assert policy["object-src"] == policy["base-uri"] == policy["frame-ancestors"] == ["'none'"]
    everywhere = {source for sources in policy.values() for source in sources}
    assert not everywhere & {"'unsafe-inline'", "'unsafe-eval'", "*", "http:", "https:"}
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=31536000")
    assert b"<script>" not in answer.body
    assert not re.search(rb"\son[a-z]+\s*=\s*[\"']", answer.body)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_asked_for_without_tls_leads_to_tls(gateway, path):
    answer = gateway.get(path)
    assert (answer.status, answer.headers["Location"]) == (301, f"https://localhost{path}")
    assert "Strict-Transport-Security" not in answer.headers


def test_who_is_no_proxy_of_ours_cannot_say_that_a_request_came_by_tls(store):
    with serving(store.url, DJANGO_SECURE="1", TRUSTED_PROXIES="10.0.0.0/8,::1") as gateway:
        for header in ("X-Forwarded-Proto", "x_forwarded_proto"):
            head = f"GET /docs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}: https\r\n\r\n"
            answer = gateway.send(head.encode())
            assert (answer.status, answer.headers["Location"]) == (301, "https://localhost/docs"), header
            assert "Strict-Transport-Security" not in answer.headers


@pytest.mark.parametrize(
    ("peer", "said", "scheme"),
    [
        ("10.0.0.1", "https", "https"),
        ("::ffff:10.0.0.1", "https", "https"),
        ("10.0.0.1", "http", "http"),
        ("10.0.0.1", "https, http", "https"),
        ("10.0.0.1", "", "http"),
        ("10.0.0.1", None, "http"),
        ("11.0.0.1", "https", "http"),
        ("127.0.0.1", "https", "http"),
        ("2001:db8::1", "https", "http"),
        ("", "https", "http"),
        ("unknown", "https", "http"),
    ],
)
def test_only_a_proxy_of_ours_says_by_what_scheme_a_request_came(peer, said, scheme, settings):
    settings.TRUSTED_PROXIES = [ip_network("10.0.0.0/8")]
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    headers = [] if said is None else [(b"x-forwarded-proto", said.encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "client": (peer, 40_000), "gateway": {}}
    request = GatewayRequest(scope | {"headers": headers})
    assert (request.scheme, request.is_secure()) == (scheme, scheme == "https")


def test_cookies_stay_on_tls_and_out_of_other_sites(gateway):
    cookies = over_tls(gateway, "/admin/login/").headers.get_all("Set-Cookie")
    assert cookies
    for cookie in cookies:
        assert "; Secure" in cookie
        assert "; SameSite=Lax" in cookie


def test_the_console_rejects_logins_from_other_origins(gateway):
    form = b"username=sam&password=sam"
    request = (
        b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Forwarded-Proto: https\r\n"
        b"Origin: https://evil.example\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(form), form)
    )
    answer = gateway.send(request)
    assert answer.status == 403
    assert "sessionid" not in str(answer.headers)


def test_a_host_that_is_not_ours_is_not_answered(gateway):
    for path in ("/", "/docs", UNKNOWN_JOB):
        assert over_tls(gateway, path, Host="evil.example").status == 400


# --- sizes ---


@pytest.mark.parametrize("size", [70_000, 1_000_000])
@pytest.mark.parametrize("part", ["line", "header"])
def test_more_than_a_request_needs_is_refused_by_the_server(gateway, token, part, size):
    long = "x" * size
    path, headers = (f"/v1/jobs?a={long}", {}) if part == "line" else ("/v1/jobs", {"Cookie": long})
    try:
        answer = gateway.get(path, token, **headers)
    except (ClosedUnread, ConnectionResetError, BrokenPipeError):
        return  # it hung up while we were still sending
    assert answer.status in (400, 414, 431)
    assert "X-Request-ID" not in answer.headers, "the application never saw it"


@pytest.mark.parametrize(
    ("path", "statuses"), [("/admin/login/", {413}), ("/v1/jobs", {401}), ("/job", {401}), ("/", {413})]
)
def test_a_large_body_is_not_read_into_memory(gateway, path, statuses):
    body = b"a=" + b"x" * 3_000_000
    request = (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Forwarded-Proto: https\r\n"
        b"X-Shopify-Hmac-Sha256: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
    )
    assert gateway.send(request).status in statuses


# --- other origins ---


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/jobs", 200), ("/job", 200), (UNKNOWN_JOB, 404), ("/v1/jobs?limit=0", 422)]
)
def test_an_allowed_origin_may_read_the_headers_that_pollers_need(gateway, token, path, status):
    answer = gateway.get(path, token, Origin=SHOP)
    assert answer.status == status
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert set(re.split(r",\s*", answer.headers["Access-Control-Expose-Headers"])) == EXPOSED
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "origin" in answer.headers["Vary"].lower()


def test_an_allowed_origin_may_read_a_refusal_and_a_304_too(gateway, token):
    assert gateway.get("/v1/jobs", Origin=SHOP).headers["Access-Control-Allow-Origin"] == SHOP
    etag = gateway.get("/v1/jobs", token, Origin=SHOP).headers["ETag"]
    held = gateway.get("/v1/jobs", token, Origin=SHOP, If_None_Match=etag)
    assert (held.status, held.headers["Access-Control-Allow-Origin"]) == (304, SHOP)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://shop.example.com", f"{SHOP}.evil.example", f"{SHOP}:8443", SHOP.upper()],
)
def test_another_origin_gets_no_cors_headers(gateway, token, origin):
    answer = gateway.get("/v1/jobs", token, Origin=origin)
    assert answer.status == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("path", ["/v1/jobs", UNKNOWN_JOB, f"{UNKNOWN_JOB}/events", "/job"])
def test_a_preflight_needs_no_credential_and_lets_one_be_sent(gateway, path):
    wanted = (
        "authorization,baggage,cache-control,content-type,if-none-match,last-event-id,prefer,sentry-trace,traceparent,"
        "tracestate,x-request-id,x-requested-with,x-shopify-hmac-sha256"
    )
    answer = gateway.get(
        path,
        method="OPTIONS",
        Origin=SHOP,
        Access_Control_Request_Method="GET",
        Access_Control_Request_Headers=wanted,
    )
    assert answer.status in (200, 204)
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert set(wanted.split(",")) <= set(re.split(r",\s*", answer.headers["Access-Control-Allow-Headers"].lower()))
    assert "GET" in answer.headers["Access-Control-Allow-Methods"]
    assert not {"POST", "PUT", "PATCH", "DELETE"} & set(
        re.split(r",\s*", answer.headers["Access-Control-Allow-Methods"])
    )


def test_pages_are_not_for_other_origins(gateway):
    for path in PAGES:
        assert "Access-Control-Allow-Origin" not in over_tls(gateway, path, Origin=SHOP).headers


@pytest.mark.parametrize(
    ("allowed", "origin", "answered"),
    [
        ([SHOP], SHOP, SHOP),
        ([SHOP], "https://evil.example", None),
        (["*"], "https://evil.example", "*"),
        ([SHOP, "*"], SHOP, "*"),
    ],
)
def test_a_page_may_read_answers_where_its_origin_or_every_one_is_allowed(settings, allowed, origin, answered):
    settings.CORS_ALLOWED_ORIGINS = allowed
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/jobs", "headers": [(b"origin", origin.encode())]}
    asyncio.run(allow_origins(app)(scope, None, send))
    headers = dict(sent[0]["headers"])
    assert headers.get(b"access-control-allow-origin") == (answered and answered.encode())
