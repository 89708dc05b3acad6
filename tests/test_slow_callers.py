"""Who does not send what they announced, or keeps a worker busy, holds up themselves and nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time

import pytest
from django.core.cache import cache
from django.test import RequestFactory

from tenants import side_lane
from tests.client import Client
from tests.forgery import SECRET, hmac_header
from tests.gateway import database_of_this_test, serving
from tests.test_rate_limits import LOCAL_MEMORY, count_in  # noqa: F401 - a fixture

FORM = b"Cookie: csrftoken=abcdefghijklmnopqrstuvwxyz012345\r\nContent-Type: application/x-www-form-urlencoded\r\n"
SIGN_IN = b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\n" + FORM
BUSY = {
    "code": "UNAVAILABLE",
    "detail": "The gateway is busy with somebody else's body or file. Try again in a few seconds.",
}
LATE = {"code": "REQUEST_TIMEOUT", "detail": "The announced request body did not arrive within 5 seconds."}


@pytest.fixture
def gateway(transactional_db):
    with serving(database_of_this_test(), SHOPIFY_API_SECRET=SECRET, SHOPIFY_API_KEY="key") as gateway:
        yield gateway


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


def vouched(token, body_headers, hmac="x"):
    return (
        f"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n"
        f"X-Shopify-Hmac-Sha256: {hmac}\r\n"
    ).encode() + body_headers


def test_the_api_answers_beside_bodies_that_never_come(gateway, acme_token):
    heads = [
        SIGN_IN + b"Content-Length: 100\r\n\r\n",
        SIGN_IN + b"Content-Length: 100\r\n\r\nusername=",
        SIGN_IN + b"Transfer-Encoding: chunked\r\n\r\n",
        SIGN_IN + b"Transfer-Encoding: chunked\r\n\r\n9\r\nusername=\r\n",
        SIGN_IN.replace(b"/admin/login/", b"/nothing") + b"Content-Length: 100\r\n\r\n",
        vouched(acme_token, b"Content-Length: 100\r\n\r\n"),
        vouched(acme_token, b"Transfer-Encoding: chunked\r\n\r\n"),
        vouched(acme_token, b"Content-Length: 100\r\n\r\n").replace(b"GET", b"POST", 1),
        # Nobody reads these: no form, no HMAC, no credential.
        b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
        b"PUT /docs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
    ]
    with contextlib.ExitStack() as stack:
        for head in heads:
            stack.enter_context(callers(gateway, head, 4))
        slowest = 0.0
        for _ in range(50):
            asked = time.monotonic()
            assert gateway.get("/v1/jobs", acme_token).status == 200
            assert gateway.get("/livez").status == 200
            slowest = max(slowest, time.monotonic() - asked)
    assert slowest < side_lane.BODY_SECONDS / 5
    # And soon after they are gone, bodies are read again.
    time.sleep(0.5)
    assert gateway.send(vouched(acme_token, b"Content-Length: 2\r\n\r\n{}", hmac_header(b"{}"))).status == 200


def test_one_body_is_awaited_for_a_while_and_whoever_comes_meanwhile_is_told_to_come_again(gateway, acme_token):
    head = vouched(acme_token, b"Content-Length: 100\r\n\r\n")
    began = time.monotonic()
    with callers(gateway, head, 1) as (late,):
        time.sleep(0.5)
        refused = gateway.send(head)
        assert (refused.status, json.loads(refused.body), refused.headers["Retry-After"]) == (503, BUSY, "1")
        page = gateway.send(SIGN_IN + b"Connection: close\r\nContent-Length: 100\r\n\r\n")
        assert (page.status, page.headers["Retry-After"]) == (503, "1")
        assert BUSY["detail"].encode() in page.rest  # in chunks
        assert time.monotonic() - began < side_lane.BODY_SECONDS / 2
        answer = late.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert LATE["detail"].encode() in answer


def test_a_body_may_come_in_pieces(gateway, acme_token):
    for body_headers, pieces in (
        (b"Content-Length: 4\r\n\r\n", [b"[", b"1", b"2]"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"1\r\n[\r\n", b"2\r\n12\r\n", b"1\r\n]\r\n", b"0\r\n\r\n"]),
    ):
        with callers(gateway, vouched(acme_token, body_headers, hmac_header(b"[12]")), 1) as (connection,):
            for piece in pieces:
                time.sleep(0.1)
                connection.sendall(piece)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_hmac_covers_a_body_without_a_length_too(gateway, acme_token):
    """Django takes it for empty, and what is made for an empty body anyone can repeat."""
    chunked = b"Transfer-Encoding: chunked\r\n\r\n4\r\n[12]\r\n0\r\n\r\n"
    assert gateway.send(vouched(acme_token, chunked, hmac_header(b"[12]"))).status == 200
    assert gateway.send(vouched(acme_token, chunked, hmac_header(b""))).status == 401
    large = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (3_000_000, b"x" * 3_000_000)
    assert gateway.send(vouched(acme_token, large, hmac_header(b"x" * 3_000_000))).status == 401


@pytest.mark.full
@pytest.mark.parametrize("told", [signal.SIGHUP, signal.SIGTERM])
def test_a_caller_who_never_ends_keeps_no_worker_from_stopping(gateway, told):
    (before,) = gateway.workers()
    with callers(gateway, SIGN_IN + b"Content-Length: 100\r\n\r\n", 2):
        os.kill(gateway.pid, told)
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{before}") and time.monotonic() < deadline:  # noqa: PTH110
            time.sleep(0.1)
        assert time.monotonic() < deadline


def test_pictures_that_are_read_slowly_hold_up_nobody(gateway, acme, acme_token, job_of):
    folder = gateway.log.parent / "artifacts" / "tenants" / "acme"
    folder.mkdir(parents=True)
    links = {}
    for size in (8, 20):
        (folder / f"{size}.png").write_bytes(bytes(size * 2**20))
        artifact = {"storage_key": f"tenants/acme/{size}.png", "kind": "on_model_render", "role": "final"}
        job = job_of(acme, status="SUCCESS", artifacts=[artifact])
        (result,) = json.loads(gateway.get(f"/v1/jobs/{job}", acme_token).body)["result"]
        links[size] = result["image_url"].removeprefix("http://localhost")
    with contextlib.ExitStack() as stack:
        for link in links.values():
            stack.enter_context(callers(gateway, f"GET {link} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 10))
        time.sleep(0.5)
        for _ in range(10):
            assert gateway.get("/v1/jobs", acme_token).status == 200
        assert gateway.get(links[8]).body == bytes(8 * 2**20)
        refused = gateway.get(links[20])
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.headers["Cache-Control"] == "no-store"
        assert gateway.get(links[20], method="HEAD").headers["Content-Length"] == str(20 * 2**20)
    time.sleep(0.5)
    assert gateway.get(links[20]).body == bytes(20 * 2**20)


class Silence:
    """A body that comes when it is told to."""

    def __init__(self):
        self.over = threading.Event()

    def read(self, *_):
        self.over.wait(10)
        return b"x"


def test_so_many_late_bodies_are_awaited_and_no_more(monkeypatch):
    monkeypatch.setattr(side_lane, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(side_lane, "_awaited", threading.BoundedSemaphore(2))
    silence = Silence()

    def post():
        request = RequestFactory().get("/v1/jobs", HTTP_TRANSFER_ENCODING="chunked")
        request.META["wsgi.input"] = silence
        return side_lane.body_of(request)

    for _ in range(2):
        with pytest.raises(side_lane.BodyLate):
            post()
    with pytest.raises(side_lane.SideLaneTaken):
        post()
    silence.over.set()
    time.sleep(0.1)
    assert post() == b"x"


# --- passwords ---


@pytest.fixture
def sign_in(sam):
    def sign_in(password, address="192.0.2.1"):
        form = {"username": "sam", "password": password, "next": "/admin/"}
        return Client(REMOTE_ADDR=address).post("/admin/login/", form)

    return sign_in


def test_passwords_are_guessed_as_often_as_tokens(sign_in, settings, count_in):  # noqa: F811
    settings.RATE_LIMIT_FAILED_PER_ADDRESS = 3
    count_in(LOCAL_MEMORY)
    assert [sign_in("guess").status_code for _ in range(3)] == [200] * 3
    refused = sign_in("sam")  # or else the guess that hits would be told
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert sign_in("sam", "192.0.2.2").status_code == 302
    cache.clear()
    assert sign_in("sam").status_code == 302


def test_one_password_is_checked_at_a_time(sign_in):
    with side_lane.side_lane():
        assert sign_in("sam").status_code == 503
    assert sign_in("sam").status_code == 302
