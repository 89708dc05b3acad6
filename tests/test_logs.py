"""The log: a line for each request and each problem, and no secret in any of them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time

import pytest

from jobs_gateway import logs
from tenants.callers import Caller
from tests.gateway import database_of_this_test, serving

pytestmark = pytest.mark.full_on_postgresql

TOKEN = "jgw_abcdefghijkl_" + "Z" * 43
SESSION_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJkZXN0IjoiaHR0cHM6Ly9hIn0.c2lnbmF0dXJl"
KEY = "tenants/acme/01JADE/front.png"

# What may reach a log by an exception's text or a caller's hand, and what is left of it.
SECRETS = {
    "a token": (f"no such token: {TOKEN}", "no such token: jgw_abcdefghijkl_[redacted]"),
    "a session token": (f"Bearer {SESSION_TOKEN} expired", "Bearer [redacted] expired"),
    "a link to S3": (
        f"GET http://store/b/x.png?X-Amz-Credential=AK%2F1&X-Amz-Date=1&X-Amz-Signature={'0' * 64} failed",
        "GET http://store/b/x.png?X-Amz-Credential=[redacted]&X-Amz-Date=1&X-Amz-Signature=[redacted] failed",
    ),
    "a local link": (f"Forbidden: /artifacts/{KEY}?expires=1&signature=abc", "Forbidden: /artifacts/[redacted]"),
    "a key": (f"cannot open '{KEY}' now", "cannot open '[redacted]' now"),
    "a key on one of many lines": (f"first\n{KEY}\nlast", "first\n[redacted]\nlast"),
    "a reference": (f'"s3://bucket/{KEY}"', '"[redacted]"'),
    "a password": ("postgres://gateway:hunter2@db/gateway", "postgres://gateway:[redacted]@db/gateway"),
}


@pytest.fixture
def written(capfd):
    """``written()`` is every line on standard error since the last time, parsed."""
    return lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]


def lines_of(written, logger="access"):
    return [{name: line[name] for name in line if name != "time"} for line in written() if line["logger"] == logger]


def test_a_request_leaves_one_line(acme_client, acme_token, job_of, acme, written):
    job = job_of(acme)
    response = acme_client.get(f"/v1/jobs/{job}/events?since=0", headers={"X-Request-ID": "from-the-caller"})
    assert response.status_code == 200
    (line,) = [line for line in written() if line["logger"] == "access"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("time"))
    assert 0 < line.pop("duration_ms") < 10_000
    assert line == {
        "level": "INFO",
        "logger": "access",
        "request_id": "from-the-caller",
        "method": "GET",
        "route": "v1/jobs/<str:public_id>/events",
        "status": 200,
        "tenant": "acme",
        "token": acme_token.split("_")[1],
    }


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/v1/jobs", "v1/jobs", 401),
        ("GET", "/job", "job", 401),
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/nothing", None, 404),
        ("GET", "/livez", "livez", 200),
        ("POST", "/livez", "livez", 405),
        ("GET", "/", "", 200),
        ("GET", f"/artifacts/{KEY}?expires=1&signature=abc", "artifacts/<key>", 403),
    ],
)
def test_every_response_writes_exactly_one_line_without_the_path(
    db, anonymous_client, written, method, path, route, status
):
    anonymous_client.generic(method, path)
    (line,) = lines_of(written)
    assert (line["method"], line["route"], line["status"]) == (method, route or None, status)
    assert (line["tenant"], line["token"]) == (None, None)


def test_a_host_that_the_gateway_does_not_answer_to_leaves_a_line_and_no_trace(db, anonymous_client, written):
    assert anonymous_client.get("/", headers={"Host": "elsewhere.example.com"}).status_code == 400
    (line,) = written()
    assert (line["logger"], line["status"]) == ("access", 400)


def test_a_page_is_logged_without_looking_up_who_reads_it(admin_client, written, django_assert_num_queries):
    written()
    admin_client.get("/admin/")
    (line,) = lines_of(written)
    assert (line["route"], line["status"], line["tenant"]) == ("admin/", 200, None)


def test_a_method_that_a_caller_made_up_is_not_repeated(db, anonymous_client, written):
    anonymous_client.generic("JGW_SECRET", "/v1/jobs")
    assert lines_of(written)[0]["method"] == "other"


def test_a_token_sent_as_request_id_is_not_logged(db, anonymous_client, capfd):
    anonymous_client.get("/v1/jobs", headers={"X-Request-ID": TOKEN})
    logged = capfd.readouterr().err
    assert "jgw_abcdefghijkl_[redacted]" in logged
    assert TOKEN not in logged


@pytest.mark.parametrize("what", SECRETS)
def test_no_secret_is_logged(what):
    text, expected = SECRETS[what]
    assert logs.scrubbed(text) == expected


@pytest.mark.parametrize("what", SECRETS)
@pytest.mark.parametrize("formatter", [logs.JSONLines(), logs.Text()])
def test_no_secret_of_an_exception_is_logged(what, formatter):
    text, _ = SECRETS[what]
    try:
        raise RuntimeError(text)
    except RuntimeError:
        record = logging.LogRecord("jobs", logging.ERROR, __file__, 1, "It failed: %s", (text,), sys.exc_info())
    written = formatter.format(record)
    assert not any(secret in written for secret in (TOKEN, SESSION_TOKEN, KEY, "0" * 64, "hunter2"))
    assert f'File \\"{__file__}' in written or f'File "{__file__}' in written


def test_the_frames_of_our_own_code_stay_readable():
    frame = '  File "/srv/gateway/tenants/management/commands/issue_token.py", line 3, in handle'
    assert logs.scrubbed(frame) == frame


def test_a_key_below_a_prefix_of_the_tenants_own_is_not_logged_either(rf):
    request = rf.get("/v1/jobs")
    request.user = Caller(1, "acme", "studio-a/", "abcdefghijkl")
    reset = logs.current_request.set({"request": request, "request_id": "abc"})
    try:
        assert logs.scrubbed("lost 'studio-a/front.png'") == "lost '[redacted]'"
    finally:
        logs.current_request.reset(reset)


def test_an_error_is_logged_once_with_its_request_id(acme_client, written, monkeypatch):
    def break_down(*_):
        raise RuntimeError(f"cannot read {KEY}")

    monkeypatch.setattr("jobs.api.v1.queries.job_page", break_down)
    assert acme_client.get("/v1/jobs", headers={"X-Request-ID": "abc"}).status_code == 500
    error, access = written()
    assert (error["level"], error["logger"], error["request_id"]) == ("ERROR", "jobs.errors", "abc")
    assert error["exception"].endswith("RuntimeError: cannot read [redacted]")
    assert (access["logger"], access["status"], access["request_id"]) == ("access", 500, "abc")


def test_lines_of_requests_can_be_switched_off(settings, acme_token, written):
    settings.ACCESS_LOG = False
    from tests.conftest import client_with

    assert client_with(acme_token).get("/v1/jobs").status_code == 200
    assert lines_of(written) == []


def test_on_a_terminal_it_is_text(monkeypatch, rf, capfd):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    request = rf.get("/v1/jobs")
    request.user = Caller(1, "acme", "tenants/acme/", "abcdefghijkl")
    scope = {"headers": [], "gateway": {"request": request, "request_id": "abc"}}
    logs.access_log()(scope, "GET", "v1/jobs", 200, 0.0012)
    assert re.fullmatch(r"\d\d:\d\d:\d\d GET v1/jobs 200 1\.2 ms acme abcdefghijkl abc\n", capfd.readouterr().err)
    assert isinstance(logs.formatter(), logs.Text)


@pytest.mark.django_db(transaction=True)
def test_a_served_gateway_writes_nothing_but_json(acme_token):
    with serving(database_of_this_test()) as gateway:
        assert gateway.get("/v1/jobs", acme_token).status == 200
        assert gateway.get("/nothing").status == 404
        deadline = time.monotonic() + 10  # the line is written after the response
        while b'"status":404' not in gateway.log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.01)
        lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert {line["logger"] for line in lines} >= {"access", "py.warnings"}  # it warns that nothing is collected here
    assert [(line["route"], line["status"]) for line in lines if line["logger"] == "access"][-2:] == [
        ("v1/jobs", 200),
        (None, 404),
    ]


@pytest.mark.django_db(transaction=True)
def test_what_the_server_itself_has_to_say_is_json_too(acme_token):
    with serving(database_of_this_test()) as gateway:
        (worker,) = gateway.workers()
        os.kill(int(worker), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while gateway.workers() <= {worker} and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    (line,) = [line for line in lines if line["logger"] == "_granian"]
    assert (line["level"], line["message"]) == ("ERROR", "Unexpected exit from worker-1")
