"""``deploy/nginx.conf`` as it stands, in front of a gateway: headers, reloads, and outages."""

from __future__ import annotations

import contextlib
import shutil
import signal
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

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or ""
HOST = "jobs.example.com"

pytestmark = [
    pytest.mark.skipif(not NGINX, reason="nginx is not installed here (apt-get install nginx)"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.sqlite,  # the proxy knows of no database: once is enough
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
        with self.client() as client:
            return client.get(path, headers=given | headers, extensions={"sni_hostname": HOST})


@contextlib.contextmanager
def nginx(gateway_port: int):
    """nginx with the configuration that is shipped, but for ports and the certificate."""
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


def test_callers_meet_the_gateway_by_tls_alone(acme_token, job_of, acme):
    job = job_of(acme)
    with serving(database_of_this_test(), **SECURED) as gateway, nginx(gateway.port) as front:
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


def test_a_caller_cannot_choose_their_address(db):
    limited = SECURED | {"RATE_LIMIT_FAILED_PER_ADDRESS": "2"}
    with serving(database_of_this_test(), **limited) as gateway, nginx(gateway.port) as front:
        spoofed = ["X-Forwarded-For", "X_Forwarded_For", "x_forwarded_for", "Forwarded"]
        statuses = [
            front.get("/v1/jobs", **{name: f"192.0.2.{number}"}).status_code for number, name in enumerate(spoofed)
        ]
        assert statuses == [401, 401, 429, 429]


def test_eight_kilobytes_of_request_line_and_header_reach_the_gateway(acme_token):
    with serving(database_of_this_test(), **SECURED) as gateway, nginx(gateway.port) as front:
        query = "x=" + "a" * (8192 - len("GET /v1/jobs?x= HTTP/1.1"))
        assert front.get(f"/v1/jobs?{query}", acme_token, **{"X-Long": "a" * 8000}).status_code == 200


def test_a_gateway_that_is_away_is_told_in_the_callers_dialect(db):
    (nobody,) = free_ports(1)
    with nginx(nobody) as front:
        for path, body in [
            (
                "/v1/jobs",
                {
                    "code": "UNAVAILABLE",
                    "detail": "The gateway cannot be reached right now. Try again in a few seconds.",
                },
            ),
            ("/job", {"error": "The gateway cannot be reached right now. Try again in a few seconds.", "code": 503}),
        ]:
            answer = front.get(path)
            assert (answer.status_code, answer.headers["Content-Type"], answer.headers["Retry-After"]) == (
                503,
                "application/json",
                "5",
            )
            assert answer.json() == body


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
