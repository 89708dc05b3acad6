"""Every error is JSON, says what to do, and has a request id. None reveals internals."""

from __future__ import annotations

import logging
import re

import pytest
from django.db import InterfaceError, OperationalError
from ulid import ULID

from tests.client import Client

READ_ONLY = "GET, HEAD, OPTIONS"
UNAUTHENTICATED = {
    "code": "UNAUTHENTICATED",
    "detail": "Send Authorization: Bearer with a token that is valid, unexpired and of an active tenant.",
}
NOT_FOUND = {
    "code": "NOT_FOUND",
    "detail": "There is nothing at this address. See /v1/openapi.json for what there is.",
}
NOT_ALLOWED = {"code": "METHOD_NOT_ALLOWED", "detail": "This address only answers GET, HEAD and OPTIONS."}
NOT_ACCEPTABLE = {
    "code": "NOT_ACCEPTABLE",
    "detail": "Answers are application/json only; send Accept: application/json.",
}
INTERNAL = {
    "code": "INTERNAL",
    "detail": "The gateway met an error of its own; it has been logged under this request id.",
}
UNAVAILABLE = {
    "code": "UNAVAILABLE",
    "detail": "The job store cannot be reached right now. Try again in a few seconds.",
}


@pytest.fixture
def paths(acme, job_of):
    """Every address of ``/v1`` that answers."""
    job = job_of(acme)
    return ["/v1/jobs", f"/v1/jobs/{job.public_id}", f"/v1/jobs/{job.public_id}/events"]


def in_fleet(body, status):
    return {"error": body["detail"], "code": status}


def status_and_body(response):
    """Status and body of a response that must be JSON with a request id."""
    assert response.headers["Content-Type"] == "application/json"
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])
    assert int(response.headers["Content-Length"]) == len(response.content)
    return response.status_code, response.json()


# --- each code ---


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/job", "/v1/jobs/", "/v1/jobs/x/", "/v1/jobs/x/y", "/v1/jobs//events", "/v1/%00", "/v1/%ff"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
def test_an_unknown_address(acme_client, path, method):
    response = acme_client.generic(method, path)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/json"
    if method != "HEAD":
        assert status_and_body(response) == (404, NOT_FOUND)


@pytest.mark.parametrize("path", ["/job/", "/job/x", "/job/01JADE5XAMPK9M0Q7RS3T4V5W6/retry", "/job/%ff"])
def test_an_unknown_address_in_the_words_of_the_fleet(acme_client, path):
    assert status_and_body(acme_client.get(path)) == (404, in_fleet(NOT_FOUND, 404))


def test_no_credential(anonymous_client, paths):
    for path in paths:
        response = anonymous_client.get(path)
        assert status_and_body(response) == (401, UNAUTHENTICATED)
        assert response.headers["WWW-Authenticate"] == "Bearer"
    response = anonymous_client.get("/job")
    assert status_and_body(response) == (401, in_fleet(UNAUTHENTICATED, 401))
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_no_other_method(acme_client, paths):
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        for path in paths:
            response = acme_client.generic(method, path, b'{"status": "SUCCESS"}', "application/json")
            assert status_and_body(response) == (405, NOT_ALLOWED), (method, path)
            assert response.headers["Allow"] == READ_ONLY
        response = acme_client.generic(method, "/job")
        assert status_and_body(response) == (405, in_fleet(NOT_ALLOWED, 405))
        assert response.headers["Allow"] == READ_ONLY


@pytest.mark.parametrize(
    "accept",
    ["text/html", "application/xml", "image/*", "application/json;q=0", "*/*;q=0", "text/html, application/json;q=0.0"],
)
def test_no_other_type(acme_client, paths, accept):
    for path in paths:
        assert status_and_body(acme_client.get(path, headers={"Accept": accept})) == (406, NOT_ACCEPTABLE)
    assert status_and_body(acme_client.get("/job", headers={"Accept": accept})) == (406, in_fleet(NOT_ACCEPTABLE, 406))


@pytest.mark.parametrize(
    "accept",
    [
        "", "*/*", "application/json", "application/*", "APPLICATION/JSON", "application/json; charset=utf-8",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html;q=0, application/json;q=0.001",
        "application/json;q=nonsense", "text/html, */*;q=0.1",
    ],
)  # fmt: skip
def test_every_way_to_take_json(acme_client, accept):
    assert acme_client.get("/v1/jobs", headers={"Accept": accept}).status_code == 200


def test_errors_come_as_json_to_those_who_do_not_take_it_too(anonymous_client):
    assert status_and_body(anonymous_client.get("/v1/nowhere", headers={"Accept": "text/html"})) == (404, NOT_FOUND)


def test_a_host_that_is_not_the_gateways(acme_client):
    for host in ("evil.example.com", "a b", "[", "localhost:port", "x" * 5000, "\xff"):
        assert status_and_body(acme_client.get("/v1/jobs", headers={"Host": host})) == (
            400,
            {"code": "INVALID_HOST", "detail": "This gateway does not answer to that Host header."},
        )


def test_the_order_of_checks_is_credential_header_parameters_ownership(acme_client, anonymous_client, globex, job_of):
    theirs = f"/v1/jobs/{job_of(globex).public_id}/events?since=x"
    signed = {"X-Shopify-Hmac-Sha256": "bm90IGl0"}
    assert anonymous_client.get(theirs, headers=signed).json()["code"] == "UNAUTHENTICATED"
    assert acme_client.get(theirs, headers=signed).json()["code"] == "INVALID_HMAC"
    assert acme_client.get(theirs).status_code == 422
    assert acme_client.get(theirs.removesuffix("x") + "1").json()["code"] == "JOB_NOT_FOUND"


# --- 500 and 503 ---


@pytest.fixture
def break_reads(monkeypatch):
    def break_them(error):
        async def read(statement, values, alias):
            raise error

        monkeypatch.setattr("jobs.database.prepared.read", read)

    return break_them


@pytest.mark.parametrize("error", [RuntimeError("secret inside"), KeyError("x"), RecursionError(), MemoryError()])
def test_an_unexpected_error_is_logged_and_is_a_500(acme_client, paths, break_reads, caplog, error):
    break_reads(error)
    for path in paths:
        caplog.clear()
        response = acme_client.get(path, headers={"X-Request-ID": "asked.by-7"})
        assert (response.status_code, response.json()) == (500, INTERNAL)
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["X-Request-ID"] == "asked.by-7"
        assert b"secret inside" not in response.content
        (record,) = [record for record in caplog.records if record.name == "jobs.errors"]
        assert record.levelno == logging.ERROR
        assert record.exc_info[1] is error
        assert "asked.by-7" in record.getMessage()
    assert status_and_body(acme_client.get("/job")) == (500, in_fleet(INTERNAL, 500))


def test_an_error_while_the_response_is_written_is_a_500(acme_client, paths, monkeypatch):
    monkeypatch.setattr("jobs.api.v1.serializers.ulid_text", lambda stored: object())
    for path in paths:
        assert status_and_body(acme_client.get(path)) == (500, INTERNAL)


@pytest.mark.parametrize("error", [OperationalError("server closed"), InterfaceError("connection already closed")])
def test_an_unavailable_store_is_a_503_with_retry_after(acme_client, paths, break_reads, error):
    break_reads(error)
    for path in paths:
        response = acme_client.get(path)
        assert status_and_body(response) == (503, UNAVAILABLE)
        assert response.headers["Retry-After"] == "5"
    response = acme_client.get("/job")
    assert status_and_body(response) == (503, in_fleet(UNAVAILABLE, 503))
    assert response.headers["Retry-After"] == "5"


def test_a_store_that_is_away_opens_no_door(anonymous_client, acme_token, break_reads):
    break_reads(OperationalError("server closed"))
    client = Client(headers={"Authorization": f"Bearer {acme_token}"})
    assert status_and_body(client.get("/v1/jobs")) == (503, UNAVAILABLE)
    assert status_and_body(anonymous_client.get("/v1/jobs")) == (401, UNAUTHENTICATED)


# --- X-Request-ID ---


@pytest.mark.parametrize("sane", ["a", "A-Za-z0-9._-", "0" * 128, "-", "01JADE5XAMPK9M0Q7RS3T4V5W6"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/nowhere", "/job", "/nowhere", "/"])
def test_a_sane_request_id_is_echoed(acme_client, path, sane):
    assert acme_client.get(path, headers={"X-Request-ID": sane}).headers["X-Request-ID"] == sane


@pytest.mark.parametrize("odd", ["", "0" * 129, "a b", "a\n", "é", "a,b", "<script>", "\0", "a;b"])
def test_any_other_is_replaced_by_a_new_one(acme_client, odd):
    given = [acme_client.get("/v1/jobs", headers={"X-Request-ID": odd}).headers["X-Request-ID"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in given)
    assert given[0] != given[1]


# --- HEAD and OPTIONS ---


def test_head_has_the_headers_of_get_and_no_body(acme_client, anonymous_client, globex, job_of, paths):
    for _ in range(51):
        job_of(globex)
    for path in [*paths, "/job", "/v1/jobs?limit=1", "/v1/jobs?limit=0", f"/v1/jobs/{ULID()}", "/v1/nowhere"]:
        for client in (acme_client, anonymous_client):
            get, head = (call(path, headers={"X-Request-ID": "same"}) for call in (client.get, client.head))
            assert head.status_code == get.status_code
            assert head.headers == get.headers
            assert head.content == b""


def test_options_says_what_an_address_takes(acme_client, paths):
    for path in [*paths, "/job"]:
        response = acme_client.options(path)
        assert response.status_code == 200
        assert response.headers["Allow"] == READ_ONLY
        assert response.headers["Content-Type"] == "application/json"
        assert "X-Request-ID" in response.headers


# --- many at once ---


def test_very_many_parameters_are_read(acme_client):
    unknown = "&".join("a" for _ in range(4000))
    assert acme_client.get(f"/v1/jobs?{unknown}&limit=7").json()["limit"] == 7
    types = "&".join("job_type=x" for _ in range(800))
    response = acme_client.get(f"/v1/jobs?{types}")
    assert response.status_code == 422
    assert [problem["loc"] for problem in response.json()["detail"]] == [["query", "job_type", n] for n in range(800)]
