"""``GET /v1/jobs/{public_id}/events``: a job's public timeline, from a cursor on."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from ulid import ULID

from jobs.artifacts.signing import links

NOON = "2026-04-15T12:00:00Z"


def event(seq, kind="stage", **more):
    return {"seq": seq, "event_type": kind, "created_at": NOON, **more}


def event_body(seq, kind="stage", **more):
    """The event in a response; members that are not given have their defaults."""
    return {
        "seq": seq,
        "event_type": kind,
        "visibility": "public",
        "stage": None,
        "message": "",
        "artifacts": [],
        "extra": {},
        "created_at": NOON,
    } | more


def timeline(client, job, since=None):
    query = "" if since is None else f"?since={since}"
    response = client.get(f"/v1/jobs/{job.public_id}/events{query}")
    assert response.status_code == 200, response.content
    return response.json()


def seqs(client, job, since=None):
    """The seqs of a page, and its latest_seq."""
    body = timeline(client, job, since)
    return [each["seq"] for each in body["events"]], body["latest_seq"]


def test_a_job_without_events_has_an_empty_timeline_and_no_cursor(acme_client, acme, job_of):
    job = job_of(acme)
    nothing = {"public_id": str(job.public_id), "events": [], "latest_seq": None}
    assert timeline(acme_client, job) == timeline(acme_client, job, 7) == nothing


def test_a_timeline_in_full(acme_client, acme, job_of, local_store):
    job = job_of(
        acme,
        events=[
            event(1, "queued", message="Queued"),
            event(2, stage="render", message="Rendering", created_at="2026-04-15T12:00:02.417Z"),
            event(3, visibility="internal", message="worker 7", artifacts=[artifact("mask")]),
            event(
                4,
                "succeeded",
                message="Done",
                extra={"cost": 0.04, "steps": ["a", {"b": None}]},
                artifacts=[artifact("draft", role="intermediate"), artifact("front", label="front", meta={"width": 1})],
            ),
        ],
        artifacts=[artifact("sheet")],
    )
    url = links("http://testserver").url
    assert timeline(acme_client, job) == {
        "public_id": str(job.public_id),
        "events": [
            event_body(1, "queued", message="Queued"),
            event_body(2, stage="render", message="Rendering", created_at="2026-04-15T12:00:02.417000Z"),
            event_body(
                4,
                "succeeded",
                message="Done",
                extra={"cost": 0.04, "steps": ["a", {"b": None}]},
                artifacts=[
                    {
                        "image_url": url("tenants/acme/draft.png"),
                        "kind": "render",
                        "role": "intermediate",
                        "label": None,
                        "meta": {},
                    },
                    {
                        "image_url": url("tenants/acme/front.png"),
                        "kind": "render",
                        "role": "final",
                        "label": "front",
                        "meta": {"width": 1},
                    },
                ],
            ),
        ],
        "latest_seq": 4,
    }


def artifact(name, **more):
    return {"storage_key": f"tenants/acme/{name}.png", "kind": "render", "role": "final", **more}


def test_an_operations_events_carry_their_agents_own_types(acme_client, acme, job_of):
    kinds = ["submitted", "acknowledged", "started", "failed", "completed"]
    job = job_of(
        acme,
        job_type="node.command",
        events=[event(seq, kind, hostname="web-01") for seq, kind in enumerate(kinds, 1)],
    )
    assert timeline(acme_client, job)["events"] == [event_body(seq, kind) for seq, kind in enumerate(kinds, 1)]


def test_the_artifacts_of_an_event_keep_their_order(acme_client, acme, job_of):
    job = job_of(acme, events=[event(1, artifacts=[artifact(f"{n:02}") for n in range(25)])])
    (only,) = timeline(acme_client, job)["events"]
    order = [each["image_url"].partition(".png")[0][-2:] for each in only["artifacts"]]
    assert order == [f"{n:02}" for n in range(25)]


# --- since ---


@pytest.fixture
def job(acme, job_of):
    """Public events 2, 5, 6, 11 and 12; internal ones between, before and after them."""
    public = {2, 5, 6, 11, 12}
    return job_of(
        acme, events=[event(seq, visibility="public" if seq in public else "internal") for seq in range(1, 15)]
    )


@pytest.mark.parametrize(
    ("since", "page"),
    [
        (None, [2, 5, 6, 11, 12]),
        (0, [2, 5, 6, 11, 12]),
        (1, [2, 5, 6, 11, 12]),
        (2, [5, 6, 11, 12]),
        (3, [5, 6, 11, 12]),
        (6, [11, 12]),
        (11, [12]),
        (12, []),
        (14, []),
        (2**31 - 1, []),
        (2**31, []),
        (2**63, []),
        (10**40, []),
        ("9" * 5000, []),
        (-1, [2, 5, 6, 11, 12]),
        (-(10**40), [2, 5, 6, 11, 12]),
        ("%2B5", [6, 11, 12]),
        ("-0", [2, 5, 6, 11, 12]),
        ("0" * 5000 + "6", [11, 12]),
    ],
)
def test_since_is_exclusive_and_may_be_any_integer(acme_client, job, since, page):
    # An empty page has the highest public seq, so that a cursor beyond it is corrected.
    assert seqs(acme_client, job, since) == (page, 12)


def test_a_client_that_sends_the_latest_seq_sees_each_event_once(acme_client, job):
    page, cursor = seqs(acme_client, job, 2)
    assert (page, cursor) == ([5, 6, 11, 12], 12)
    assert seqs(acme_client, job, cursor) == ([], 12)


def test_internal_events_alone_give_no_cursor(acme_client, acme, job_of):
    job = job_of(acme, events=[event(seq, visibility="internal", message="secret") for seq in (1, 2)])
    assert timeline(acme_client, job) == {"public_id": str(job.public_id), "events": [], "latest_seq": None}


@pytest.mark.parametrize(
    "since", ["", "null", "1.0", "1e3", "0x1", "one", "１", " 1", "1 ", "--1", "1_000", "NaN", "[]", "\0"]
)
def test_a_since_that_is_no_integer_is_a_422_for_every_id(acme_client, globex, job_of, job, since):
    expected = {
        "detail": [
            {
                "loc": ["query", "since"],
                "msg": "Input should be a valid integer, unable to parse string as an integer",
                "type": "int_parsing",
            }
        ]
    }
    for public_id in (job.public_id, job_of(globex).public_id, ULID(), "nonsense"):
        response = acme_client.get(f"/v1/jobs/{public_id}/events?since={quote(since)}")
        assert response.status_code == 422
        assert response.json() == expected


def test_of_several_cursors_the_last_counts(acme_client, job):
    assert seqs(acme_client, job, "x&since=-5&since=6") == ([11, 12], 12)
    assert acme_client.get(f"/v1/jobs/{job.public_id}/events?since=6&since=").status_code == 422


def test_other_parameters_mean_nothing_here(acme_client, job):
    assert seqs(acme_client, job, "6&limit=1&offset=1&tenant_id=7&visibility=internal") == ([11, 12], 12)


# --- pages ---


def test_a_page_holds_five_hundred_events(acme_client, acme, job_of):
    internal = {1, 500, 501, 777}
    job = job_of(
        acme,
        events=[
            event(seq, visibility="internal" if seq in internal else "public", message=f"{seq}")
            for seq in range(1, 1206)
        ],
    )
    public = [seq for seq in range(1, 1206) if seq not in internal]
    walked, cursor = [], 0
    for size in (500, 500, 201, 0):
        page, cursor = seqs(acme_client, job, cursor)
        assert len(page) == size
        walked += page
        assert cursor == walked[-1]
    assert walked == public


def test_a_last_page_of_exactly_five_hundred_is_followed_by_an_empty_one(acme_client, acme, job_of):
    job = job_of(acme, events=[event(seq) for seq in range(1, 501)])
    assert seqs(acme_client, job) == (list(range(1, 501)), 500)
    assert seqs(acme_client, job, 500) == ([], 500)


# --- what leaves ---


def test_references_to_the_store_are_redacted_and_internal_events_never_leave(acme_client, acme, job_of):
    key = "tenants/acme/raw.png"
    job = job_of(
        acme,
        events=[
            event(
                1, message=f"from {key}", stage=f"s3://b/{key}", extra={key: key}, artifacts=[artifact("a", label=key)]
            ),
            event(2, visibility="internal", message="classified", artifacts=[artifact("classified")]),
            event(3, "succeeded", visibility="internal", extra={"classified": True}),
        ],
    )
    response = acme_client.get(f"/v1/jobs/{job.public_id}/events")
    link = links("http://testserver").url("tenants/acme/a.png")
    assert response.json()["events"] == [
        event_body(
            1,
            message="from [redacted]",
            stage="[redacted]",
            extra={"[redacted]": "[redacted]"},
            artifacts=[{"image_url": link, "kind": "render", "role": "final", "label": "[redacted]", "meta": {}}],
        )
    ]
    assert b"classified" not in response.content


def test_a_foreign_timeline_looks_like_none_at_all(acme_client, globex, job_of):
    theirs = job_of(globex, events=[event(1, message="theirs")])
    answers = [acme_client.get(f"/v1/jobs/{public_id}/events") for public_id in (theirs.public_id, ULID(), "nonsense")]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["code"] == "JOB_NOT_FOUND"
