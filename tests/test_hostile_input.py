"""No request causes a 5xx: forty hostile values in every parameter, header and path."""

from __future__ import annotations

import json
from itertools import product
from time import process_time
from urllib.parse import quote, quote_from_bytes

import pytest

from jobs.api.fleet.params import FleetListParams
from jobs.api.v1.params import ListParams
from tests.gateway import database_of_this_test, serving

# As they stand in a query string or a path.
HOSTILE = {
    "empty": "",
    "null": "null",
    "undefined": "undefined",
    "NaN": "NaN",
    "NUL": "%00",
    "NUL inside": "1%00",
    "NUL raw": "1\0",
    "line breaks": "%0d%0aX-Injected:%20yes",
    "byte ff": "%ff",
    "bytes fe fe ff ff": "%fe%fe%ff%ff",
    "overlong slash": "%c0%af",
    "lone surrogate": "%ed%a0%80",
    "surrogate pair apart": "%ed%a0%bd%ed%b8%80",
    "cut sequence": "%e2%82",
    "broken escapes": "%%zz%u0041%",
    "double escape": "%2500",
    "emoji": quote("🧥👨‍👩‍👧"),
    "right to left": quote("\u202e1\u2066"),
    "zero width": quote("\u200b1\ufeff"),
    "other digits": quote("١٢٣"),
    "fullwidth digits": quote("１２"),
    "long s": quote("ſ") * 26,
    "combining": "a" + quote("\u0301") * 300,
    "10^40": "1" + "0" * 40,
    "-10^40": "-1" + "0" * 40,
    "5,000 digits": "9" * 5000,
    "5,000 zeros and one": "0" * 5000 + "1",
    "2^31": "2147483648",
    "2^63": "9223372036854775808",
    "2^64": "18446744073709551616",
    "minus 2^63": "-9223372036854775809",
    "float": "1e400",
    "infinity": "-Infinity",
    "hexadecimal": "0x7fffffff",
    "year 1, east": quote("0001-01-01T00:00:00+23:59"),
    "year 1, west": quote("0001-01-01T00:00:00-23:59"),
    "year 9999, east": quote("9999-12-31T23:59:59.999999+23:59"),
    "year 9999, west": quote("9999-12-31T23:59:59.999999-23:59"),
    "year 0": "0000-00-00T00:00:00Z",
    "leap second": "2016-12-31T23:59:60Z",
    "endless fraction": "2026-04-15T12:00:00." + "9" * 5000 + "Z",
    "SQL": quote("' OR 1=1; DROP TABLE jobs_job; --"),
    "SQL placeholder": quote("%s %(tenant)s $1 ?"),
    "template": quote("{{7*7}}${7*7}<script>alert(1)</script>"),
    "format string": quote("%n%x{0.__class__}"),
    "path": quote("../../../../etc/passwd", safe=""),
    "JSON": quote('{"$gt": ""}'),
    "deep brackets": "[" * 4000,
    "long text": "A" * 7000,
    "many of it": "a&" * 2000,
}
assert len(HOSTILE) >= 40

HEADERS = [
    "Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Connection",
    "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Expect", "Forwarded", "From", "Host",
    "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "Last-Event-ID", "Origin", "Prefer", "Range",
    "Referer", "User-Agent",
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-HTTP-Method-Override", "X-Request-ID",
    "X-Shopify-Hmac-Sha256",
]  # fmt: skip
# In headers also what only means something there.
HOSTILE_HEADERS = {name: quote_from_bytes(value.encode(), safe="%") for name, value in HOSTILE.items()} | {
    "raw NUL": "\0",
    "raw bytes": "".join(map(chr, range(1, 256))),
    "raw surrogate": "\xed\xa0\x80",
    "quotes": '"' * 3000,
    "commas": "," * 7000,
    "semicolons": ";" * 7000,
    "types": "application/json;" * 400,
    "quality": "application/json;q=nan, */*;q=1e999, text/html;q=-1, ;q=, /, */json",
    "codec of bytes": "text/plain; charset=hex",
    "codec of text": "text/plain; charset=rot13",
    "codec that fails": "text/plain; charset=undefined",
    "wide codec": "text/plain; charset=utf-16",
    "codec of names": "text/plain; charset=idna",
    "codec with NUL": "text/plain; charset=\0",
    "codec too long": "text/plain; charset=" + "x" * 7000,
    "codec elsewhere": "text/plain; charset=../../../tmp/evil",
    "parameter without end": 'text/plain; charset="',
    "parameter of no charset": "application/json; x*=nowhere''y",
    "parameter of a charset that fails": "application/json; x*=undefined''y",
    "parameter in parts and whole": "application/json; x*=utf-8''a; x*0=b",
    "parameter of a part with 4,500 digits": f"application/json; x*{'9' * 4500}*=y",
    "multipart": "multipart/form-data; boundary=" + "-" * 5000,
    "bearer alone": "Bearer",
    "bearer of nothing": "Bearer ",
    "bearer of NUL": "Bearer jgw_\0",
    "bearer of bytes": "Bearer jgw_aaaaaaaaaaaa_" + "\xff" * 43,
    "bearer of dots": "Bearer " + "." * 7000,
    "bearer of JSON": "Bearer e30.e30.e30",
    "bearer of a deep token": "Bearer " + "W1tb" * 1000 + ".e30.e30",
    "basic": "Basic YTpi",
    "etags": '"a",' * 1500,
}


@pytest.fixture
def job(acme, job_of):
    return job_of(acme, events=[{"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z"}])


def check_response(response, allowed=(200, 400, 401, 404, 406, 422)):
    """Checks that it is JSON with a request id, and no 5xx. Returns the status."""
    assert response.status_code in allowed, (response.status_code, response.content[:500])
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-Request-ID"]
    assert "X-Injected" not in response.headers
    body = response.json()
    if response.status_code == 422:
        assert set(body) == {"detail"}
    elif response.status_code >= 400:
        assert set(body) in ({"code", "detail"}, {"code", "error"})
    assert b"Traceback" not in response.content
    assert b"<html" not in response.content.lower()
    return response.status_code


@pytest.mark.parametrize("name", HOSTILE)
def test_in_every_parameter(acme_client, job, name):
    value = HOSTILE[name]
    events = f"/v1/jobs/{job.public_id}/events"
    for parameter in (*ListParams.model_fields, "unknown", value):
        for query in (f"{parameter}={value}", f"{parameter}={value}&{parameter}={value}", f"{parameter}[]={value}"):
            check_response(acme_client.get(f"/v1/jobs?{query}"))
    for query in (f"since={value}", f"since=0&since={value}", f"{value}=1", f"since={value}&since=0"):
        check_response(acme_client.get(f"{events}?{query}"), allowed=(200, 422))
        check_response(acme_client.get(f"/v1/jobs/{job.public_id}?{query}"), allowed=(200,))
    for parameter in (*FleetListParams.model_fields, "unknown", value):
        check_response(acme_client.get(f"/job?{parameter}={value}"), allowed=(200, 400))


@pytest.mark.parametrize("name", HOSTILE)
def test_in_the_path(acme_client, job, name):
    value = HOSTILE[name]
    for path in (f"/v1/jobs/{value}", f"/v1/jobs/{value}/events", f"/v1/jobs/{value}{job.public_id}", f"/v1/{value}"):
        check_response(acme_client.get(path.partition("?")[0]), allowed=(200, 404) if value == "" else (404,))
    for path in (f"/job/{value}", f"/v1/jobs/{job.public_id}/{value}", f"/v1/jobs/{job.public_id}/events/{value}"):
        check_response(acme_client.get(path), allowed=(404,))


# Those that the gateway itself looks into.
HEADERS_READ = [
    "Accept", "Authorization", "Content-Type", "Host", "If-None-Match", "Last-Event-ID", "Origin", "Prefer",
    "Traceparent", "X-Forwarded-For", "X-Request-ID", "X-Shopify-Hmac-Sha256",
]  # fmt: skip
# Of the others nothing is asked of the database.
LOOKED_UP = {"Authorization", "If-None-Match", "X-Request-ID", "X-Shopify-Hmac-Sha256"}


@pytest.mark.parametrize(
    "header",
    [pytest.param(header, marks=() if header in LOOKED_UP else pytest.mark.full_on_postgresql) for header in HEADERS],
)
def test_in_every_header(acme_client, job, header):
    name = header.upper().replace("-", "_")
    name = name if name in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{name}"
    for value in HOSTILE_HEADERS.values():
        # Escaped, so that the query has to be decoded.
        for path in ("/v1/jobs?limit=%31", f"/v1/jobs/{job.public_id}", "/job?status=%63ompleted"):
            response = acme_client.get(path, **{name: value})  # with what it raises before any middleware runs
            assert check_response(response, allowed=(200, 400, 401, 406)) == response.status_code, (value[:80], path)


@pytest.mark.parametrize("value", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_in_the_headers_that_say_what_a_page_is_sent_and_may_answer(anonymous_client, value):
    for header in ("CONTENT_TYPE", "HTTP_ACCEPT", "HTTP_PREFER"):
        assert anonymous_client.get("/admin/login/", **{header: value}).status_code == 200
    posted = anonymous_client.generic("POST", "/admin/login/", b"username=ada", content_type=value)
    assert posted.status_code in (200, 400, 403), value[:80]


# What parsers that go back over a text take quadratic time for.
FILLINGS = {
    "spaces": "{}x x",
    "wait": "wait={}x x",
    "semicolons": 'application/json;"{}',
    "types": "application/json,{}",
}
UNITS = [" ", ";", ",", '"', "=", "a;b,", ";a=b", '\\"', "a-", "1.", "W/", "(", "00-"]


@pytest.mark.full_on_postgresql
@pytest.mark.parametrize("header", HEADERS_READ)
def test_a_header_takes_time_in_proportion_to_its_length(acme_client, job, header):
    name = "CONTENT_TYPE" if header == "Content-Type" else f"HTTP_{header.upper().replace('-', '_')}"

    def seconds(value):
        began = process_time()
        for path in (f"/v1/jobs/{job.public_id}", "/v1/events"):
            check_response(acme_client.get(path, **{name: value}), allowed=(200, 400, 401, 406))
        return process_time() - began

    for filling, unit in product(FILLINGS.values(), UNITS):
        short, long = (filling.format(unit * (size // len(unit))) for size in (3_500, 28_000))
        # Eight times, or less for what does not depend on it; squared it would be 64 times.
        limit = 20 * seconds(short)
        assert any(seconds(long) < limit for _ in range(3)), (filling, unit)


# --- through a real server, as raw bytes ---

# What the server does with bytes is alike on both databases.
over_a_socket = pytest.mark.full_on_postgresql


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    (folder / "tenants/acme").mkdir(parents=True)
    (folder / "tenants/acme/front.png").write_bytes(b"picture")
    return folder


@pytest.fixture(scope="module")
def served(django_db_setup, artifacts):
    with serving(database_of_this_test(), TOKEN_CACHE_SECONDS="5", ARTIFACTS_DIR=str(artifacts)) as gateway:
        yield gateway


@pytest.fixture
def gateway(served, transactional_db):
    """One for all tests: it reads what each of them has committed."""
    return served


@over_a_socket
def test_over_a_socket(gateway, acme_token, job):
    """A sample of the above, and what no client library would send."""
    job_path = f"/v1/jobs/{job.public_id}"
    for name, value in HOSTILE.items():
        if "\0" in value:
            continue  # below
        for path in (
            f"/v1/jobs?limit={value}",
            f"{job_path}/events?since={value}",
            f"/v1/jobs/{value}",
            f"/job?status={value}",
        ):
            json_or_refused(gateway.get(path, acme_token), name)
    for name, value in HOSTILE_HEADERS.items():
        for header in (
            "Authorization",
            "If-None-Match",
            "Content-Type",
            "X-Request-ID",
            "Accept",
            "X-Shopify-Hmac-Sha256",
        ):
            json_or_refused(
                gateway.get(f"{job_path}?a=%31", **{"Authorization": f"Bearer {acme_token}", header: value}), name
            )
    for octets in (b"\xff\xfe", "é🧥".encode(), b"\xed\xa0\x80", b'"<>\\^`{|}'):
        json_or_refused(gateway.get(b"/v1/jobs?status=" + octets, acme_token), octets)
        json_or_refused(gateway.get(b"/v1/jobs/" + octets, acme_token), octets)
    for octets in (b"/v1/jobs?status=\0", b"/v1/jobs/\0", b"/v1/jobs?a=\x7f"):
        json_or_refused(gateway.get(octets, acme_token), octets)
    # And it still answers.
    assert gateway.get(job_path, acme_token).status == 200


def json_or_refused(answer, case):
    """What the gateway says is JSON; what the server itself refuses may have any form."""
    assert answer.status < 500, (case, answer)
    if "X-Request-ID" in answer.headers:
        assert answer.headers["Content-Type"] == "application/json", (case, answer)
        assert answer.body.startswith(b"{"), (case, answer)
    else:
        assert answer.status in (400, 414, 431), (case, answer)
    assert answer.rest == b""


@over_a_socket
def test_request_lines_and_headers_of_eight_kilobytes_reach_the_gateway(gateway, acme_token, job):
    line = "GET {} HTTP/1.1"
    path = "/v1/jobs?limit=7&a=".ljust(8192 - len(line.format("")), "x")
    answer = gateway.get(path, acme_token)
    assert (answer.status, b'"limit":7' in answer.body) == (200, True)
    long = "x" * (8192 - len("If-None-Match: ") - 2)
    for header in ("If-None-Match", "Cookie", "X-Anything", "User-Agent"):
        assert gateway.get("/v1/jobs", acme_token, **{header: long}).status == 200
    assert gateway.get("/v1/jobs", Authorization="Bearer " + long[7:]).status == 401
    many = {f"X-Header-{n}": "v" * 80 for n in range(80)}
    assert gateway.get("/v1/jobs", acme_token, **many).status == 200


@over_a_socket
def test_head_304_and_every_method_over_a_socket(gateway, acme_token, job):
    path = f"/v1/jobs/{job.public_id}"
    full = gateway.get(path, acme_token, X_Request_ID="same")
    assert full.status == 200
    assert int(full.headers["Content-Length"]) == len(full.body)
    head = gateway.get(path, acme_token, method="HEAD", X_Request_ID="same")
    assert (head.status, head.body, head.rest) == (200, b"", b"")
    differ = {name for name in {*full.headers, *head.headers} if full.headers[name] != head.headers[name]}
    assert differ <= {"date"}
    held = gateway.get(path, acme_token, If_None_Match=full.headers["ETag"])
    assert (held.status, held.body, held.rest) == (304, b"", b"")
    assert held.headers["ETag"] == full.headers["ETag"]
    options = gateway.get(path, acme_token, method="OPTIONS")
    assert (options.status, options.headers["Allow"]) == (200, "GET, HEAD, OPTIONS")
    for method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND", "X"):
        answer = gateway.get(path, acme_token, method=method, Content_Length="0")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
        assert answer.headers["Content-Type"] == "application/json"


@over_a_socket
def test_a_body_that_was_sent_with_a_get_changes_nothing(gateway, acme_token, job):
    body = b'{"tenant_id": 2, "status": "SUCCESS"}' * 1000
    for framing in (
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    ):
        head = (
            f"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {acme_token}\r\n"
        )
        answer = gateway.send(head.encode() + framing)
        assert answer.status == 200
        assert answer.body == gateway.get("/v1/jobs", acme_token).body


CHUNKED = {
    "no size": b"zz\r\nhello\r\n0\r\n\r\n",
    "too large a size": b"ffffffffffffffffff\r\nx",
    "negative size": b"-1\r\nhello\r\n0\r\n\r\n",
    "no line break": b"5\r\nhelloworld0\r\n\r\n",
}


@over_a_socket
def test_an_invalid_chunked_body_is_the_callers_error(gateway, acme, acme_token, job_of):
    artifact = {"storage_key": "tenants/acme/front.png", "kind": "render", "role": "final"}
    event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:00Z", "artifacts": [artifact]}
    path = f"/v1/jobs/{job_of(acme, events=[event])}"
    [final] = json.loads(gateway.get(path, acme_token).body)["result"]
    link = final["image_url"].removeprefix("http://localhost")
    paths = [path, f"{path}/events", "/v1/jobs", "/job", "/v1/unknown", link, "/livez", "/readyz"]
    paths += ["/", "/docs", "/v1/openapi.json", "/static/gateway/icon.svg", "/admin/", "/admin/login/", "/unknown"]
    # With the header the API reads the body.
    for target, more in product(paths, ("", "X-Shopify-Hmac-Sha256: x\r\n")):
        for method, (name, encoding) in product(("GET", "HEAD", "POST"), CHUNKED.items()):
            head = (
                f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                f"Authorization: Bearer {acme_token}\r\n{more}Transfer-Encoding: chunked\r\n\r\n"
            )
            status = gateway.send(head.encode() + encoding).status
            assert status < 500, (method, target, more, name)
            if target == link and method != "POST":
                assert status == 400
    assert gateway.get(path, acme_token).status == 200
    assert "unforeseen" not in gateway.log.read_text()


@over_a_socket
def test_an_invalid_chunked_body_is_named(gateway, acme_token):
    said = "The request body is incomplete, or its chunked encoding is invalid."
    for target, body in (
        ("/v1/jobs", {"code": "BAD_REQUEST", "detail": said}),
        ("/job", {"error": said, "code": 400}),
    ):
        head = (
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Shopify-Hmac-Sha256: x\r\n"
            f"Authorization: Bearer {acme_token}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        answer = gateway.send(head.encode() + CHUNKED["no size"])
        assert (answer.status, json.loads(answer.body)) == (400, body)
