"""Links to local files: only the unaltered GET works, and only while it lives."""

from __future__ import annotations

import os
import time
from typing import Any
from unittest import mock

import pytest
from django.core.files.base import ContentFile
from hypothesis import given
from hypothesis import strategies as st

from jobs.artifacts.downloads import IMAGE_TYPES
from jobs.artifacts.local import LocalSigner, expiry_of_link
from jobs.artifacts.signing import links
from tests.client import Client

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
KEY = "tenants/acme/01JADE/front.png"
HOST = "http://testserver"


@pytest.fixture
def store(local_store, settings):
    """The local store with one picture of acme's and one of globex's in it."""
    settings.PRESIGN_TTL_SECONDS = 900
    for key in (KEY, "tenants/acme/01JADE/back.png", "tenants/globex/theirs.png"):
        local_store.save(key, ContentFile(PNG))
    return local_store


@pytest.fixture
def get(store):
    """A GET of a whole URL by a plain client, its path as it stands on the wire."""
    return fetch


def fetch(url, method="GET", **headers):
    path, _, query = url.removeprefix(HOST).partition("?")
    answer: Any = Client(enforce_csrf_checks=True).generic(method, path, QUERY_STRING=query, headers=headers)
    answer.body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer


def test_a_plain_get_of_the_link_returns_the_pictures_bytes(get):
    answer = get(links(HOST).url(KEY))
    assert (answer.status_code, answer.body) == (200, PNG)
    headers = {name: value for name, value in answer.headers.items() if name in ANSWERS}
    assert headers == {
        "Content-Type": "image/png",
        "Content-Length": str(len(PNG)),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    kind, seconds = answer["Cache-Control"].split("max-age=")
    assert kind == "private, "
    assert 600 <= int(seconds) + 1 <= 900


ANSWERS = ("Content-Type", "Content-Length", "Content-Disposition", "X-Content-Type-Options", "Content-Security-Policy")


def test_head_says_the_same_without_the_bytes(get):
    answer = get(links(HOST).url(KEY), "HEAD")
    assert (answer.status_code, answer["Content-Length"], answer.body) == (200, str(len(PNG)), b"")


def test_the_base_is_public_base_url_else_the_requests_own(store, settings):
    assert links(HOST).url(KEY).startswith(f"{HOST}/artifacts/{KEY}?expires=")
    settings.PUBLIC_BASE_URL = "https://jobs.example.com"
    assert links(HOST).url(KEY).startswith(f"https://jobs.example.com/artifacts/{KEY}?expires=")
    assert store.url(KEY) == links(HOST).url(KEY)


def test_links_stay_the_same_within_a_window_and_change_with_the_next(store):
    def made_at(now):
        with mock.patch("time.time", return_value=now):
            made = links(HOST)
            return made.url(KEY), made.window, made.expires_at

    assert made_at(1_800_000_000.0) == made_at(1_800_000_299.9)
    assert made_at(1_800_000_000.0)[2] == 1_800_000_900
    assert not set(made_at(1_800_000_000.0)) & set(made_at(1_800_000_300.0))


@pytest.mark.parametrize(
    "key",
    [
        "tenants/acme/a b+c%2Fd%.png",
        "tenants/acme/straße 客 \U0001f457.png",
        "tenants/acme/a&b=c?d#e;f:g@h,i!j$k'l(m)n*o.png",
        'tenants/acme/[quote"]{brace}|pipe\\back^caret`tick<angle>.png',
        "tenants/acme/line\nbreak\r.png",
        "tenants/acme/..two..dots../x.png",
        "tenants/acme/%2e%2e%2f.png",
    ],
)
def test_keys_with_any_characters_are_served(get, store, key):
    path = os.path.join(store.location, key)  # noqa: PTH118
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(PNG)
    answer = get(links(HOST).url(key))
    assert (answer.status_code, answer.body) == (200, PNG)


@pytest.mark.parametrize(("extension", "content_type"), IMAGE_TYPES.items())
def test_pictures_are_shown(get, store, extension, content_type):
    key = store.save(f"tenants/acme/picture{extension.upper()}", ContentFile(PNG))
    answer = get(links(HOST).url(key))
    assert (answer["Content-Type"], "Content-Disposition" in answer) == (content_type, False)


@pytest.mark.parametrize(
    "name", ["page.html", "drawing.svg", "script.js", "data.json", "front.png.html", "plain", ".png"]
)
def test_everything_else_is_a_download(get, store, name):
    key = store.save(f"tenants/acme/{name}", ContentFile(b"<script>alert(1)</script>"))
    answer = get(links(HOST).url(key))
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["Content-Disposition"] == "attachment"
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_a_copy_that_still_holds_is_not_sent_again(get):
    url = links(HOST).url(KEY)
    first = get(url)
    for header in ({"If-None-Match": first["ETag"]}, {"If-Modified-Since": first["Last-Modified"]}):
        again = get(url, **header)
        assert (again.status_code, again.body, again["ETag"]) == (304, b"", first["ETag"])
        assert again["Cache-Control"].startswith("private, max-age=")
    assert get(url, **{"If-None-Match": '"other"'}).status_code == 200


# --- Attacks ------------------------------------------------------------------------------------------------------


def alterations(url, theirs):
    """Every way we know to bend a link, as (what was done, method, URL): battery 5 of the security issue."""
    address, _, query = url.partition("?")
    expires, signature = (pair.partition("=")[2] for pair in query.split("&"))
    later = str(int(expires) + 1)

    yield "no query", "GET", address
    yield "empty query", "GET", f"{address}?"
    yield "no signature", "GET", f"{address}?expires={expires}"
    yield "no expiry", "GET", f"{address}?signature={signature}"
    yield "empty signature", "GET", f"{address}?expires={expires}&signature="
    yield "empty expiry", "GET", f"{address}?expires=&signature={signature}"
    for what, value in {
        "a second longer": later,
        "a second shorter": str(int(expires) - 1),
        "a year longer": str(int(expires) + 31_536_000),
        "for ever": "999999999999",
        "5,000 digits": "9" * 5000,
        "negative": f"-{expires}",
        "signed": f"+{expires}",
        "zero-padded": f"0{expires}",
        "a fraction": f"{expires}.0",
        "hexadecimal": hex(int(expires)),
        "an exponent": "1e12",
        "underscored": f"{expires[:1]}_{expires[1:]}",
        "arabic digits": "".join(chr(0x660 + int(digit)) for digit in expires),
        "with a space": f"%20{expires}",
        "with a line break": f"{expires}%0A",
        "infinite": "inf",
        "no number": "nan",
        "null": "null",
        "NUL": f"{expires}%00",
    }.items():
        yield f"expiry: {what}", "GET", f"{address}?expires={value}&signature={signature}"
    for what, value in {
        "first character": ("A" if signature[0] != "A" else "B") + signature[1:],
        "last character": signature[:-1] + ("A" if signature[-1] != "A" else "B"),
        "last bits": signature[:-1] + chr(ord(signature[-1]) ^ 1),
        "shorter": signature[:-1],
        "longer": signature + "A",
        "padded": signature + "=",
        "other case": signature.swapcase(),
        "reversed": signature[::-1],
        "zeros": "A" * 43,
        "percent-encoded": f"%{ord(signature[0]):02X}{signature[1:]}",
        "NUL": f"{signature}%00",
        "invalid UTF-8": f"{signature}%ff",
        "null": "null",
    }.items():
        yield f"signature: {what}", "GET", f"{address}?expires={expires}&signature={value}"
    yield "other order", "GET", f"{address}?signature={signature}&expires={expires}"
    yield "one parameter more", "GET", f"{url}&download=1"
    yield "one parameter before", "GET", f"{address}?a=1&{query}"
    yield "expiry twice", "GET", f"{url}&expires={later}"
    yield "expiry twice, first", "GET", f"{address}?expires={later}&{query}"
    yield "signature twice", "GET", f"{url}&signature={signature}"
    yield "trailing ampersand", "GET", f"{url}&"
    yield "semicolons", "GET", url.replace("&", ";")
    yield "names in capitals", "GET", url.replace("expires", "Expires")
    yield "a question mark more", "GET", f"{address}??{query}"
    yield "other file", "GET", url.replace("front.png", "back.png")
    yield "other tenant", "GET", f"{theirs.partition('?')[0]}?{query}"
    yield "their signature", "GET", f"{address}?{theirs.partition('?')[2]}"
    yield "the folder", "GET", url.replace("front.png", "")
    yield "the folder's name", "GET", url.replace("/front.png", "")
    yield "the store", "GET", url.replace(KEY, "")
    yield "one slash more", "GET", url.replace("/01JADE/", "//01JADE/")
    yield "trailing slash", "GET", url.replace("front.png", "front.png/")
    yield "other case", "GET", url.replace("front.png", "FRONT.png")
    yield "other extension", "GET", url.replace("front.png", "front.html")
    yield "NUL in the key", "GET", url.replace("front.png", "front.png%00")
    yield "dot", "GET", url.replace("/front.png", "/./front.png")
    for what, up in {
        "dots": "..",
        "encoded dots": "%2e%2e",
        "twice encoded dots": "%252e%252e",
        "encoded slash": "..%2f..",
        "backslash": "..%5c..",
        "overlong dots": "%c0%ae%c0%ae",
        "fullwidth dots": "%ef%bc%8e%ef%bc%8e",
        "dots and NUL": "..%00",
    }.items():
        yield f"traversal: {what}", "GET", url.replace("01JADE/front.png", f"{up}/globex/theirs.png")
        yield f"absolute traversal: {what}", "GET", url.replace(KEY, f"{up}/{up}/{up}/{up}/etc/passwd")
    yield "absolute path", "GET", url.replace(KEY, "/etc/passwd")
    yield "encoded absolute path", "GET", url.replace(KEY, "%2fetc%2fpasswd")
    yield "file URL", "GET", url.replace(KEY, "file:///etc/passwd")
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        yield method, method, url


def test_an_altered_link_is_refused(get, caplog, capfd):
    url, theirs = links(HOST).url(KEY), links(HOST).url("tenants/globex/theirs.png")
    assert get(url).body == get(theirs).body == PNG
    answers = {what: (method, get(bent, method)) for what, method, bent in alterations(url, theirs)}
    assert len(answers) >= 60
    wrong = {
        what: answer.status_code
        for what, (method, answer) in answers.items()
        if answer.status_code != (403 if method == "GET" else 405)
    }
    assert wrong == {"the store": 404}  # no key at all: there is no such address
    for _, answer in answers.values():
        assert PNG not in answer.body
        assert b"tenants" not in answer.body
    assert {answer["Allow"] for method, answer in answers.values() if method != "GET"} == {"GET, HEAD"}
    assert get(url).body == PNG
    logged = caplog.text + capfd.readouterr().err
    assert '"status":403' in logged
    assert not any(name in logged for name in ("acme", "front.png", "globex"))


def test_a_refusal_is_never_kept_and_never_run(get):
    answer = get(f"{HOST}/artifacts/{KEY}?expires=1&signature=2")
    assert answer.status_code == 403
    assert answer.body == b"This link was altered or has expired. Ask the API again for a new one.\n"
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["Cache-Control"] == "no-store"
    assert answer["Content-Security-Policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize("ttl_seconds", [1, 2, 3, 900])
def test_a_link_stops_when_it_expires(get, settings, ttl_seconds):
    settings.PRESIGN_TTL_SECONDS = ttl_seconds
    now = time.time()
    made = links(HOST)
    url = made.url(KEY)
    assert made.expires_at - now >= ttl_seconds * 2 / 3
    with mock.patch("time.time", return_value=made.expires_at - 0.001):
        assert get(url).status_code == 200
    for late in (0, 0.001, 0.999, 1, 1e6):
        with mock.patch("time.time", return_value=made.expires_at + late):
            assert get(url).status_code == 403


def test_a_missing_file_with_a_good_link_is_404(get):
    for key in ("tenants/acme/gone.png", "tenants/acme/01JADE", f"{KEY}/x.png", "x" * 300, "a/" * 3000 + "b"):
        answer = get(links(HOST).url(key))
        assert (answer.status_code, answer.body) == (404, b"The file behind this link is gone.\n")


def test_no_link_leads_out_of_the_store(get, store, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"not a picture of the store's")
    inside = tmp_path / "artifacts" / "tenants" / "acme"
    (tmp_path / "artifacts-2").mkdir()
    (tmp_path / "artifacts-2" / "secret.png").write_bytes(b"a neighbour whose name starts alike")
    (inside / "out.png").symlink_to(tmp_path / "secret.png")
    (inside / "relative.png").symlink_to("../../../secret.png")
    (inside / "neighbour.png").symlink_to(tmp_path / "artifacts-2" / "secret.png")
    (inside / "folder").symlink_to(tmp_path)
    (inside / "loop.png").symlink_to("loop.png")
    (inside / "root.png").symlink_to("/")
    (inside / "device.png").symlink_to("/dev/zero")
    os.mkfifo(inside / "pipe.png")
    for name in (
        "out.png",
        "relative.png",
        "neighbour.png",
        "folder/secret.png",
        "loop.png",
        "root.png",
        "device.png",
        "pipe.png",
    ):
        assert get(links(HOST).url(f"tenants/acme/{name}")).status_code == 404, name


def test_a_symbolic_link_within_the_store_is_followed(get, tmp_path):
    (tmp_path / "artifacts" / "tenants" / "acme" / "again.png").symlink_to("01JADE/front.png")
    assert get(links(HOST).url("tenants/acme/again.png")).body == PNG


def test_links_outlive_a_change_of_the_secret_key_until_the_old_one_is_dropped(get, settings):
    url, old = links(HOST).url(KEY), settings.SECRET_KEY
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a new secret", [old]
    assert links(HOST).url(KEY) != url
    assert get(links(HOST).url(KEY)).status_code == get(url).status_code == 200
    settings.SECRET_KEY_FALLBACKS = []
    assert get(url).status_code == 403


def test_the_address_is_not_there_when_the_pictures_are_elsewhere(get, settings):
    url = links(HOST).url(KEY)
    elsewhere = {"BACKEND": "jobs.artifacts.s3.SignedS3Storage", "OPTIONS": {"bucket_name": "pictures"}}
    settings.STORAGES = settings.STORAGES | {"artifacts": elsewhere}
    assert get(url).status_code == 404


@given(key=st.text(min_size=1), other=st.text(min_size=1), expires_at=st.integers(1, 10**11))
def test_a_signature_holds_for_its_key_and_expiry_alone(key, other, expires_at):
    from django.conf import settings

    signature = LocalSigner("", settings.SECRET_KEY, expires_at).signature(key)
    assert expiry_of_link(key, f"expires={expires_at}&signature={signature}") == expires_at
    assert expiry_of_link(key, f"expires={expires_at + 1}&signature={signature}") is None
    assert key == other or expiry_of_link(other, f"expires={expires_at}&signature={signature}") is None
