"""Signed URLs of local files: they work by GET, unaltered and unexpired only."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from unittest import mock

import pytest
from django.core.files.base import ContentFile
from hypothesis import given
from hypothesis import strategies as st

from jobs.artifacts import downloads
from jobs.artifacts.downloads import IMAGE_TYPES, download
from jobs.artifacts.local import LocalSigner, verified_expiry
from jobs.artifacts.signing import links
from tests.client import Client
from tests.servers import answers, free_ports, wait_until

pytestmark = pytest.mark.full_on_postgresql

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
    """A request for a whole URL, its path as it stands on the wire."""
    return fetch


def fetch(url, method="GET", **headers):
    path, _, query = url.removeprefix(HOST).partition("?")
    answer = Client(enforce_csrf_checks=True).generic(method, path, QUERY_STRING=query, headers=headers)
    answer.body = answer.content
    return answer


def test_a_plain_get_of_the_link_returns_the_pictures_bytes(get):
    answer = get(links(HOST).url(KEY))
    assert (answer.status_code, answer.body) == (200, PNG)
    assert {name: answer.headers.get(name) for name in ANSWERS} == {
        "Content-Type": "image/png",
        "Content-Length": str(len(PNG)),
        "Content-Disposition": None,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    kind, seconds = answer.headers["Cache-Control"].split("max-age=")
    assert kind == "private, "
    assert 600 <= int(seconds) + 1 <= 900


ANSWERS = ("Content-Type", "Content-Length", "Content-Disposition", "X-Content-Type-Options", "Content-Security-Policy")


def test_head_says_the_same_without_the_bytes(get):
    answer = get(links(HOST).url(KEY), "HEAD")
    assert (answer.status_code, answer.headers["Content-Length"], answer.body) == (200, str(len(PNG)), b"")


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
def test_images_are_displayed_by_browsers(get, store, extension, content_type):
    key = store.save(f"tenants/acme/picture{extension.upper()}", ContentFile(PNG))
    answer = get(links(HOST).url(key))
    assert (answer.headers["Content-Type"], "Content-Disposition" in answer.headers) == (content_type, False)


@pytest.mark.parametrize(
    "name", ["page.html", "drawing.svg", "script.js", "data.json", "front.png.html", "plain", ".png"]
)
def test_other_files_are_attachments(get, store, name):
    key = store.save(f"tenants/acme/{name}", ContentFile(b"<script>alert(1)</script>"))
    answer = get(links(HOST).url(key))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_unchanged_file_is_304(get):
    url = links(HOST).url(KEY)
    first = get(url)
    for header in ({"If-None-Match": first.headers["ETag"]}, {"If-Modified-Since": first.headers["Last-Modified"]}):
        again = get(url, **header)
        assert (again.status_code, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        assert again.headers["Cache-Control"].startswith("private, max-age=")
    assert get(url, **{"If-None-Match": '"other"'}).status_code == 200


# --- Ranges and conditions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=200-", 200, len(PNG)),
        ("bytes=-10", len(PNG) - 10, len(PNG)),
        ("bytes=-10000", 0, len(PNG)),
        ("bytes=200-10000", 200, len(PNG)),
        ("bytes=200-" + "9" * 100, 200, len(PNG)),
        ("Bytes=0-1", 0, 2),
    ],
)
def test_a_range_returns_that_part_of_the_file(get, value, start, end):
    answer = get(links(HOST).url(KEY), Range=value)
    assert (answer.status_code, answer.body) == (206, PNG[start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(PNG)}"
    assert answer.headers["Content-Length"] == str(end - start)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["Cache-Control"].startswith("private, max-age=")


def test_several_ranges_return_several_parts(get):
    answer = get(links(HOST).url(KEY), Range="bytes=0-3, -4")
    assert answer.status_code == 206
    assert answer.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert PNG[:4] in answer.body
    assert PNG[-4:] in answer.body
    assert len(answer.body) < len(PNG) + 400


@pytest.mark.parametrize("value", [f"bytes={len(PNG)}-", "bytes=5000-6000", "bytes=-0"])
def test_a_range_beyond_the_file_is_416(get, value):
    answer = get(links(HOST).url(KEY), Range=value)
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(PNG)}"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert PNG not in answer.body


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-2",
        "bytes=0-1,5-2",
        "bytes=0-1;",
        "bytes 0-1",
        "lines=0-1",
        "0-1",
        "bytes=\xb2-",
        "bytes=" + "9" * 5000 + "-",
        "bytes=" + "0-0," * 200 + "0-0",
    ],
)
def test_a_range_that_is_not_valid_is_ignored(get, value):
    answer = get(links(HOST).url(KEY), Range=value)
    assert (answer.status_code, answer.body) == (200, PNG)


def test_a_range_of_head_is_ignored(get):
    answer = get(links(HOST).url(KEY), "HEAD", Range="bytes=0-1")
    assert (answer.status_code, answer.headers["Content-Length"], answer.body) == (200, str(len(PNG)), b"")


def test_if_range_returns_the_part_only_if_the_file_is_still_the_same(get):
    url = links(HOST).url(KEY)
    first = get(url)
    for validator in (first.headers["ETag"], first.headers["Last-Modified"]):
        answer = get(url, **{"Range": "bytes=0-3", "If-Range": validator})
        assert (answer.status_code, answer.body) == (206, PNG[:4])
    for validator in ('"other"', f"W/{first.headers['ETag']}", formatdate(0, usegmt=True), "nonsense"):
        answer = get(url, **{"Range": "bytes=0-3", "If-Range": validator})
        assert (answer.status_code, answer.body) == (200, PNG)


def test_a_precondition_that_fails_is_412(get):
    url = links(HOST).url(KEY)
    first = get(url)
    assert get(url, **{"If-Match": first.headers["ETag"]}).status_code == 200
    for header in ({"If-Match": '"other"'}, {"If-Unmodified-Since": formatdate(86400, usegmt=True)}):
        answer = get(url, **header)
        assert (answer.status_code, answer.body) == (412, b"")


def test_if_none_match_is_evaluated_before_range(get):
    url = links(HOST).url(KEY)
    answer = get(url, **{"Range": "bytes=0-3", "If-None-Match": f'"other", W/{get(url).headers["ETag"]}'})
    assert (answer.status_code, answer.body) == (304, b"")


def test_an_empty_file_is_served(get, store):
    url = links(HOST).url(store.save("tenants/acme/empty.png", ContentFile(b"")))
    assert [get(url).status_code, get(url).body] == [200, b""]
    assert get(url, Range="bytes=0-").status_code == 416


# --- Attacks ------------------------------------------------------------------------------------------------------


def alterations(url, theirs):
    """Altered links, as (alteration, method, URL)."""
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


def test_an_altered_link_is_rejected(get, caplog, capfd):
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
    assert {answer.headers["Allow"] for method, answer in answers.values() if method != "GET"} == {"GET, HEAD"}
    assert get(url).body == PNG
    logged = caplog.text + capfd.readouterr().err
    assert '"status":403' in logged
    assert not any(name in logged for name in ("acme", "front.png", "globex"))


def test_an_error_is_not_cached_and_runs_no_script(get):
    answer = get(f"{HOST}/artifacts/{KEY}?expires=1&signature=2")
    assert answer.status_code == 403
    assert answer.body == b"This link was altered or has expired. Request a new one from the API.\n"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


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
        assert (answer.status_code, answer.body) == (404, b"The file behind this link no longer exists.\n")


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


def test_links_signed_with_a_fallback_key_work(get, settings):
    url, old = links(HOST).url(KEY), settings.SECRET_KEY
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a new secret", [old]
    assert links(HOST).url(KEY) != url
    assert get(links(HOST).url(KEY)).status_code == get(url).status_code == 200
    settings.SECRET_KEY_FALLBACKS = []
    assert get(url).status_code == 403


def test_the_route_is_404_if_the_store_is_not_local(get, settings):
    url = links(HOST).url(KEY)
    elsewhere = {"BACKEND": "jobs.artifacts.s3.SignedS3Storage", "OPTIONS": {"bucket_name": "pictures"}}
    settings.STORAGES = settings.STORAGES | {"artifacts": elsewhere}
    assert get(url).status_code == 404


# --- Other files and slow clients ---------------------------------------------------------------------------------


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_checked_file_is_served_even_if_its_path_was_replaced(get, store, monkeypatch):
    (Path(store.location) / "other.png").write_bytes(b"another file")
    path, opened = Path(store.location) / KEY, downloads._open

    def then_replaced(folder, key):
        file = opened(folder, key)
        path.unlink()
        path.symlink_to("/etc/passwd")
        return file

    monkeypatch.setattr(downloads, "_open", then_replaced)
    answer = get(links(HOST).url(KEY))
    assert (answer.status_code, answer.body) == (200, PNG)


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-3"}, {"Range": "bytes=9999-"}, {"If-None-Match": "*"}])
def test_every_file_is_closed(get, headers):
    url = links(HOST).url(KEY)
    get(url, **headers)
    before = open_files()
    for method in ("GET", "HEAD"):
        for _ in range(5):
            get(url, method, **headers)
    assert open_files() == before


def test_a_send_that_takes_too_long_ends_the_response(store, monkeypatch):
    monkeypatch.setattr(downloads, "SEND_TIMEOUT_SECONDS", 0.05)
    key = store.save("tenants/acme/large.png", ContentFile(bytes(2**20)))
    path, _, query = links(HOST).url(key).removeprefix(HOST).partition("?")
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)
        if len(sent) == 3:  # the headers and the first part are taken, the second is not
            await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    before = open_files()
    asyncio.run(asyncio.wait_for(download(scope, receive, send), 5))
    assert len(sent) == 3
    assert open_files() == before


def test_a_disconnect_ends_the_response(store):
    key = store.save("tenants/acme/large.png", ContentFile(bytes(2**20)))
    path, _, query = links(HOST).url(key).removeprefix(HOST).partition("?")

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    before = open_files()
    asyncio.run(asyncio.wait_for(download(scope, receive, send), 5))
    assert open_files() == before


# --- Behind a real server -----------------------------------------------------------------------------------------


@dataclass
class Server:
    port: int
    pid: int
    folder: Path

    def link_to(self, key, content):
        """The URL of a new file."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return links(HOST).url(key)

    def get(self, url, method="GET"):
        """Status and body; the URL goes out as it stands."""
        with ExitStack() as closing:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            closing.callback(connection.close)
            connection.putrequest(method, url.removeprefix(HOST), skip_host=True)
            connection.putheader("Host", "testserver")
            connection.endheaders()
            response = connection.getresponse()
            return response.status, response.read()

    def started_get(self, url):
        """A connection that has sent the request and read nothing."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(b"GET %b HTTP/1.1\r\nHost: testserver\r\n\r\n" % url.removeprefix(HOST).encode())
        return connection

    def processes(self):
        """The server and its worker."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [Path(f"/proc/{pid}") for pid in (self.pid, *children)]

    def resident_bytes(self):
        status = [(process / "status").read_text() for process in self.processes()]
        return sum(int(text.partition("VmRSS:")[2].split()[0]) * 1024 for text in status)

    def open_artifacts(self):
        opened = [each for process in self.processes() for each in (process / "fd").iterdir()]
        return sum("/artifacts/" in os.path.realpath(each) for each in opened)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The application behind granian, with one worker and a short limit for clients that read nothing."""
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("served")
    log = folder / "log"
    command = [sys.executable, "-m", "granian", "--interface", "asginl", "--port", str(port), "--no-ws"]
    command += ["--workers-kill-timeout", "5"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "tests.artifacts_asgi:application"],
            cwd=Path(__file__).resolve().parent.parent,
            # Three seconds: slow readers of a busy machine keep theirs.
            env=os.environ | {"ARTIFACTS_DIR": str(folder / "artifacts"), "SEND_TIMEOUT_SECONDS": "3"},
            stdout=output,
            stderr=output,
        )
    try:
        started = Server(port, process.pid, folder / "artifacts")
        url = f"http://127.0.0.1:{port}{links('').url('ready.png')}"
        started.link_to("ready.png", PNG)
        wait_until(lambda: answers(url), process, log)
        yield started
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.sqlite  # no database is used: once is enough
def test_an_altered_link_is_rejected_by_a_real_server(server):
    url, theirs = server.link_to(KEY, PNG), server.link_to("tenants/globex/theirs.png", PNG)
    assert server.get(url) == (200, PNG)
    assert server.get(url, "HEAD") == (200, b"")
    wrong = {}
    for what, method, bent in alterations(url, theirs):
        if bent.isascii():
            status, body = server.get(bent, method)
            if status not in (400, 403, 404, 405) or PNG in body:
                wrong[what] = status
    assert wrong == {}
    assert server.get(url) == (200, PNG)


@pytest.mark.sqlite
def test_forty_slow_readers_of_a_large_picture_take_no_memory(server):
    size = 15_000_000
    url, small = server.link_to("tenants/acme/large.png", os.urandom(size)), server.link_to(KEY, PNG)
    status, body = server.get(url)
    assert (status, len(body)) == (200, size)
    before = server.resident_bytes()
    with ExitStack() as closing:
        readers = [closing.enter_context(server.started_get(url)) for _ in range(40)]
        most, received = 0, dict.fromkeys(readers, 0)
        for _ in range(20):
            for reader in readers:
                received[reader] += len(reader.recv(30_000))
            most = max(most, server.resident_bytes() - before)
            time.sleep(0.02)
        # Others are served meanwhile, and a slow reader gets all of it in the end.
        began = time.monotonic()
        assert server.get(small) == (200, PNG)
        assert time.monotonic() - began < 1
        while chunk := readers[0].recv(2**20):
            received[readers[0]] += len(chunk)
            if received[readers[0]] > size:
                break
    deadline = time.monotonic() + 10
    while server.open_artifacts():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert min(received.values()) > 0
    assert received[readers[0]] > size  # the headers too
    assert most < 30_000_000


@pytest.mark.sqlite
def test_a_client_that_reads_nothing_is_disconnected(server):
    size = 15_000_000
    url = server.link_to("tenants/acme/large.png", bytes(size))
    with server.started_get(url) as connection:
        received = len(connection.recv(1))
        deadline = time.monotonic() + 30  # the limit is 3 seconds here
        while server.open_artifacts():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while chunk := connection.recv(2**20):
            received += len(chunk)
    assert 0 < received < size


@given(key=st.text(min_size=1), other=st.text(min_size=1), expires_at=st.integers(1, 10**11))
def test_a_signature_holds_for_its_key_and_expiry_alone(key, other, expires_at):
    from django.conf import settings

    signature = LocalSigner("", settings.SECRET_KEY, expires_at).signature(key)
    assert verified_expiry(key, f"expires={expires_at}&signature={signature}") == expires_at
    assert verified_expiry(key, f"expires={expires_at + 1}&signature={signature}") is None
    assert key == other or verified_expiry(other, f"expires={expires_at}&signature={signature}") is None
