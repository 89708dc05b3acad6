"""Webhooks are sent to public addresses and to allowed networks, and to no other, however the address is given."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.core.exceptions import ValidationError

from jobs.webhooks import checks, endpoints
from jobs.webhooks.addresses import ForbiddenAddress, check_address
from jobs.webhooks.sender import Sender
from tests.receivers import answering, receiving

pytestmark = pytest.mark.sqlite  # about no database: once is enough

FORBIDDEN = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254"),
    *("192.168.0.1", "192.168.255.255", "100.64.0.1", "100.127.255.255", "169.254.0.1"),
    *("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16"),  # metadata of clouds
    *("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "198.19.255.255", "192.88.99.1", "192.0.0.8"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "fe80::1", "fe80::1%1", "fec0::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254"),
    *("ff02::1", "ff0e::1", "100::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:7f00:1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),  # NAT64
    *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:0808:0808::1"),  # 6to4
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001::1", "2001:10::1", "2001:20::1"),  # Teredo, ORCHID
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
# Spellings of 127.0.0.1 that some resolvers understand.
SPELLINGS = ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "localhost", "localhost."]


@pytest.fixture(autouse=True)
def no_network_is_allowed(settings):
    settings.WEBHOOK_ALLOWED_NETWORKS = []


def post(url, answers=None, monkeypatch=None, body=b"{}"):
    """The answer to a webhook; ``answers`` replaces what the resolver says, one list of addresses for each look-up."""
    if answers is not None:
        lookups = iter(answers)

        def look_up(host, port, *args, **options):
            return [
                (
                    socket.AF_INET6 if ":" in address else socket.AF_INET,
                    socket.SOCK_STREAM,
                    socket.IPPROTO_TCP,
                    "",
                    (address, port, 0, 0) if ":" in address else (address, port),
                )
                for address in next(lookups)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def main():
        async with Sender() as sender:
            return await sender.post(url, body, {})

    return asyncio.run(main())


def test_there_are_sixty_of_them(record_property):
    assert len(FORBIDDEN) >= 60
    record_property("cases", len(FORBIDDEN))


@pytest.mark.parametrize("address", FORBIDDEN)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_forbidden_address_is_not_connected_to_as_a_literal_or_by_name(address, scheme, settings, monkeypatch):
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(ValidationError, match="cannot be used"):
        endpoints.check_url(f"{scheme}://{literal}/hook")
    answer = post(f"{scheme}://{literal.replace('%', '%25')}/hook")
    assert answer.status is None
    by_name = post(f"{scheme}://receiver.example/hook", [[address.partition("%")[0]]], monkeypatch)
    assert by_name.status is None
    assert "address" in by_name.error


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed_with_tls_only(address):
    check_address(address, [], is_encrypted=True)
    with pytest.raises(ForbiddenAddress, match="https only"):
        check_address(address, [], is_encrypted=False)
    endpoints.check_url(f"https://{f'[{address}]' if ':' in address else address}/hook")


@pytest.mark.parametrize("host", SPELLINGS)
def test_other_spellings_of_this_machine_reach_nothing(host):
    async def main():
        async with receiving() as receiver:
            async with Sender() as sender:
                answer = await sender.post(f"http://{host}:{receiver.port}/", b"{}", {})
            assert answer.status is None
            assert receiver.received == []

    asyncio.run(main())


def test_of_several_addresses_of_a_name_each_is_checked(monkeypatch):
    answer = post("http://receiver.example/", [["10.0.0.1", "::1", "127.0.0.1"]], monkeypatch)
    assert answer.status is None
    assert "not a public address" in answer.error


@pytest.mark.parametrize("honest", [0, 1, 2])
def test_an_address_that_changes_between_look_up_and_connection_is_caught(honest, settings, monkeypatch):
    """The first ``honest`` look-ups have an allowed address, at which nothing listens; all others this machine's."""
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.2/32")]

    async def main():
        async with receiving(address="127.0.0.1") as receiver:
            answers = ["127.0.0.2"] * honest

            def look_up(*_, **__):
                address = answers.pop() if answers else "127.0.0.1"
                return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, receiver.port))]

            monkeypatch.setattr(socket, "getaddrinfo", look_up)
            for _ in range(4):
                async with Sender() as sender:
                    answer = await sender.post(f"http://receiver.example:{receiver.port}/", b"{}", {})
                assert answer.status is None
            assert "not a public address" in answer.error
            assert receiver.received == []

    asyncio.run(main())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(status, settings):
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]

    async def main():
        async with receiving() as inner:
            async with receiving(answering(status, Location=inner.url)) as outer, Sender() as sender:
                answer = await sender.post(outer.url, b"{}", {})
            assert (answer.status, answer.is_success) == (status, False)
            assert inner.received == []

    asyncio.run(main())


def test_proxies_of_the_environment_are_not_used(settings, monkeypatch):
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]

    async def main():
        async with receiving() as proxy, receiving() as receiver:
            for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            async with Sender() as sender:
                answer = await sender.post(receiver.url, b"{}", {})
            assert (answer.status, len(receiver.received), proxy.received) == (204, 1, [])

    asyncio.run(main())


def test_allowed_networks_are_called_by_http_and_https(settings):
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00:1::/32")]
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5"):
        for is_encrypted in (True, False):
            check_address(address, settings.WEBHOOK_ALLOWED_NETWORKS, is_encrypted=is_encrypted)
    for address in ("10.2.0.1", "fd00:2::5", "64:ff9b::10.1.2.3"):
        with pytest.raises(ForbiddenAddress):
            check_address(address, settings.WEBHOOK_ALLOWED_NETWORKS, is_encrypted=True)
    endpoints.check_url("http://10.1.2.3:8080/hook")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://receiver.example/", "write https://"),
        ("https:///hook", "write https://"),
        ("receiver.example/hook", "write https://"),
        ("https://user:password@receiver.example/", "leave out the user name"),
        ("https://receiver.example/#part", "leave out what follows the #"),
        ("https://receiver.example:99999/", "Port out of range"),
        ("https://receiver.example/a b", "without spaces"),
        ("https://receiver.example/\n", "without spaces"),
        ("https://bücher.example/", "of ASCII"),
        ("https://receiver.example/" + "x" * 2000, "at most 2,000"),
        ("http://receiver.example/", "http is for the networks"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_reason(url, reason):
    with pytest.raises(ValidationError, match=reason):
        endpoints.check_url(url)


def test_a_network_of_all_addresses_is_a_mistake(settings):
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network("0.0.0.0/0")]
    assert [each.id for each in checks.check_allowed_networks()] == ["webhooks.E001"]
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network("10.0.0.0/8")]
    assert list(checks.check_allowed_networks()) == []
    settings.WEBHOOK_REQUESTS_PER_ENDPOINT = 0
    assert [each.id for each in checks.check_bounds()] == ["webhooks.E002"]


@pytest.fixture
def certificate(tmp_path):
    """A certificate of 127.0.0.1 that nobody else has signed, and its TLS context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def test_a_certificate_that_nobody_vouches_for_is_refused(settings, certificate):
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]

    async def main():
        async with receiving(context=certificate) as receiver, Sender() as sender:
            answer = await sender.post(receiver.url, b"{}", {})
        assert (answer.status, answer.error, receiver.received) == (None, "the certificate is not valid", [])

    asyncio.run(main())
