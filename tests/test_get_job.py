"""``GET /v1/jobs/{public_id}``: one job, its result and its latest public event."""

from __future__ import annotations

import pytest
from ulid import ULID

from jobs.artifacts.signing import links
from tests.test_job_events import event_body

NOON = "2026-04-15T12:00:00Z"
NOT_FOUND = {
    "code": "JOB_NOT_FOUND",
    "detail": "No job with this id. Check the public_id, and that the credential is of the tenant that owns it.",
}


def event(seq, kind, **more):
    return {"seq": seq, "event_type": kind, "created_at": NOON, **more}


def picture(name, role="final", **more):
    return {"storage_key": f"tenants/acme/{name}.png", "kind": "render", "role": role, **more}


def artifact_body(name, role="final", **more):
    url = links("http://testserver").url(f"tenants/acme/{name}.png")
    return {"image_url": url, "kind": "render", "role": role, "label": None, "meta": {}} | more


def names(artifacts):
    """The names of pictures, in the order they are shown."""
    return [artifact["image_url"].partition("?")[0].rpartition("/")[2].removesuffix(".png") for artifact in artifacts]


def detail(client, job):
    response = client.get(f"/v1/jobs/{job.public_id}")
    assert response.status_code == 200, response.content
    return response.json()


def test_a_job_that_has_only_been_asked_for(acme_client, acme, job_of):
    job = job_of(acme)
    assert detail(acme_client, job) == {
        "public_id": str(job.public_id),
        "job_type": "MODEL_GENERATOR",
        "status": "NOT_STARTED",
        "created_at": NOON,
        "request": None,
        "result": [],
        "latest_event": None,
    }


def test_a_finished_job_in_full(acme_client, acme, job_of, local_store):
    job = job_of(
        acme,
        job_type="BACKGROUND_SWAP_WITH_SPEC",
        created_at="2026-04-15T14:00:00.250+02:00",
        request={
            "prompt": "studio, soft light",
            "seeds": [1, 2.5, None, True],
            "nested": {"deep": {"ü": "🧥"}},
            "": {},
        },
        events=[
            event(1, "queued", message="Queued"),
            event(2, "stage", stage="render", artifacts=[picture("draft", "intermediate"), picture("side")]),
            event(
                3,
                "succeeded",
                message="Done",
                extra={"cost": 0.04},
                created_at="2026-04-15T12:00:09.000001Z",
                artifacts=[picture("front", label="front", meta={"width": 1024, "size": [1024, 1536]})],
            ),
        ],
        artifacts=[picture("contact-sheet")],
    )
    front = artifact_body("front", label="front", meta={"width": 1024, "size": [1024, 1536]})
    assert detail(acme_client, job) == {
        "public_id": str(job.public_id),
        "job_type": "BACKGROUND_SWAP_WITH_SPEC",
        "status": "SUCCESS",
        "created_at": "2026-04-15T12:00:00.250000Z",
        "request": {
            "prompt": "studio, soft light",
            "seeds": [1, 2.5, None, True],
            "nested": {"deep": {"ü": "🧥"}},
            "": {},
        },
        "result": [artifact_body("side"), front, artifact_body("contact-sheet")],
        "latest_event": event_body(
            3,
            "succeeded",
            message="Done",
            artifacts=[front],
            extra={"cost": 0.04},
            created_at="2026-04-15T12:00:09.000001Z",
        ),
    }


def test_a_job_of_any_type_has_its_page(acme_client, acme, job_of):
    job = job_of(
        acme,
        job_type="node.hostname.get",
        events=[
            event(1, "submitted", hostname="_api"),
            event(2, "completed", hostname="web-01", message="ok", extra={"data": {"a": 1}, "changed": False}),
        ],
    )
    assert detail(acme_client, job) == {
        "public_id": str(job.public_id),
        "job_type": "node.hostname.get",
        "status": "SUCCESS",
        "created_at": NOON,
        "request": None,
        "result": [],
        "latest_event": event_body(2, "completed", message="ok", extra={"data": {"a": 1}, "changed": False}),
    }


# --- result ---


def test_the_result_is_in_the_order_of_events_and_positions_and_then_those_of_no_event(acme_client, acme, job_of):
    job = job_of(
        acme,
        # Written in another order than read, so that it is not the order of the rows that is seen.
        artifacts=[picture("job-0"), picture("job-1", "intermediate"), picture("job-2")],
        events=[
            event(11, "succeeded", artifacts=[picture(f"last-{n:02}") for n in range(12)]),
            event(2, "stage", artifacts=[picture("two-0"), picture("two-1", "intermediate"), picture("two-2")]),
            event(10, "stage", artifacts=[picture("ten-0")]),
        ],
    )
    last = [f"last-{n:02}" for n in range(12)]
    assert names(detail(acme_client, job)["result"]) == ["two-0", "two-2", "ten-0", *last, "job-0", "job-2"]


def test_final_artifacts_of_internal_events_belong_to_the_result(acme_client, acme, job_of):
    job = job_of(
        acme,
        events=[
            event(1, "stage", visibility="internal", artifacts=[picture("upscaled"), picture("mask", "intermediate")]),
            event(2, "succeeded", artifacts=[picture("front")]),
            event(3, "stage", visibility="internal", message="archived"),
        ],
    )
    body = detail(acme_client, job)
    assert names(body["result"]) == ["upscaled", "front"]
    assert body["latest_event"]["seq"] == 2


@pytest.mark.parametrize("status", ["NOT_STARTED", "IN_PROGRESS", "FAILURE", "PARTIAL_FAILURE"])
def test_there_is_no_result_before_success(acme_client, acme, job_of, status):
    job = job_of(acme, status=status, artifacts=[picture("front")])
    body = detail(acme_client, job)
    assert body["result"] == []
    assert body["status"] == ("FAILURE" if status == "PARTIAL_FAILURE" else status)


def test_the_pictures_of_a_job_that_failed_are_seen_in_its_events_only(acme_client, acme, job_of):
    events = [event(1, "stage", artifacts=[picture("early")]), event(2, "failed", artifacts=[picture("late")])]
    body = detail(acme_client, job_of(acme, events=events))
    assert (body["status"], body["result"]) == ("FAILURE", [])
    assert names(body["latest_event"]["artifacts"]) == ["late"]


# --- latest_event ---


def test_the_latest_event_is_the_public_one_with_the_highest_seq_whatever_its_time(acme_client, acme, job_of):
    job = job_of(
        acme,
        events=[
            event(1, "queued", created_at="2030-01-01T00:00:00Z"),
            event(7, "stage", stage="render", message="Rendering", created_at="2020-01-01T00:00:00Z"),
            event(9, "stage", visibility="internal", message="worker 7 took over"),
        ],
    )
    response = acme_client.get(f"/v1/jobs/{job.public_id}")
    assert response.json()["latest_event"] == event_body(
        7, "stage", stage="render", message="Rendering", created_at="2020-01-01T00:00:00Z"
    )
    assert b"worker 7" not in response.content


def test_a_job_with_internal_events_only_has_no_latest_event(acme_client, acme, job_of):
    job = job_of(acme, events=[event(1, "succeeded", visibility="internal", message="secret")])
    body = detail(acme_client, job)
    assert (body["status"], body["latest_event"]) == ("SUCCESS", None)


# --- what leaves ---


def test_references_to_the_store_are_redacted_in_every_free_form_field(acme_client, acme, job_of):
    key = "tenants/acme/raw.png"
    job = job_of(
        acme,
        request={"source": f"s3://bucket/{key}", key: 1, f"s3://{key}": 2, "list": [f"see {key}", "fine"]},
        events=[
            event(
                1,
                "succeeded",
                stage=key,
                message=f'wrote "{key}" at last',
                extra={"where": {"deep": [key]}},
                artifacts=[picture("front", label=key, meta={"source": f"https://x/?u={key}"})],
            )
        ],
    )
    response = acme_client.get(f"/v1/jobs/{job.public_id}")
    body = response.json()
    assert body["request"] == {
        "source": "[redacted]",
        "[redacted]": 2,
        "[redacted] 2": 1,
        "list": ["see [redacted]", "fine"],
    }
    latest = body["latest_event"]
    assert (latest["stage"], latest["message"]) == ("[redacted]", 'wrote "[redacted]" at last')
    assert latest["extra"] == {"where": {"deep": ["[redacted]"]}}
    assert (
        latest["artifacts"]
        == body["result"]
        == [artifact_body("front", label="[redacted]", meta={"source": "https://x/?u=[redacted]"})]
    )
    assert response.content.count(b"tenants/acme") == 2  # the two links


def test_numbers_and_texts_leave_as_they_came(acme_client, acme, job_of):
    faithful = {
        "largest": 2**64 - 1,
        "smallest": -(2**63),
        "tiny": 5e-324,
        "huge": 1.7976931348623157e308,
        "third": 0.1,
        "text": '\x01\t\r\n\\ " / \u2028 \uffff 🧥 e\u0301',
        "empty": ["", [], {}, None, False, 0],
    }
    assert detail(acme_client, job_of(acme, request=faithful))["request"] == faithful


# --- ids ---


def test_an_id_is_read_in_either_case_and_written_in_upper_case(acme_client, acme, job_of):
    job = job_of(acme, public_id="01JADE5XAMPK9M0Q7RS3T4V5W6")
    upper = acme_client.get("/v1/jobs/01JADE5XAMPK9M0Q7RS3T4V5W6")
    lower = acme_client.get("/v1/jobs/01jade5xampk9m0q7rs3t4v5w6")
    assert upper.json() == lower.json() == detail(acme_client, job)
    assert lower.json()["public_id"] == "01JADE5XAMPK9M0Q7RS3T4V5W6"
    assert lower.headers["ETag"] == upper.headers["ETag"]


@pytest.mark.parametrize(
    "public_id",
    [
        "01JADE5XAMPK9M0Q7RS3T4V5W7",  # unknown
        "01JADE5XAMPK9M0Q7RS3T4V5W",  # too short
        "01JADE5XAMPK9M0Q7RS3T4V5W66",  # too long
        "81JADE5XAMPK9M0Q7RS3T4V5W6",  # beyond 128 bits
        "01IADE5XAMPK9M0Q7RS3T4V5W6",  # I, L, O and U are no digits here
        "01LADE5XAMPK9M0Q7RS3T4V5W6",
        "01OADE5XAMPK9M0Q7RS3T4V5W6",
        "01UADE5XAMPK9M0Q7RS3T4V5W6",
        "01JADE5XAMPK9M0Q7R%C5%BF3T4V5W6",  # ſ, whose upper case is S
        "0192d4e2-f54a-b4d0-0b9e-3c83a4d97c66",  # what /job shows
        "01JADE5XAMPK9M0Q7RS3T4V5W6%20",
        "01JADE5XAMPK9M0Q7RS3T4V5W6%0A",
        "%00",
        "%ff",
        "null",
        "..",
        "🧥" * 26,
        "0" * 5000,
    ],
)
def test_what_is_no_job_of_the_tenants_is_an_unknown_job(acme_client, acme, job_of, public_id):
    job_of(acme, public_id="01JADE5XAMPK9M0Q7RS3T4V5W6")
    for path in (f"/v1/jobs/{public_id}", f"/v1/jobs/{public_id}/events"):
        response = acme_client.get(path)
        assert response.status_code == 404
        assert response.json() == NOT_FOUND


def test_another_tenants_job_looks_like_no_job_at_all(acme_client, job_of, globex):
    theirs = acme_client.get(f"/v1/jobs/{job_of(globex).public_id}")
    missing = acme_client.get(f"/v1/jobs/{ULID()}")
    assert theirs.status_code == missing.status_code == 404
    assert theirs.json() == missing.json() == NOT_FOUND


def test_query_parameters_mean_nothing_here(acme_client, acme, job_of):
    job = job_of(acme)
    odd = acme_client.get(f"/v1/jobs/{job.public_id}?since=x&limit=0&tenant_id=2&status=")
    assert odd.status_code == 200
    assert odd.json() == detail(acme_client, job)
