"""Clients that send or read slowly, or not at all, do not delay other clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time

import pytest
from django.core.cache import cache
from django.core.signals import request_finished

from jobs.api.request import BODY_SECONDS
from jobs_gateway import pages
from jobs_gateway.pages import MAX_PAGES, MAX_WAIT_SECONDS
from tests.client import Client, run
from tests.forgery import SECRET, hmac_header
from tests.gateway import database_of_this_test, serving
from tests.test_rate_limits import LOCAL_MEMORY, NOON, count_in  # noqa: F401 - a fixture

pytestmark = pytest.mark.full_on_postgresql

FORM = b"Cookie: csrftoken=abcdefghijklmnopqrstuvwxyz012345\r\nContent-Type: application/x-www-form-urlencoded\r\n"
SIGN_IN = b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\n" + FORM
LATE = {"code": "REQUEST_TIMEOUT", "detail": "The announced request body did not arrive within 5 seconds."}


@pytest.fixture(scope="module")
def served(django_db_setup):
    with serving(database_of_this_test(), SHOPIFY_API_SECRET=SECRET, SHOPIFY_API_KEY="key") as gateway:
        yield gateway


@pytest.fixture
def gateway(served, transactional_db):
    """One for all tests: it reads what each of them has committed."""
    return served


@contextlib.contextmanager
def callers(gateway, head, number):
    """So many connections that sent ``head`` and then nothing."""
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 15)) for _ in range(number)
        ]
        for connection in connections:
            connection.sendall(head)
        yield connections


def with_hmac(token, body_headers, hmac="x"):
    return (
        f"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n"
        f"X-Shopify-Hmac-Sha256: {hmac}\r\n"
    ).encode() + body_headers


def unfinished_requests(token):
    length, chunked = b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
    return {
        "form": SIGN_IN + length,
        "half a form": SIGN_IN + length + b"username=",
        "chunked form": SIGN_IN + chunked + b"9\r\nusername=\r\n",
        "unknown page": SIGN_IN.replace(b"/admin/login/", b"/nothing") + length,
        "chunked unknown page": SIGN_IN.replace(b"/admin/login/", b"/nothing") + chunked,
        "PUT of the API": b"PUT /v1/jobs HTTP/1.1\r\nHost: localhost\r\n" + length,
        "headers only": b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n",
        "GET with a body and the HMAC header": with_hmac(token, length),
        "POST with a chunked body and the HMAC header": with_hmac(token, chunked).replace(b"GET", b"POST", 1),
        "probe": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + length,
    }


@pytest.mark.parametrize("seconds", [7, pytest.param(12, marks=pytest.mark.full)])
def test_everybody_else_is_answered_beside_eight_unfinished_requests_of_each_kind(gateway, acme_token, seconds):
    """Runs longer than the deadline of a body."""
    with contextlib.ExitStack() as stack:
        for head in unfinished_requests(acme_token).values():
            stack.enter_context(callers(gateway, head, 8))
        began, slowest, answers = time.monotonic(), 0.0, 0
        while time.monotonic() - began < seconds:
            asked = time.monotonic()
            assert gateway.get("/v1/jobs", acme_token).status == 200
            assert gateway.get("/livez").status == 200
            assert gateway.get("/admin/login/").status == 200
            slowest = max(slowest, time.monotonic() - asked)
            answers += 3
            time.sleep(0.05)  # what is asked without a pause would only keep a core busy
    assert slowest < 1
    assert answers > 3 * seconds
    assert gateway.send(with_hmac(acme_token, b"Content-Length: 2\r\n\r\n{}", hmac_header(b"{}"))).status == 200


def test_what_does_not_arrive_is_waited_for_and_then_refused(gateway, acme_token):
    """Bodies, and a header that never ends, which is cut off."""
    heads = [
        with_hmac(acme_token, b"Content-Length: 100\r\n\r\n"),
        SIGN_IN + b"Connection: close\r\nContent-Length: 100\r\n\r\n",
    ]
    never_ends = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Never: "
    with callers(gateway, never_ends, 1) as (endless,), contextlib.ExitStack() as stack:
        began = time.monotonic()
        answers = [
            connection.recv(65536)
            for connection in [stack.enter_context(callers(gateway, head, 1))[0] for head in heads]
        ]
        assert BODY_SECONDS - 0.5 < time.monotonic() - began < BODY_SECONDS + 2
        cut_off = endless.recv(65536)
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert LATE["detail"].encode() in answer
    assert json.loads(answers[0].partition(b"\r\n\r\n")[2]) == LATE
    assert cut_off == b"" or cut_off.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))


def test_a_body_may_come_in_pieces(gateway, acme_token):
    for body_headers, pieces in (
        (b"Content-Length: 4\r\n\r\n", [b"[", b"1", b"2]"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"1\r\n[\r\n", b"2\r\n12\r\n", b"1\r\n]\r\n", b"0\r\n\r\n"]),
    ):
        with callers(gateway, with_hmac(acme_token, body_headers, hmac_header(b"[12]")), 1) as (connection,):
            for piece in pieces:
                time.sleep(0.1)
                connection.sendall(piece)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_hmac_covers_a_body_without_a_length_too(gateway, acme_token):
    """Django takes it for empty, and an HMAC of an empty body can be repeated by anyone who saw one."""
    chunked = b"Transfer-Encoding: chunked\r\n\r\n4\r\n[12]\r\n0\r\n\r\n"
    assert gateway.send(with_hmac(acme_token, chunked, hmac_header(b"[12]"))).status == 200
    assert gateway.send(with_hmac(acme_token, chunked, hmac_header(b""))).status == 401
    large = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (3_000_000, b"x" * 3_000_000)
    assert gateway.send(with_hmac(acme_token, large, hmac_header(b"x" * 3_000_000))).status == 401


@pytest.mark.full
@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGTERM])
def test_an_unfinished_request_keeps_no_worker_from_stopping(transactional_db, sent):
    with serving(database_of_this_test()) as gateway:
        (before,) = gateway.workers()
        with callers(gateway, SIGN_IN + b"Content-Length: 100\r\n\r\n", 2):
            os.kill(gateway.pid, sent)
            deadline = time.monotonic() + 20
            while os.path.exists(f"/proc/{before}") and time.monotonic() < deadline:  # noqa: PTH110
                time.sleep(0.1)
            assert time.monotonic() < deadline


def test_two_thousand_idle_connections_delay_no_request(gateway, acme_token):
    with callers(gateway, b"", 2000) as idle:
        assert gateway.get("/v1/jobs", acme_token).status == 200
        idle[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[-1].recv(12) == b"HTTP/1.1 200"


def test_pages_that_are_read_slowly_keep_no_other_page_waiting(gateway):
    # Four megabytes, of which each takes what the buffers hold.
    large = (
        b"GET /static/drf_spectacular_sidecar/redoc/bundles/redoc.standalone.js.map HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_PAGES):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", gateway.port))
            reader.sendall(large)
            assert reader.recv(12) == b"HTTP/1.1 200"
        for path in ("/", "/docs", "/admin/login/"):
            began = time.monotonic()
            assert gateway.get(path).status == 200
            assert time.monotonic() - began < MAX_WAIT_SECONDS


def test_a_page_whose_reader_takes_nothing_is_closed(db, monkeypatch):
    monkeypatch.setattr(pages, "SEND_SECONDS", 0.05)
    finished = []

    def note(**_):
        finished.append(True)

    async def ask():
        answered = pages.Pages(pages.PageHandler())

        async def receive():
            if asked:
                await never.wait()
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            received.append(message)
            if message["type"] == "http.response.body":
                await never.wait()

        asked, received, never = [], [], asyncio.Event()
        headers = [(b"host", b"testserver")]
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
        scope |= {"scheme": "http", "client": ("127.0.0.1", 1), "server": ("testserver", 80)}
        scope["gateway"] = {"request_id": "1", "request": None, "status": 0, "followed_by": None}
        async with asyncio.timeout(30):
            await answered(scope, receive, send)
        assert received[0]["status"] == 200
        assert (answered.sending, answered.pages._places.locked()) == (0, False)

    request_finished.connect(note)
    try:
        run(ask)
    finally:
        request_finished.disconnect(note)
    assert finished == [True], "what the page had open would stay open"


# --- passwords ---


@pytest.mark.parametrize("number", [8, pytest.param(20, marks=pytest.mark.full)])
def test_a_flood_of_sign_ins_leaves_the_api_as_it_is(gateway, acme_token, number):
    """One password is checked at a time, and the others wait: a few are a flood."""
    page = gateway.get("/admin/login/")
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    token = (page.body or page.rest).decode().partition('csrfmiddlewaretoken" value="')[2].partition('"')[0]
    form = f"username=sam&password=guess&csrfmiddlewaretoken={token}".encode()
    request = (
        f"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: {cookie}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n\r\n"
    ).encode() + form
    assert gateway.send(request).status == 200
    statuses: list[int] = []
    guesses = [
        threading.Thread(target=lambda: statuses.append(gateway.send(request, 30).status)) for _ in range(number)
    ]
    for guess in guesses:
        guess.start()
    slowest = 0.0
    while any(guess.is_alive() for guess in guesses):
        asked = time.monotonic()
        assert gateway.get("/v1/jobs", acme_token).status == 200
        slowest = max(slowest, time.monotonic() - asked)
        time.sleep(0.02)  # as above
    assert set(statuses) <= {200, 503}
    assert slowest < 1


@pytest.fixture
def sign_in(sam):
    def sign_in(password, address="192.0.2.1"):
        form = {"username": "sam", "password": password, "next": "/admin/"}
        return Client(REMOTE_ADDR=address).post("/admin/login/", form)

    return sign_in


def test_passwords_are_guessed_as_often_as_tokens(sign_in, settings, count_in, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tenants.throttling.time", lambda: NOON)  # no window ends meanwhile
    settings.RATE_LIMIT_FAILED_PER_ADDRESS = 3
    count_in(LOCAL_MEMORY)
    assert [sign_in("guess").status_code for _ in range(3)] == [200] * 3
    refused = sign_in("sam")  # the right password too, or the refusal would confirm a guess
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert sign_in("sam", "192.0.2.2").status_code == 302
    cache.clear()
    assert sign_in("sam").status_code == 302
