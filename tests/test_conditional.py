"""Polling: validators, ``304``, and the cursor that leads through a list."""

from __future__ import annotations

import base64
import itertools
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.serializers import IntegerField
from ulid import ULID

from jobs.api import etags as etag_format
from jobs.api.cursors import BadCursor, decrypt_cursor, encrypt_cursor
from jobs.api.etags import shape_of
from jobs.api.v1.serializers import ArtifactResponseSerializer, JobEventResponseSerializer
from jobs.ingest import bulk, ledger
from jobs.models import Job, JobType
from tenants import tokens
from tests.conftest import client_with

NOON = "2026-04-15T12:00:00Z"
STRONG = re.compile(r'"([0-9]+-)?[0-9a-f]{30}"')


@pytest.fixture
def job(acme, job_of):
    picture = {"storage_key": "tenants/acme/1/front.png", "kind": "render", "role": "final"}
    return job_of(acme, events=[{"seq": 1, "event_type": "stage", "created_at": NOON, "artifacts": [picture]}])


@pytest.fixture
def paths(job):
    return ["/v1/jobs", f"/v1/jobs/{job.public_id}", f"/v1/jobs/{job.public_id}/events"]


def etags(client, paths):
    return [client.get(path).headers["ETag"] for path in paths]


def poll(client, path, validator):
    return client.get(path, headers={"If-None-Match": validator})


# --- what an answer says about itself ---


def test_every_answer_may_be_kept_by_its_caller_and_must_be_asked_for_again(acme_client, paths):
    for path in paths:
        response = acme_client.get(path)
        assert STRONG.fullmatch(response.headers["ETag"])
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["Vary"] == vary_of(path)


def test_repeated_answers_are_the_same_to_the_byte(acme_client, paths):
    for path in [*paths, "/job"]:
        first, second = acme_client.get(path), acme_client.get(path)
        assert first.content == second.content
        assert first.headers.get("ETag") == second.headers.get("ETag")


def test_errors_have_no_validator(acme_client, anonymous_client, paths):
    for path in (f"/v1/jobs/{ULID()}", "/v1/jobs?limit=0", "/v1/nowhere"):
        assert "ETag" not in acme_client.get(path).headers
    for path in paths:
        assert "ETag" not in anonymous_client.get(path).headers


def vary_of(path):
    """Of a list, a detail and events."""
    if path.partition("?")[0].endswith("/events"):
        return "Authorization, Accept, Prefer"
    return "Authorization" if path.partition("?")[0] == "/v1/jobs" else "Authorization, Prefer"


# --- 304 ---


def test_a_validator_that_still_holds_gives_304_and_nothing_else(acme_client, paths):
    for path, validator in zip(paths, etags(acme_client, paths), strict=True):
        response = poll(acme_client, path, validator)
        assert response.status_code == 304
        assert response.content == b""
        assert response.headers["ETag"] == validator
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["Vary"] == vary_of(path)
        assert "X-Request-ID" in response.headers
        # Of a 304 these would speak of the answer that is not sent.
        assert "Content-Type" not in response.headers
        assert "Content-Length" not in response.headers


def test_head_is_answered_with_304_too(acme_client, paths):
    for path, validator in zip(paths, etags(acme_client, paths), strict=True):
        assert acme_client.head(path, headers={"If-None-Match": validator}).status_code == 304


@pytest.mark.parametrize("form", ["{}", "W/{}", '"a", {} , "b"', '"x",W/{}', "*", " * ", "{},"])
def test_every_form_that_names_the_current_validator_holds(acme_client, paths, form):
    for path, validator in zip(paths, etags(acme_client, paths), strict=True):
        assert poll(acme_client, path, form.format(validator)).status_code == 304


@pytest.mark.parametrize(
    "odd", ["", '""', '"x"', "x", '"*"', "W/", ",", '"é"', "\0", "w/{}", "{", "[" * 5000, ",".join("x" * 2000)]
)
def test_anything_else_is_answered_in_full(acme_client, paths, odd):
    for path, validator in zip(paths, etags(acme_client, paths), strict=True):
        response = poll(acme_client, path, odd.replace("{}", validator))
        assert response.status_code == 200
        assert response.json() == acme_client.get(path).json()


def test_a_validator_opens_nothing(acme_client, anonymous_client, globex_client, paths):
    for path, validator in zip(paths[1:], etags(acme_client, paths[1:]), strict=True):
        for held in (validator, "*"):
            assert poll(anonymous_client, path, held).status_code == 401
            assert poll(globex_client, path, held).status_code == 404
    assert poll(acme_client, "/v1/jobs?limit=0", "*").status_code == 422
    assert poll(acme_client, f"{paths[2]}?since=x", "*").status_code == 422


def test_304_is_decided_from_the_jobs_header_row_alone(acme_client, paths):
    for path, validator in zip(paths[1:], etags(acme_client, paths[1:]), strict=True):
        with CaptureQueriesContext(connection) as statements:
            assert poll(acme_client, path, validator).status_code == 304
        (statement,) = statements
        assert "version" in statement["sql"]
        assert not re.search("jobs_(jobevent|artifact)|request", statement["sql"])


# --- what a validator depends on ---


def test_it_is_the_same_for_every_token_of_a_tenant(acme_client, acme, paths):
    other = client_with(tokens.issue(acme, label="another"))
    assert etags(other, paths) == etags(acme_client, paths)
    for path, validator in zip(paths, etags(acme_client, paths), strict=True):
        assert poll(other, path, validator).status_code == 304


def test_it_differs_by_tenant_where_all_else_is_equal(acme_client, globex_client, acme):
    assert acme_client.get("/v1/jobs").json() == globex_client.get("/v1/jobs").json()
    assert etags(acme_client, ["/v1/jobs"]) != etags(globex_client, ["/v1/jobs"])


def test_it_changes_with_every_change_that_an_answer_can_show(acme_client, job, paths):
    seen = [etags(acme_client, paths[1:])]
    for change in (
        lambda: ledger.append(job, "stage", "Rendering"),
        lambda: ledger.attach(job, [{"storage_key": "tenants/acme/1/b.png", "kind": "render", "role": "final"}]),
        lambda: ledger.note(
            job, "worker 7", artifacts=[{"storage_key": "tenants/acme/1/c.png", "kind": "r", "role": "final"}]
        ),
        lambda: ledger.finish(job, "Done"),
    ):
        change()
        seen.append(etags(acme_client, paths[1:]))
    assert len({validator for both in seen for validator in both}) == len(seen) * 2


def test_a_listings_validator_changes_with_what_the_page_shows(acme_client, acme, job, job_of):
    seen = etags(acme_client, ["/v1/jobs"])
    ledger.finish(job, "Done")
    seen += etags(acme_client, ["/v1/jobs"])
    job_of(acme)
    seen += etags(acme_client, ["/v1/jobs"])
    assert len(set(seen)) == 3


def test_it_depends_on_the_parameters(acme_client, job):
    events = f"/v1/jobs/{job.public_id}/events"
    assert len(set(etags(acme_client, [events, f"{events}?since=1", f"{events}?since=2"]))) == 3
    listings = [
        "",
        "?limit=49",
        "?offset=1",
        "?status=IN_PROGRESS",
        "?job_type=MODEL_GENERATOR",
        "?created_after=2020-01-01T00:00:00Z",
    ]
    assert len(set(etags(acme_client, [f"/v1/jobs{query}" for query in listings]))) == len(listings)
    # Which are the ones that were applied, however they were spelled.
    assert (
        len(set(etags(acme_client, [events, f"{events}?since=0", f"{events}?since=-1", f"{events}?tenant_id=7"]))) == 1
    )
    assert len(set(etags(acme_client, ["/v1/jobs", "/v1/jobs?limit=50", "/v1/jobs?limit=7&limit=50&x=1"]))) == 1


def test_it_lives_as_long_as_the_links_do(acme_client, paths, monkeypatch, settings):
    now = 1_800_000_000.0  # where a window of a third of this begins
    settings.PRESIGN_TTL_SECONDS = 900
    monkeypatch.setattr("time.time", lambda: now)
    first, pictures = etags(acme_client, paths), acme_client.get(paths[2]).content
    now += settings.PRESIGN_TTL_SECONDS / 3 - 1
    assert etags(acme_client, paths) == first
    assert acme_client.get(paths[2]).content == pictures
    now += 1
    for path, validator in zip(paths, first, strict=True):
        assert poll(acme_client, path, validator).status_code == 200
    assert acme_client.get(paths[2]).content != pictures


def test_it_changes_with_the_credentials_that_sign(acme_client, paths, s3_store, monkeypatch):
    first = etags(acme_client, paths)
    found = s3_store.credentials.now()
    others = found._replace(credentials=found.credentials._replace(secret_key="another"))
    monkeypatch.setattr(s3_store.credentials, "now", lambda: others)
    assert not set(first) & set(etags(acme_client, paths))


def test_it_changes_with_the_format_of_answers(acme_client, paths, monkeypatch):
    first = etags(acme_client, paths)
    monkeypatch.setattr("jobs.api.etags.FORMAT_VERSION", 1_000)
    assert not set(first) & set(etags(acme_client, paths))


def test_it_changes_with_the_declared_fields(acme_client, paths, monkeypatch):
    first = etags(acme_client, paths)
    fields = ArtifactResponseSerializer._declared_fields | {"size": IntegerField()}
    monkeypatch.setattr(ArtifactResponseSerializer, "_declared_fields", fields)
    nested = JobEventResponseSerializer._declared_fields | {"artifacts": ArtifactResponseSerializer(many=True)}
    monkeypatch.setattr(JobEventResponseSerializer, "_declared_fields", nested)
    shape_of.cache_clear()
    try:
        again = etags(acme_client, paths)
    finally:
        shape_of.cache_clear()
    assert again[0] == first[0]  # the list shows no artifacts
    assert again[2] != first[2]


# How responses are written in this version of the format. A new field needs no new version: see shape_of.
FORMAT = (
    2,
    {
        "public_id": "01JADE5XAMPK9M0Q7RS3T4V5W6",
        "job_type": "MODEL_GENERATOR",
        "status": "FAILURE",
        "created_at": "2026-04-15T12:00:00Z",
        "request": {"prompt": "[redacted]", "numbers": [1, 1.5, None, True]},
        "result": [],
        "latest_event": {
            "seq": 1,
            "event_type": "failed",
            "visibility": "public",
            "stage": None,
            "message": "no file [redacted]",
            "artifacts": [{"kind": "render", "role": "final", "label": None, "meta": {"width": 1}}],
            "extra": {"error": "[redacted]"},
            "created_at": "2026-04-15T12:00:00.250000Z",
        },
    },
)


def test_a_different_format_needs_a_new_format_version(acme_client, acme, job_of):
    key = "tenants/acme/1/front.png"
    picture = {"storage_key": key, "kind": "render", "role": "final", "meta": {"width": 1}}
    failed = {"seq": 1, "event_type": "failed", "created_at": "2026-04-15T14:00:00.25+02:00", "artifacts": [picture]}
    job = job_of(
        acme,
        public_id="01JADE5XAMPK9M0Q7RS3T4V5W6",
        created_at=NOON,
        request={"prompt": key, "numbers": [1, 1.5, None, True]},
        events=[failed | {"message": f"no file {key}", "extra": {"error": key}}],
    )
    body = acme_client.get(f"/v1/jobs/{job.public_id}").json()
    version, expected = FORMAT
    assert (etag_format.FORMAT_VERSION, with_members_of(body, expected)) == (version, expected), (
        "Raise FORMAT_VERSION in jobs/api/etags.py, and put the new number and the new values here."
    )


def with_members_of(value, expected):
    """``value`` with those members of its objects that ``expected`` has."""
    if isinstance(value, dict) and isinstance(expected, dict):
        return {name: with_members_of(member, expected[name]) for name, member in value.items() if name in expected}
    if isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
        return [with_members_of(*pair) for pair in zip(value, expected, strict=True)]
    return value


@pytest.mark.parametrize("public_base_url", ["", "https://jobs.example.com"])
def test_it_depends_on_the_address_that_was_asked(acme_client, paths, settings, public_base_url):
    # Also where links begin with another: what is redacted as the gateway's own depends on it.
    settings.PUBLIC_BASE_URL = public_base_url
    elsewhere = [acme_client.get(path, headers={"Host": "localhost"}).headers["ETag"] for path in paths]
    assert not set(elsewhere) & set(etags(acme_client, paths))


def test_it_depends_on_the_public_address(acme_client, paths, settings):
    first = etags(acme_client, paths)
    settings.PUBLIC_BASE_URL = "https://jobs.example.com"
    assert not set(first) & set(etags(acme_client, paths))


def test_it_depends_on_the_storage_prefix_that_is_redacted(acme_client, acme, paths, settings):
    settings.TOKEN_CACHE_SECONDS = 0
    first = etags(acme_client, paths)
    type(acme).objects.filter(pk=acme.pk).update(storage_prefix="tenants/")
    assert not set(first) & set(etags(acme_client, paths))


# --- what proxies make of a validator ---


@pytest.mark.parametrize(
    "form",
    [
        'W/"{}"',  # nginx
        '"{}-gzip"',  # Apache, Caddy
        'W/"{}-gzip"',
        '"{}-br"',
        '"{}-zstd"',
        '"{}-deflate"',
        '"{}--gzip"',  # Jetty
        '"{};gzip"',
        '"{}"-gzip',
        '"x-gzip", "{}-gzip"',
    ],
)
def test_a_validator_that_a_compressing_proxy_changed_still_holds(acme_client, paths, form):
    for path, validator in zip(paths, etags(acme_client, paths), strict=True):
        response = poll(acme_client, path, form.format(validator.strip('"')))
        assert (response.status_code, response.headers["ETag"]) == (304, validator)


@pytest.mark.parametrize(
    "form", ['"{}-"', '"{}-gz"', '"{}gzip"', '"-gzip"', '"{}-gzip-gzip"', '"{}', '{}"', '"x{}-gzip"']
)
def test_no_other_ending_is_left_off(acme_client, paths, form):
    for path, validator in zip(paths, etags(acme_client, paths), strict=True):
        assert poll(acme_client, path, form.format(validator.strip('"'))).status_code == 200


# --- Job-Status ---


def test_detail_and_events_say_whether_the_job_is_over(acme_client, job, paths):
    for change, status in (
        (lambda: None, "IN_PROGRESS"),
        (lambda: ledger.finish(job, "Done"), "SUCCESS"),
    ):
        change()
        for path in paths[1:]:
            full = acme_client.get(path)
            held = poll(acme_client, path, full.headers["ETag"])
            assert (full.status_code, held.status_code) == (200, 304)
            assert full.headers["Job-Status"] == held.headers["Job-Status"] == status
            assert acme_client.head(path).headers["Job-Status"] == status
    assert "Job-Status" not in acme_client.get("/v1/jobs").headers
    assert "Job-Status" not in acme_client.get(f"/v1/jobs/{ULID()}").headers


def test_a_partial_failure_is_a_failure_in_the_header_too(acme_client, acme, job_of):
    hosts = [("completed", "web-01"), ("failed", "web-02")]
    events = [
        {"seq": seq, "event_type": kind, "hostname": host, "created_at": NOON}
        for seq, (kind, host) in enumerate(hosts, 1)
    ]
    job = job_of(acme, job_type="node.command", events=events)
    assert acme_client.get(f"/v1/jobs/{job.public_id}/events").headers["Job-Status"] == "FAILURE"


# --- Link and cursor ---


def next_page(response):
    """The address that ``Link`` names, from the root; None on the last page."""
    link = response.headers.get("Link")
    if link is None:
        return None
    match = re.fullmatch(r'<http://testserver(/v1/jobs\?[^>]+)>; rel="next"', link)
    assert match, link
    return match[1]


def walk(client, path, between=lambda: None):
    """The ids of every page from ``path`` on."""
    while path:
        response = client.get(path)
        assert response.status_code == 200, response.content
        yield [job["public_id"] for job in response.json()["jobs"]]
        between()
        path = next_page(response)


def joined(pages):
    return list(itertools.chain.from_iterable(pages))


def test_a_full_page_leads_to_the_next_and_one_that_is_not_is_the_last(acme_client, acme, job_of):
    jobs = [str(job_of(acme).public_id) for _ in range(7)][::-1]
    assert list(walk(acme_client, "/v1/jobs?limit=3")) == [jobs[:3], jobs[3:6], jobs[6:]]
    assert list(walk(acme_client, "/v1/jobs?limit=7")) == [jobs, []]
    assert list(walk(acme_client, "/v1/jobs")) == [jobs]
    assert list(walk(acme_client, "/v1/jobs?limit=2&offset=3")) == [jobs[3:5], jobs[5:], []]


def test_pages_of_jobs_made_at_one_instant_neither_repeat_nor_miss(acme_client, acme, job_of):
    for _ in range(11):
        job_of(acme, public_id=str(ULID()), created_at="2026-04-15T12:00:00.000001Z")
    pages = list(walk(acme_client, "/v1/jobs?limit=2"))
    assert [len(page) for page in pages] == [2, 2, 2, 2, 2, 1]
    assert joined(pages) == sorted(joined(pages), reverse=True)


def test_a_walk_sees_each_job_once_while_others_are_made(acme_client, acme, job_of):
    there = {str(job_of(acme).public_id) for _ in range(23)}

    def meanwhile():
        job_of(acme)  # the newest
        job_of(acme, created_at="2026-04-15T12:00:03.5Z", public_id=str(ULID()))  # in between, late

    seen = joined(walk(acme_client, "/v1/jobs?limit=4", meanwhile))
    assert len(seen) == len(set(seen))
    assert there <= set(seen)


def test_a_walk_keeps_its_filters(acme_client, acme, job_of):
    for n in range(30):
        job_of(acme, job_type=JobType.values[n % 3], status=("SUCCESS", "FAILURE")[n % 2])
    query = "job_type=MODEL_GENERATOR&job_type=BACKGROUND_GENERATOR&status=FAILURE&created_after=2026-04-15T12:00:04Z"
    whole = acme_client.get(f"/v1/jobs?{query}").json()["jobs"]
    walked = joined(walk(acme_client, f"/v1/jobs?limit=2&{query}"))
    assert len(walked) == 8
    assert walked == [job["public_id"] for job in whole]


@pytest.fixture
def jobs(acme, job_of):
    for _ in range(4):
        job_of(acme)


def cursor_of(client, query="limit=2"):
    return parse_qs(urlsplit(next_page(client.get(f"/v1/jobs?{query}"))).query)["cursor"][0]


def is_rejected(client, cursor, query="limit=2"):
    response = client.get(f"/v1/jobs?{query}&cursor={quote(cursor)}")
    assert response.status_code == 422, response.content
    assert response.json() == {
        "detail": [
            {
                "loc": ["query", "cursor"],
                "msg": "Input should be a cursor of an earlier page, sent with the same filters",
                "type": "value_error",
            }
        ]
    }
    return True


def test_the_same_page_has_the_same_cursor(acme_client, acme, jobs):
    assert cursor_of(acme_client) == cursor_of(acme_client)
    assert acme.slug not in cursor_of(acme_client)


def test_a_cursor_may_be_sent_with_another_page_size_or_an_offset(acme_client, jobs):
    everything = [job["public_id"] for job in acme_client.get("/v1/jobs").json()["jobs"]]
    cursor = quote(cursor_of(acme_client))
    for query, rest in [("limit=1", everything[2:3]), ("limit=200", everything[2:]), ("offset=1", everything[3:])]:
        response = acme_client.get(f"/v1/jobs?{query}&cursor={cursor}")
        assert [job["public_id"] for job in response.json()["jobs"]] == rest


def test_a_cursor_is_bound_to_its_tenant(acme_client, globex_client, globex, job_of, jobs):
    for _ in range(3):
        job_of(globex)
    assert is_rejected(globex_client, cursor_of(acme_client))
    assert is_rejected(acme_client, cursor_of(globex_client))


def test_a_cursor_is_bound_to_its_filters(acme_client, jobs):
    plain = cursor_of(acme_client)
    filters = ["status=NOT_STARTED", "job_type=MODEL_GENERATOR", f"created_after={quote(NOON)}"]
    for given in filters:
        assert is_rejected(acme_client, plain, given)
        filtered = (
            cursor_of(acme_client, f"limit=2&{given}")
            if "after" not in given
            else cursor_of(acme_client, f"limit=1&{given}")
        )
        assert is_rejected(acme_client, filtered)
        assert is_rejected(acme_client, filtered, f"{given}&status=SUCCESS")
    # Filters that say the same in other words are the same.
    one = cursor_of(acme_client, "limit=2&job_type=MODEL_GENERATOR&job_type=MODEL_SWAP_WITH_IMAGE")
    other = f"job_type=MODEL_SWAP_WITH_IMAGE&job_type=MODEL_GENERATOR&job_type=MODEL_GENERATOR&cursor={quote(one)}"
    assert acme_client.get(f"/v1/jobs?{other}").status_code == 200


def test_a_cursor_that_was_altered_anywhere_is_refused(acme_client, jobs):
    cursor = cursor_of(acme_client)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place, letter in enumerate(cursor):
        # The neighbours in the alphabet too: the last letter has bits that a lax reader ignores.
        for other in {alphabet[(alphabet.find(letter) + step) % 64] for step in (1, 2, 63)} | {"=", "", "é", "\0"}:
            if other != letter:
                assert is_rejected(acme_client, cursor[:place] + other + cursor[place + 1 :])
    for altered in ("", "null", "x", cursor + "=", cursor + "A", cursor[:-1], cursor * 2, " " + cursor, cursor.lower()):
        assert is_rejected(acme_client, altered)


def test_a_cursor_holds_nothing_that_can_be_read(acme_client, acme, jobs):
    cursor = cursor_of(acme_client)
    sealed = base64.urlsafe_b64decode(cursor + "==")
    last = Job.objects.for_tenant(acme).newest_first()[1]
    for inside in (str(last.public_id), last.public_id.hex, str(last.created_at.year), acme.slug):
        assert inside.encode() not in sealed
    # A digest of the tenant's number and what the tenant can see would let a tenant try numbers out.
    assert cursor != cursor_of(acme_client, "limit=1")


def test_cursors_and_validators_depend_on_the_secret_key(acme_client, jobs, settings):
    validator, cursor = acme_client.get("/v1/jobs?limit=2").headers["ETag"], cursor_of(acme_client)
    settings.SECRET_KEY = "another" * 10
    assert acme_client.get("/v1/jobs?limit=2").headers["ETag"] != validator
    assert cursor_of(acme_client) != cursor
    assert is_rejected(acme_client, cursor)


def test_a_cursor_outlives_a_rotation_of_the_secret_key(acme_client, jobs, settings):
    cursor, rest = cursor_of(acme_client), None
    path = f"/v1/jobs?limit=2&cursor={cursor}"
    rest = acme_client.get(path).json()
    settings.SECRET_KEY_FALLBACKS = ["unrelated" * 9, settings.SECRET_KEY]
    settings.SECRET_KEY = "another" * 10
    assert acme_client.get(path).json() == rest
    settings.SECRET_KEY_FALLBACKS = []
    assert is_rejected(acme_client, cursor)


def test_a_cursor_of_something_else_is_refused(acme_client, acme, jobs):
    place = decrypt_cursor(cursor_of(acme_client), ["/v1/jobs", acme.pk])
    assert acme_client.get(f"/v1/jobs?cursor={encrypt_cursor(place, ['/v1/jobs', acme.pk])}").status_code == 200
    for bound_to in (["/v1/events", acme.pk], ["/v1/jobs", acme.pk + 1], ["/v1/jobs"], None):
        assert is_rejected(acme_client, encrypt_cursor(place, bound_to))


@pytest.mark.parametrize("place", ["", [], {"a": [1, None]}, "x" * 500])
def test_what_was_encrypted_comes_back_and_is_the_same_each_time(place):
    cursor = encrypt_cursor(place, ["feed", 7])
    assert cursor == encrypt_cursor(place, ["feed", 7])
    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    assert decrypt_cursor(cursor, ["feed", 7]) == place
    with pytest.raises(BadCursor):
        decrypt_cursor(cursor, ["feed", 8])


def test_a_walk_of_jobs_at_the_ends_of_the_calendar(acme_client, acme, job_of):
    instants = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]
    for instant in (*instants, instants[0] + timedelta(microseconds=1)):
        job_of(acme, public_id=str(ULID()), created_at=instant.isoformat())
    assert [len(page) for page in walk(acme_client, "/v1/jobs?limit=1")] == [1, 1, 1, 0]


def test_an_artifact_that_is_loaded_without_an_event_ends_the_validator(acme, acme_client):
    record = {
        "public_id": str(ULID()),
        "tenant": acme.slug,
        "job_type": "MODEL_GENERATOR",
        "created_at": "2026-04-15T12:00:00Z",
        "events": [{"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:00Z"}],
    }
    bulk.load_record(record)
    path = f"/v1/jobs/{record['public_id']}"
    validator = acme_client.get(path).headers["ETag"]
    assert poll(acme_client, path, validator).status_code == 304
    picture = {"storage_key": f"{acme.storage_prefix}late.png", "kind": "render", "role": "final"}
    bulk.load_record(record | {"artifacts": [picture]})
    response = poll(acme_client, path, validator)
    assert (response.status_code, len(response.json()["result"])) == (200, 1)
