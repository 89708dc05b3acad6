"""An answer of the API is made past Django's own constructor: it has to be what that would have made."""

from django.http import HttpResponse
from jobs.api.answer import COMMON_HEADERS, Answer
from jobs_gateway.handler import GatewayHandler


def of_django(body, headers, status=200):
    headers = {**COMMON_HEADERS, **headers, "Content-Length": str(len(body))}
    return HttpResponse(body, status=status, headers=headers)


def test_it_is_as_django_would_have_made_it():
    made, expected = Answer(b'{"a":1}', {"ETag": '"x"'}, 404), of_django(b'{"a":1}', {"ETag": '"x"'}, 404)
    assert dict(made.items()) == dict(expected.items())
    assert made.headers["content-type"] == "application/json"
    kept = ("headers", "cookies")
    assert {name: value for name, value in vars(made).items() if name not in kept} == {
        name: value for name, value in vars(expected).items() if name not in kept
    }
    assert vars(made).keys() == vars(expected).keys()
    assert (made.content, made.reason_phrase, made.charset) == (b'{"a":1}', "Not Found", expected.charset)


def test_two_share_nothing():
    first, second = Answer(b"1", {}), Answer(b"2", {})
    first.headers["X-Request-ID"] = "one"
    first.set_cookie("a", "b")
    first._resource_closers.append(print)
    assert "X-Request-ID" not in second.headers
    assert not second.cookies
    assert not second._resource_closers


def test_what_is_unchanged_has_neither_type_nor_length():
    assert dict(Answer(b"", {"ETag": '"x"'}, 304).items()) == {
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization",
        "ETag": '"x"',
    }


def test_a_server_gets_the_same_from_the_short_way_in_as_from_djangos(job_of, acme, acme_client, rf):
    """The test client goes Django's way; a server the other."""
    application = GatewayHandler()
    public_id = job_of(acme).public_id
    common = {"HTTP_AUTHORIZATION": acme_client.defaults["HTTP_AUTHORIZATION"], "HTTP_X_REQUEST_ID": "same"}
    for path in (
        "/v1/jobs",
        f"/v1/jobs/{public_id}",
        f"/v1/jobs/{public_id}/events",
        "/job",
        "/v1/jobs?limit=x",
        "/v1/x",
    ):
        told = {}
        body = application(
            rf.get(path, **common).environ,
            lambda status, headers, told=told: told.update(status=status, headers=headers),
        )
        expected = acme_client.get(path, HTTP_X_REQUEST_ID="same")
        assert told["status"] == f"{expected.status_code} {expected.reason_phrase}"
        assert dict(told["headers"]) == dict(expected.items())
        assert b"".join(body) == expected.content
