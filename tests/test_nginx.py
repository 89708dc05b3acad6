"""``deploy/nginx.conf`` as it stands, in front of a gateway: headers, reloads, and outages."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.gateway import ROOT, database_of_this_test, serving
from tests.servers import free_ports, temporary_folder, wait_until
from tests.test_rate_limits import seconds_left

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or ""
HOST = "jobs.example.com"

pytestmark = [
    pytest.mark.skipif(not NGINX, reason="nginx is not installed here (apt-get install nginx)"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.sqlite,  # the proxy does not use the database: once is enough
]

SECURED = {
    "TRUSTED_PROXIES": "127.0.0.1",
    "DJANGO_SECURE": "1",
    "PUBLIC_BASE_URL": f"https://{HOST}",
    "DJANGO_ALLOWED_HOSTS": f"{HOST},localhost,127.0.0.1",
}


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of ``HOST`` that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, private


class Front:
    """nginx, and how to reach it as callers do."""

    def __init__(self, plain_port: int, port: int, chain: Path) -> None:
        self.plain_port, self.port, self.chain = plain_port, port, chain

    def client(self) -> httpx.Client:
        trusted = ssl.create_default_context(cafile=str(self.chain))
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=trusted, headers={"Host": HOST})

    def get(self, path: str, token: str = "", **headers: str) -> httpx.Response:
        given = {"Authorization": f"Bearer {token}"} if token else {}
        return self.request("GET", path, **given, **headers)

    def request(self, method: str, path: str, **headers: str) -> httpx.Response:
        with self.client() as client:
            return client.request(method, path, headers=headers, extensions={"sni_hostname": HOST})


@contextlib.contextmanager
def nginx(gateway_port: int, *changes: tuple[str, str]):
    """nginx with the configuration that is shipped, but for ports, the certificate and ``changes`` of its text."""
    plain_port, port = free_ports(2)
    with temporary_folder("jgw-nginx-") as folder:
        chain, key = certificate(folder)
        site = (ROOT / "deploy" / "nginx.conf").read_text()
        for shipped, here in [
            ("listen 80;", f"listen 127.0.0.1:{plain_port};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
            ("127.0.0.1:8000", f"127.0.0.1:{gateway_port}"),
            ("/etc/letsencrypt/live/jobs.example.com/fullchain.pem", str(chain)),
            ("/etc/letsencrypt/live/jobs.example.com/privkey.pem", str(key)),
            *changes,
        ]:
            assert site.count(shipped) == 1, shipped
            site = site.replace(shipped, here)
        (folder / "site.conf").write_text(site)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{}} "
            f"http {{ {temporary} include {folder}/site.conf; }}"
        )
        (folder / "log").touch()
        process = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: reachable(plain_port), process, folder / "log")
            yield Front(plain_port, port, chain)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def reachable(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return bool(httpx.get(f"http://127.0.0.1:{port}/"))
    return False


@pytest.fixture(scope="module")
def served(django_db_setup):
    # Few bad credentials, for one test; the others send none.
    with serving(database_of_this_test(), RATE_LIMIT_FAILED_PER_ADDRESS="2", **SECURED) as gateway:
        yield gateway


@pytest.fixture
def gateway(served, transactional_db):
    """One for all tests: it reads what each of them has committed."""
    return served


def test_callers_meet_the_gateway_by_tls_alone(gateway, acme_token, job_of, acme):
    job = job_of(acme)
    with nginx(gateway.port) as front:
        plain = httpx.get(f"http://127.0.0.1:{front.plain_port}/v1/jobs?limit=2", headers={"Host": HOST})
        assert (plain.status_code, plain.headers["Location"]) == (308, f"https://{HOST}/v1/jobs?limit=2")
        answer = front.get(f"/v1/jobs/{job}", acme_token, **{"X-Request-ID": "abc"})
        assert (answer.status_code, answer.json()["public_id"], answer.headers["X-Request-ID"]) == (
            200,
            str(job),
            "abc",
        )
        assert answer.headers.get_list("Strict-Transport-Security") == ["max-age=31536000"]
        assert front.get(f"/v1/jobs/{job}", acme_token, **{"If-None-Match": answer.headers["ETag"]}).status_code == 304
        page = front.get("/admin/login/")
        assert page.status_code == 200, "it would redirect to itself without X-Forwarded-Proto"
        assert page.headers.get_list("Strict-Transport-Security") == ["max-age=31536000"]
        assert "Secure" in page.headers["Set-Cookie"]
        assert front.get("/readyz").text.startswith("database: ok\n")
        assert front.get("/metrics").status_code == 404


def test_a_caller_cannot_choose_their_address(gateway, settings):
    with nginx(gateway.port) as front:
        left = seconds_left("127.0.0.1", settings.SECRET_KEY)
        if left < 10:  # the requests shall be in one window
            time.sleep(left)
        spoofed = ["X-Forwarded-For", "X_Forwarded_For", "x_forwarded_for", "Forwarded"]
        statuses = [
            front.get("/v1/jobs", **{name: f"192.0.2.{number}"}).status_code for number, name in enumerate(spoofed)
        ]
        assert statuses == [401, 401, 429, 429]


def test_eight_kilobytes_of_request_line_and_header_reach_the_gateway(gateway, acme_token):
    with nginx(gateway.port) as front:
        query = "x=" + "a" * (8192 - len("GET /v1/jobs?x= HTTP/1.1"))
        assert front.get(f"/v1/jobs?{query}", acme_token, **{"X-Long": "a" * 8000}).status_code == 200


ORIGIN = "https://shop.example.com"
UNREACHABLE = "The gateway cannot be reached right now. Try again in a few seconds."
UNAVAILABLE = {"code": "UNAVAILABLE", "detail": UNREACHABLE}
FLEET_UNAVAILABLE = {"error": UNREACHABLE, "code": 503}


@contextlib.contextmanager
def upstream(*answers: bytes):
    """A server that sends the first of ``answers``, waits for the event that it yields, sends the others and closes."""
    proceed = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    for number, answer in enumerate(answers):
                        connection.sendall(answer)
                        assert number or proceed.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1], proceed
    finally:
        proceed.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", UNAVAILABLE),
        ("/v1/events", UNAVAILABLE),
        ("/nowhere", UNAVAILABLE),
        ("/job", FLEET_UNAVAILABLE),
        ("/job?limit=2", FLEET_UNAVAILABLE),
        ("/api/job", FLEET_UNAVAILABLE),
    ],
)
def test_while_the_gateway_is_down_nginx_answers_in_the_format_of_the_api(db, path, body):
    (closed,) = free_ports(1)
    with nginx(closed, ("#location = /api/job", "location = /api/job")) as front:
        answer = front.get(path, Origin=ORIGIN, **{"X-Request-ID": "abc"})
    assert (answer.status_code, answer.json()) == (503, body)
    assert {name: answer.headers.get_list(name) for name in answer.headers} == {
        "server": answer.headers.get_list("Server"),
        "date": answer.headers.get_list("Date"),
        "connection": ["keep-alive"],
        "content-type": ["application/json"],
        "content-length": [str(len(answer.content))],
        "retry-after": ["5"],
        "cache-control": ["no-store"],
        "strict-transport-security": ["max-age=31536000"],
        "x-request-id": ["abc"],
        "vary": ["Origin"],
        "access-control-allow-origin": [ORIGIN],
        "access-control-allow-methods": ["GET, HEAD, OPTIONS"],
        "access-control-expose-headers": ["Retry-After, X-Request-ID"],
    }


def test_a_page_of_another_origin_may_not_read_that_answer(db):
    (closed,) = free_ports(1)
    with nginx(closed) as front:
        for origin in ("https://evil.example.com", "https://shop.example.com.evil.example", "null"):
            assert "Access-Control-Allow-Origin" not in front.get("/v1/jobs", Origin=origin).headers
        assert "Access-Control-Allow-Origin" not in front.get("/v1/jobs").headers


def test_a_browser_may_ask_first_and_then_read_that_answer(db):
    (closed,) = free_ports(1)
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization,traceparent"}
    with nginx(closed) as front:
        preflight = front.request("OPTIONS", "/v1/jobs", Origin=ORIGIN, **asked)
        assert (preflight.status_code, preflight.content) == (204, b"")
        assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert preflight.headers["Access-Control-Allow-Headers"] == "authorization,traceparent"
        assert front.request("OPTIONS", "/v1/jobs", Origin=ORIGIN).status_code == 503
        assert front.request("OPTIONS", "/v1/jobs", Origin="https://evil.example.com", **asked).status_code == 503


@pytest.mark.parametrize("given", ["a b", "a" * 129, "a;b", ""])
def test_that_answer_has_a_request_id_that_is_safe_to_log(db, given):
    (closed,) = free_ports(1)
    with nginx(closed) as front:
        answer = front.get("/v1/jobs", **{"X-Request-ID": given})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


@pytest.mark.parametrize(
    ("closes", "change"),
    [
        (True, ()),  # 502
        (False, [("proxy_read_timeout 75s;", "proxy_read_timeout 1s;")]),  # 504
        (False, [("location / {", "location / { return 503;")]),  # as limit_req does
    ],
)
def test_each_error_that_nginx_makes_is_a_503_in_json(db, closes, change):
    with upstream(b"") as (port, proceed), nginx(port, *change) as front:
        if closes:
            proceed.set()
        answer = front.get("/v1/jobs")
    assert (answer.status_code, answer.json()) == (503, UNAVAILABLE)


def test_while_the_gateway_is_down_the_console_is_a_page_with_a_way_back(db):
    (closed,) = free_ports(1)
    with nginx(closed) as front:
        answer = front.get("/admin/jobs/job/")
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
    assert (answer.headers["Retry-After"], answer.headers["Cache-Control"]) == ("5", "no-store")
    assert '<a href="/admin/">Back to the console</a>' in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_a_503_of_the_gateway_itself_passes_unchanged(db):
    own = b'{"code": "UNAVAILABLE", "detail": "The database cannot be reached."}'
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with upstream(head % len(own) + own) as (port, proceed), nginx(port) as front:
        proceed.set()
        answer = front.get("/v1/jobs")
    assert (answer.status_code, answer.headers["Retry-After"], answer.content) == (503, "2", own)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/01JADE5XAMPK9M0Q7RS3T4V5W6/events"])
def test_an_event_of_a_stream_is_not_held_back(db, path):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with (
        upstream(head + b"data: 1\n\n", b"data: 2\n\n") as (port, proceed),
        nginx(port) as front,
        front.client() as client,
        client.stream("GET", path, timeout=10, extensions={"sni_hostname": HOST}) as answer,
    ):
        received = answer.iter_bytes()
        assert next(received) == b"data: 1\n\n"
        proceed.set()
        assert b"".join(received) == b"data: 2\n\n"


def test_one_line_serves_the_fleet_api_as_api_job_too(gateway, acme_token, job_of, acme):
    job_of(acme)
    with nginx(gateway.port, ("#location = /api/job", "location = /api/job")) as front:
        answer = front.get("/api/job?limit=1", acme_token)
        assert (answer.status_code, answer.json()) == (200, front.get("/job?limit=1", acme_token).json())
        assert answer.json()["total_items"] == 1


def test_a_reload_under_load_fails_no_request(acme_token, job_of, acme):
    job = job_of(acme)
    path, headers = f"/v1/jobs/{job}", {"Authorization": f"Bearer {acme_token}"}
    outcomes: Counter[object] = Counter()
    over = threading.Event()
    with serving(database_of_this_test(), workers=2, **SECURED) as gateway, nginx(gateway.port) as front:

        def poll() -> None:
            with front.client() as client:
                while not over.is_set():
                    try:
                        outcomes[client.get(path, headers=headers, extensions={"sni_hostname": HOST}).status_code] += 1
                    except httpx.HTTPError as error:
                        outcomes[repr(error)] += 1

        pollers = [threading.Thread(target=poll) for _ in range(4)]
        for poller in pollers:
            poller.start()
        gateway.reload()
        time.sleep(0.5)
        over.set()
        for poller in pollers:
            poller.join()
    assert set(outcomes) == {200}
    assert outcomes[200] > 100
