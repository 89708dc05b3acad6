"""``GET /v1/jobs``: a tenant's workflow jobs, newest first."""

from __future__ import annotations

import itertools
from functools import partial
from urllib.parse import quote

import pytest
from ulid import ULID

from jobs.models import JobType

NOON = "2026-04-15T12:00:00Z"
EMPTY = {"jobs": [], "limit": 50, "offset": 0, "count": 0}
WORKFLOWS = [str(kind) for kind in JobType]


@pytest.fixture
def add(acme, job_of):
    """``add(status=…)`` is one more job of acme's, a second younger than the one before."""
    return partial(job_of, acme)


def summary(job, status="NOT_STARTED"):
    created_at = job.created_at.isoformat().replace("+00:00", "Z")
    return {"public_id": str(job.public_id), "job_type": job.job_type, "status": status, "created_at": created_at}


def events_of(*kinds):
    return [{"seq": seq, "event_type": kind, "created_at": NOON} for seq, kind in enumerate(kinds, 1)]


def ids(client, query=""):
    response = client.get(f"/v1/jobs{query}")
    assert response.status_code == 200, response.content
    return [job["public_id"] for job in response.json()["jobs"]]


def problems(client, query):
    """What is wrong with the query, as {parameter: type}."""
    response = client.get(f"/v1/jobs?{query}")
    assert response.status_code == 422, (query, response.content)
    body = response.json()
    assert list(body) == ["detail"]
    assert all(set(item) == {"loc", "msg", "type"} and item["loc"][0] == "query" for item in body["detail"])
    return {".".join(map(str, item["loc"][1:])): item["type"] for item in body["detail"]}


# --- what is listed, and in which order ---


def test_an_empty_store_is_an_empty_page(acme_client):
    response = acme_client.get("/v1/jobs")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == EMPTY


def test_jobs_come_newest_first_as_headers_and_nothing_more(acme_client, add):
    first = add(request={"prompt": "studio"}, created_at="2026-04-15T12:00:00.000001Z")
    second = add(job_type="MODEL_SWAP_WITH_IMAGE", events=events_of("queued", "succeeded"), created_at=NOON)
    assert acme_client.get("/v1/jobs").json() == EMPTY | {
        "jobs": [
            summary(first) | {"created_at": "2026-04-15T12:00:00.000001Z"},
            summary(second, "SUCCESS") | {"created_at": NOON},
        ],
        "count": 2,
    }


def test_of_jobs_made_at_the_same_instant_the_higher_id_comes_first(acme_client, add):
    ascending = sorted(ULID() for _ in range(9))
    for public_id in ascending[::2] + ascending[1::2]:
        add(public_id=str(public_id), created_at=NOON)
    newest_first = [str(public_id) for public_id in reversed(ascending)]
    assert ids(acme_client) == newest_first
    assert [ids(acme_client, f"?limit=1&offset={n}")[0] for n in range(9)] == newest_first


def test_the_time_of_creation_decides_before_the_id_does(acme_client, add):
    low, high = sorted([ULID(), ULID()])
    add(public_id=str(high), created_at="2026-04-15T11:59:59.999999Z")
    add(public_id=str(low), created_at=NOON)
    assert ids(acme_client) == [str(low), str(high)]


def test_every_workflow_type_is_listed_and_no_other_type_ever(acme_client, add):
    workflows = [str(add(job_type=kind).public_id) for kind in WORKFLOWS]
    for other in ("node.hostname.get", "model_generator", "MODEL_GENERATOR_V2", "🧥"):
        add(job_type=other)
    assert ids(acme_client) == workflows[::-1]
    assert ids(acme_client, "?status=NOT_STARTED") == workflows[::-1]
    assert ids(acme_client, "?" + "&".join(f"job_type={kind}" for kind in WORKFLOWS)) == workflows[::-1]


def test_times_are_to_the_microsecond_with_no_fraction_where_there_is_none(acme_client, add):
    add(created_at="2026-04-15T14:00:00.250+02:00")
    add(created_at="2026-04-15T11:00:00Z")
    add(created_at="0987-01-02T03:04:05.000006Z")
    times = [job["created_at"] for job in acme_client.get("/v1/jobs").json()["jobs"]]
    assert times == ["2026-04-15T12:00:00.250000Z", "2026-04-15T11:00:00Z", "0987-01-02T03:04:05.000006Z"]


def test_the_id_is_in_upper_case(acme_client, add):
    job = add(public_id="01jade5xampk9m0q7rs3t4v5w6")
    assert ids(acme_client) == ["01JADE5XAMPK9M0Q7RS3T4V5W6"] == [str(job.public_id)]


# --- job_type ---


def test_job_type_may_be_one_or_several(acme_client, add):
    by_type = {kind: str(add(job_type=kind).public_id) for kind in WORKFLOWS}
    one, two, three = WORKFLOWS[0], WORKFLOWS[3], WORKFLOWS[7]
    assert ids(acme_client, f"?job_type={two}") == [by_type[two]]
    assert ids(acme_client, f"?job_type={one}&job_type={three}") == [by_type[three], by_type[one]]
    assert ids(acme_client, f"?job_type={three}&job_type={one}&job_type={three}") == [by_type[three], by_type[one]]


@pytest.mark.parametrize(
    "value", ["", "null", "model_generator", "SHIRT", "MODEL_GENERATOR ", "MODEL_GENERATOR,", "[]"]
)
def test_job_type_takes_the_eight_and_nothing_else(acme_client, value):
    assert problems(acme_client, f"job_type={quote(value)}") == {"job_type.0": "enum"}


def test_of_several_job_types_each_bad_one_is_named_by_its_index(acme_client):
    response = acme_client.get("/v1/jobs?job_type=SHIRT&job_type=MODEL_GENERATOR&job_type=")
    assert response.json()["detail"] == [
        {
            "loc": ["query", "job_type", index],
            "msg": "Input should be 'MODEL_GENERATOR', 'BACKGROUND_GENERATOR', 'COMPLEMENTARY_GARMENT_GENERATOR', "
            "'PRODUCT_TO_MODEL_DIRECT', 'PRODUCT_TO_MODEL_PHASED', 'BACKGROUND_SWAP_WITH_IMAGE', "
            "'BACKGROUND_SWAP_WITH_SPEC' or 'MODEL_SWAP_WITH_IMAGE'",
            "type": "enum",
        }
        for index in (0, 2)
    ]


# --- status ---


def test_status_finds_its_own_and_failure_finds_partial_failure_too(acme_client, add):
    by_status = {
        status: str(add(status=status).public_id)
        for status in ("NOT_STARTED", "IN_PROGRESS", "SUCCESS", "FAILURE", "PARTIAL_FAILURE")
    }
    for status in ("NOT_STARTED", "IN_PROGRESS", "SUCCESS"):
        assert ids(acme_client, f"?status={status}") == [by_status[status]]
    failed = acme_client.get("/v1/jobs?status=FAILURE").json()["jobs"]
    assert [job["public_id"] for job in failed] == [by_status["PARTIAL_FAILURE"], by_status["FAILURE"]]
    assert [job["status"] for job in failed] == ["FAILURE", "FAILURE"]


@pytest.mark.parametrize("value", ["", "null", "success", "PARTIAL_FAILURE", "completed", "SUCCESS\0"])
def test_status_takes_the_four_and_nothing_else(acme_client, value):
    assert problems(acme_client, f"status={quote(value)}") == {"status": "enum"}


# --- created_after ---

# Each says the same instant as noon of 15 April 2026.
SPELLINGS_OF_NOON = [
    NOON,
    "2026-04-15t12:00:00z",
    "2026-04-15T12:00:00",  # no offset is UTC
    "2026-04-15T12:00:00.0Z",
    "2026-04-15T12:00:00.000000000Z",
    "2026-04-15T14:00:00+02:00",
    "2026-04-15T14:00:00 02:00",  # a + that was not escaped
    "2026-04-15T00:15:00-11:45",
    "2026-04-16T11:59:00+23:59",
    "2026-04-15T12:00:00-00:00",
    "2026-04-15T12:00:00+0000",  # as openapi-generator's Python client writes UTC
    "2026-04-15T14:00:00+0200",
    "2026-04-15T14:00:00 0200",
    "2026-04-15T00:15:00-1145",
    "2026-04-15T14:00:00+02",
    "2026-04-15T14:00:00 02",
    "2026-04-15T07:00:00-05",
]


@pytest.mark.parametrize("noon", SPELLINGS_OF_NOON)
def test_created_after_is_strict_however_the_instant_is_spelled(acme_client, add, noon):
    add(created_at="2026-04-15T11:59:59.999999Z")
    add(created_at=NOON)
    later = add(created_at="2026-04-15T12:00:00.000001Z")
    assert ids(acme_client, f"?created_after={quote(noon)}") == [str(later.public_id)]


def test_an_unescaped_plus_is_read_as_a_plus(acme_client, add):
    job = add(created_at="2026-04-15T12:00:00.5Z")
    assert ids(acme_client, "?created_after=2026-04-15T14:00:00.25+02:00") == [str(job.public_id)]
    assert ids(acme_client, "?created_after=2026-04-15T14:00:00.75+02:00") == []


def test_created_after_keeps_microseconds_and_cuts_what_is_finer(acme_client, add):
    jobs = [str(add(created_at=f"2026-04-15T12:00:00.{n:06}Z").public_id) for n in range(4)]
    for n, fraction in itertools.product(range(4), ["", "0", "999"]):
        assert ids(acme_client, f"?created_after=2026-04-15T12:00:00.{n:06}{fraction}Z") == jobs[n + 1 :][::-1]


@pytest.mark.parametrize(
    ("instant", "found"),
    [
        ("0001-01-01T00:00:00Z", 2),
        ("0001-01-01T00:00:00+23:59", 2),  # before the calendar begins
        ("0001-01-01T00:00:00-23:59", 2),
        ("9999-12-31T23:59:59Z", 0),
        ("9999-12-31T23:59:59.999999-23:59", 0),  # after it ends
        ("9999-12-31T23:59:59+23:59", 0),
    ],
)
def test_times_at_the_ends_of_the_calendar_are_accepted(acme_client, add, instant, found):
    add(created_at="0002-01-01T00:00:00Z")
    add(created_at="9999-12-30T00:00:00Z")
    assert len(ids(acme_client, f"?created_after={quote(instant)}")) == found


@pytest.mark.parametrize(
    "value",
    [
        "", "null", "now", "2026-04-15", "20260415", "1776254400", "1776254400.5", "0", "2026-04-15T12:00Z",
        "2026-04-15T12Z", "2026-04-15 12:00:00Z", "2026-04-15T12:00:00+02:0", "2026-04-15T12:00:00+2",
        "2026-04-15T12:00:00+02000", "2026-04-15T12:00:00+2400", "2026-04-15T12:00:00+0260", "2026-04-15T12:00:00-24",
        "2026-04-15T12:00:00+24:00", "2026-04-15T12:00:00+02:60", "2026-04-15T24:00:00Z", "2026-04-15T12:60:00Z",
        "2026-02-30T12:00:00Z", "2026-13-01T12:00:00Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z",
        "2026-04-15T12:00:00.Z", "2026-04-15T12:00:00,5Z", "2026-04-15T12:00:00ZZ", " 2026-04-15T12:00:00Z",
        "2026-04-15T12:00:00Z\n", "2026-W16-3T12:00:00Z", "２０２６-04-15T12:00:00Z", "2026-04-15T12:00:00−02:00",
    ],
)  # fmt: skip
def test_created_after_takes_no_other_spelling(acme_client, value):
    assert problems(acme_client, f"created_after={quote(value)}") == {"created_after": "datetime_parsing"}


# --- limit and offset ---


def test_a_page_says_what_was_applied_and_how_many_it_holds(acme_client, add):
    newest_first = [add() for _ in range(5)][::-1]
    assert acme_client.get("/v1/jobs?limit=2&offset=1").json() == {
        "jobs": [summary(job) for job in newest_first[1:3]],
        "limit": 2,
        "offset": 1,
        "count": 2,
    }
    assert acme_client.get("/v1/jobs?limit=200&offset=4").json() == {
        "jobs": [summary(newest_first[4])],
        "limit": 200,
        "offset": 4,
        "count": 1,
    }
    beyond = acme_client.get("/v1/jobs?offset=2147483647")
    assert beyond.json() == EMPTY | {"offset": 2147483647}


def test_a_page_has_fifty_jobs_by_default(acme_client, add):
    jobs = [str(add().public_id) for _ in range(51)][::-1]
    assert ids(acme_client) == jobs[:50]
    assert ids(acme_client, "?limit=200") == jobs


@pytest.mark.parametrize(
    ("limit", "type_"),
    [
        ("0", "greater_than_equal"),
        ("-1", "greater_than_equal"),
        ("201", "less_than_equal"),
        ("1" + "0" * 40, "less_than_equal"),
        ("-" + "9" * 5000, "greater_than_equal"),
        *(
            (text, "int_parsing")
            for text in ["", "null", "ten", "1.0", "1e2", "0x10", "1_0", " 1", "1\n", "１", "+", "∞"]
        ),
    ],
)
def test_a_limit_is_never_clamped(acme_client, limit, type_):
    assert problems(acme_client, f"limit={quote(limit)}") == {"limit": type_}


@pytest.mark.parametrize(
    ("offset", "type_"),
    [("-1", "greater_than_equal"), ("2147483648", "less_than_equal"), ("9" * 5000, "less_than_equal")]
    + [(text, "int_parsing") for text in ["", "null", "1.0", "0x10", "NaN"]],
)
def test_an_offset_has_its_range_too(acme_client, offset, type_):
    assert problems(acme_client, f"offset={quote(offset)}") == {"offset": type_}


@pytest.mark.parametrize("spelled", ["1", "01", "%2B1", "0" * 5000 + "1"])
def test_an_integer_is_decimal_digits_of_any_number(acme_client, add, spelled):
    add(), add()
    assert acme_client.get(f"/v1/jobs?limit={spelled}&offset={spelled}").json()["count"] == 1


# --- together ---


def test_filters_are_combined_with_and(acme_client, add):
    wanted = []
    for kind, status, second in itertools.product(WORKFLOWS[:3], ("SUCCESS", "FAILURE", "PARTIAL_FAILURE"), range(3)):
        job = add(job_type=kind, status=status, created_at=f"2026-04-15T12:00:0{second}Z")
        if kind != WORKFLOWS[2] and status != "SUCCESS" and second == 2:
            wanted.append(str(job.public_id))
    query = f"?job_type={WORKFLOWS[0]}&job_type={WORKFLOWS[1]}&status=FAILURE&created_after=2026-04-15T12:00:01Z"
    newest_first = sorted(wanted, reverse=True)
    assert ids(acme_client, query) == newest_first
    assert ids(acme_client, f"{query}&limit=2&offset=1") == newest_first[1:3]


def test_of_a_single_parameter_given_twice_the_last_counts(acme_client, add):
    done = add(status="SUCCESS")
    add()
    query = "limit=x&offset=-5&status=nonsense&created_after=never&limit=7&offset=0&status=SUCCESS&created_after="
    assert acme_client.get(f"/v1/jobs?{query}2020-01-01T00:00:00Z").json() == {
        "jobs": [summary(done, "SUCCESS")],
        "limit": 7,
        "offset": 0,
        "count": 1,
    }
    assert problems(acme_client, "limit=7&limit=") == {"limit": "int_parsing"}
    assert problems(acme_client, "status=SUCCESS&status=null") == {"status": "enum"}


def test_all_invalid_parameters_are_reported_together(acme_client):
    query = "job_type=SHIRT&status=DONE&created_after=2026-04-15&limit=201&offset=-1&cursor=x"
    response = acme_client.get(f"/v1/jobs?{query}")
    assert response.status_code == 422
    assert response.json() == {
        "detail": [
            {
                "loc": ["query", "job_type", 0],
                "msg": response.json()["detail"][0]["msg"],  # compared above
                "type": "enum",
            },
            {
                "loc": ["query", "status"],
                "msg": "Input should be 'NOT_STARTED', 'IN_PROGRESS', 'SUCCESS' or 'FAILURE'",
                "type": "enum",
            },
            {
                "loc": ["query", "created_after"],
                "msg": "Input should be an RFC 3339 date and time",
                "type": "datetime_parsing",
            },
            {
                "loc": ["query", "limit"],
                "msg": "Input should be less than or equal to 200",
                "type": "less_than_equal",
            },
            {
                "loc": ["query", "offset"],
                "msg": "Input should be greater than or equal to 0",
                "type": "greater_than_equal",
            },
            {
                "loc": ["query", "cursor"],
                "msg": "Input should be a cursor of an earlier page, sent with the same filters",
                "type": "value_error",
            },
        ]
    }


def test_unknown_parameters_change_nothing(acme_client, acme, globex, job_of):
    job, theirs = job_of(acme), job_of(globex)
    plain = acme_client.get("/v1/jobs")
    query = f"tenant_id={globex.pk}&tenant={globex.slug}&public_id={theirs.public_id}&Limit=1&limit[]=1&page=2&since=x"
    odd = acme_client.get(f"/v1/jobs?{query}")
    assert odd.json() == plain.json() == EMPTY | {"jobs": [summary(job)], "count": 1}
    assert odd.headers["ETag"] == plain.headers["ETag"]
