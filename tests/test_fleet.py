"""``GET /job``: the store as fleet tooling sees it."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from ulid import ULID

from jobs.artifacts.signing import links
from jobs.models import JobCounts
from tenants.models import Tenant

NOON = datetime(2026, 4, 15, 12, tzinfo=UTC)
NO_JOBS = {"submitted": 0, "processing": 0, "completed": 0, "failed": 0, "partial_failure": 0}


def at(seconds: float) -> str:
    """The time so many seconds past noon, as it stands in records and answers."""
    return (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def events_of(*lines: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The events of a record, from (seconds past noon, type, host) with ``extra`` and more where given."""
    return [
        {"seq": seq, "event_type": kind, "hostname": host, "created_at": at(seconds), "message": f"{kind} it"}
        | (more[0] if more else {})
        for seq, (seconds, kind, host, *more) in enumerate(lines, 1)
    ]


def with_extra(data: Any = None, **extra: Any) -> dict[str, Any]:
    return {"extra": extra if data is None else {"data": data, **extra}}


def item(client: Any, query: str = "") -> dict[str, Any]:
    items: list[dict[str, Any]] = client.get(f"/job{query}").json()["items"]
    assert len(items) == 1
    return items[0]


# --- whole bodies ---


def test_an_empty_store_has_no_jobs_and_all_five_counts(acme_client):
    response = acme_client.get("/job")
    assert response.status_code == 200
    assert response.json() == {"total_items": 0, "status_counts": NO_JOBS, "items": []}


def test_a_workflow_job_in_the_words_of_the_fleet(acme_client, acme, job_of, local_store):
    picture = {"storage_key": "tenants/acme/1/front.png", "kind": "render", "role": "final", "label": "front"}
    job = job_of(
        acme,
        created_at=at(0),
        request={"prompt": "studio, soft light"},
        events=events_of(
            (0, "queued", None),
            (1.25, "stage", None, {"stage": "render"}),
            (2, "stage", None, {"visibility": "internal", "message": "worker 7"}),
            (9, "succeeded", None, {"artifacts": [picture | {"meta": {"width": 1024}}]}),
        ),
        artifacts=[picture | {"storage_key": "tenants/acme/1/back.png", "label": None}],
    )
    link = links("http://testserver").url
    assert acme_client.get("/job").json() == {
        "total_items": 1,
        "status_counts": NO_JOBS | {"completed": 1},
        "items": [
            {
                "id": str(job.public_id.to_uuid()),
                "status": "completed",
                "created": "2026-04-15T12:00:00Z",
                "operation": {"type": "MODEL_GENERATOR", "data": {"prompt": "studio, soft light"}},
                "result": [
                    {
                        "image_url": link("tenants/acme/1/front.png"),
                        "kind": "render",
                        "role": "final",
                        "label": "front",
                        "meta": {"width": 1024},
                    },
                    {
                        "image_url": link("tenants/acme/1/back.png"),
                        "kind": "render",
                        "role": "final",
                        "label": None,
                        "meta": {},
                    },
                ],
                "changed": None,
                "updated_at": "2026-04-15T12:00:09Z",
                "responses": {},
                "agent_states": {},
                "timeline": [
                    {"timestamp": "2026-04-15T12:00:00Z", "event": "submitted", "message": "queued it"},
                    {"timestamp": "2026-04-15T12:00:01.250000Z", "event": "started", "message": "stage it"},
                    {"timestamp": "2026-04-15T12:00:09Z", "event": "completed", "message": "succeeded it"},
                ],
            }
        ],
    }


def test_a_failed_workflow_job_says_why(acme_client, acme, job_of):
    picture = {"storage_key": "tenants/acme/1/front.png", "kind": "render", "role": "final"}
    failure = {"message": "The picture is empty", "artifacts": [picture]}
    job_of(acme, events=events_of((0, "queued", None), (3, "failed", None, failure)))
    failed = item(acme_client)
    assert (failed["status"], failed["error"], failed["result"]) == ("failed", "The picture is empty", None)
    assert "hostname" not in failed


def test_a_job_that_has_not_begun(acme_client, acme, job_of):
    job = job_of(acme, created_at="2026-04-15T12:00:00.000001Z")
    assert item(acme_client) == {
        "id": str(job.public_id.to_uuid()),
        "status": "submitted",
        "created": "2026-04-15T12:00:00.000001Z",
        "operation": {"type": "MODEL_GENERATOR", "data": None},
        "result": None,
        "changed": None,
        "updated_at": "2026-04-15T12:00:00.000001Z",
        "responses": {},
        "agent_states": {},
        "timeline": [],
    }


def test_an_operation_on_one_agent(acme_client, acme, job_of):
    job = job_of(
        acme,
        job_type="node.hostname.get",
        created_at=at(0),
        request={"type": "node.hostname.get"},
        events=events_of(
            (0, "submitted", "_api"),
            (0.5, "acknowledged", "web-01"),
            (1, "started", "web-01"),
            (1.25, "completed", "web-01", with_extra({"hostname": "web-01.example.net"}, changed=False)),
        ),
    )
    assert acme_client.get("/job").json() == {
        "total_items": 1,
        "status_counts": NO_JOBS | {"completed": 1},
        "items": [
            {
                "id": str(job.public_id.to_uuid()),
                "status": "completed",
                "created": at(0),
                "operation": {"type": "node.hostname.get"},
                "result": {"hostname": "web-01.example.net"},
                "changed": False,
                "hostname": "web-01",
                "updated_at": at(1.25),
                "responses": {},
                "agent_states": {},
                "timeline": [
                    {"timestamp": at(0), "event": "submitted", "hostname": "_api", "message": "submitted it"},
                    {"timestamp": at(0.5), "event": "acknowledged", "hostname": "web-01", "message": "acknowledged it"},
                    {"timestamp": at(1), "event": "started", "hostname": "web-01", "message": "started it"},
                    {"timestamp": at(1.25), "event": "completed", "hostname": "web-01", "message": "completed it"},
                ],
            }
        ],
    }


def test_an_operation_on_several_agents(acme_client, acme, job_of):
    job = job_of(
        acme,
        job_type="node.command",
        created_at=at(0),
        events=events_of(
            (0, "submitted", "_api"),
            (0, "submitted", "web-01"),
            (0, "submitted", "web-02"),
            (1, "started", "web-01"),
            (1, "started", "web-02"),
            (1.25, "failed", "web-02", with_extra(error="permission denied")),
            (2, "retried", "_api"),
            (64.5, "completed", "web-01", with_extra([1, 2], changed=True)),
        ),
    )
    assert item(acme_client, "?status=partial_failure") == {
        "id": str(job.public_id.to_uuid()),
        "status": "partial_failure",
        "created": at(0),
        "operation": {},
        "result": [1, 2],
        "changed": True,
        "error": "permission denied",
        "hostname": "web-01",
        "updated_at": at(64.5),
        "responses": {
            "web-01": {"status": "completed", "data": [1, 2], "changed": True, "hostname": "web-01"},
            "web-02": {
                "status": "failed",
                "data": None,
                "changed": None,
                "error": "permission denied",
                "hostname": "web-02",
            },
        },
        "agent_states": {
            "web-01": {"status": "completed", "duration": "1m3.5s"},
            "web-02": {"status": "failed", "error": "permission denied", "duration": "250ms"},
        },
        "timeline": [
            {"timestamp": at(0), "event": "submitted", "hostname": "_api", "message": "submitted it"},
            {"timestamp": at(0), "event": "submitted", "hostname": "web-01", "message": "submitted it"},
            {"timestamp": at(0), "event": "submitted", "hostname": "web-02", "message": "submitted it"},
            {"timestamp": at(1), "event": "started", "hostname": "web-01", "message": "started it"},
            {"timestamp": at(1), "event": "started", "hostname": "web-02", "message": "started it"},
            {
                "timestamp": at(1.25),
                "event": "failed",
                "hostname": "web-02",
                "message": "failed it",
                "error": "permission denied",
            },
            {"timestamp": at(2), "event": "retried", "hostname": "_api", "message": "retried it"},
            {"timestamp": at(64.5), "event": "completed", "hostname": "web-01", "message": "completed it"},
        ],
    }


def test_a_partial_failure_is_a_failure_to_the_studio(acme_client, acme, job_of):
    job = job_of(
        acme,
        job_type="MODEL_GENERATOR",
        events=events_of((0, "completed", "web-01"), (1, "failed", "web-02")),
    )
    assert item(acme_client)["status"] == "partial_failure"
    assert acme_client.get(f"/v1/jobs/{job.public_id}").json()["status"] == "FAILURE"


def test_a_job_that_came_without_its_events_keeps_the_status_it_was_given(acme_client, acme, job_of):
    job_of(acme, status="SUCCESS", artifacts=[{"storage_key": "tenants/acme/a.png", "kind": "render", "role": "final"}])
    old = item(acme_client, "?status=completed")
    assert (old["status"], old["timeline"], len(old["result"])) == ("completed", [], 1)


# --- the broadcast ---


def broadcast(agents: int = 200) -> list[dict[str, Any]]:
    """Every agent is targeted, acknowledges and starts; then one in ten fails, the others complete."""
    hosts = [f"web-{n:03}" for n in range(agents)]
    phases = ((0, "submitted"), (1, "acknowledged"), (2, "started"))
    begun = [(second, kind, host) for second, kind in phases for host in hosts]
    ended = [
        (3 + n / 1000, "failed", host, with_extra(error=f"{host} is full"))
        if n % 10 == 3
        else (3 + n / 1000, "completed", host, with_extra({"free": n}, changed=n == 7))
        for n, host in enumerate(hosts)
    ]
    return events_of(*begun, *ended)


def test_a_broadcast_over_200_agents_shows_each(acme_client, acme, job_of):
    job_of(acme, job_type="node.disk.get", events=broadcast())
    job = item(acme_client)
    assert (job["status"], job["result"], job["changed"]) == ("partial_failure", {"free": 199}, True)
    assert (job["error"], job["hostname"], job["updated_at"]) == ("web-193 is full", "web-199", at(3.199))
    assert len(job["responses"]) == len(job["agent_states"]) == 200
    assert len(job["timeline"]) == 500
    assert job["responses"]["web-007"] == {
        "status": "completed",
        "data": {"free": 7},
        "changed": True,
        "hostname": "web-007",
    }
    assert job["agent_states"]["web-013"] == {"status": "failed", "error": "web-013 is full", "duration": "1.013s"}
    assert [host for host, state in job["agent_states"].items() if state["status"] == "failed"] == [
        f"web-{n:03}" for n in range(3, 200, 10)
    ]


def statements(client: Any, url: str, status: int = 200) -> list[str]:
    """The statements that answering ``url`` takes once the credential is known."""
    client.get("/job?limit=1")
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == status
    return [query["sql"] for query in captured]


@pytest.fixture
def _credentials_are_remembered(settings):
    settings.TOKEN_CACHE_SECONDS = 5.0


@pytest.mark.usefixtures("_credentials_are_remembered")
def test_a_hundred_broadcasts_take_as_many_statements_as_one_job(acme_client, acme, job_of):
    events = broadcast(5)
    for _ in range(101):
        job_of(acme, job_type="node.disk.get", events=events)
    assert len(acme_client.get("/job?limit=100").json()["items"]) == 100
    assert len(statements(acme_client, "/job?limit=1")) == 1
    assert len(statements(acme_client, "/job?limit=100")) == 1
    assert len(statements(acme_client, "/job?limit=100&offset=1&status=partial_failure")) == 2
    assert len(statements(acme_client, "/job?limit=1&offset=1")) == 2


@pytest.mark.usefixtures("_credentials_are_remembered")
def test_an_invalid_parameter_costs_no_statement(acme_client):
    assert statements(acme_client, "/job?limit=0", status=400) == []


# --- totals and pages ---


def one_of_each(job_of: Any, tenant: Any) -> None:
    for events in (
        [],
        events_of((0, "stage", None)),
        events_of((0, "succeeded", None)),
        events_of((0, "failed", "web-01")),
        events_of((0, "failed", "web-01"), (0, "completed", "web-02")),
        events_of((0, "completed", "web-01")),
    ):
        job_of(tenant, job_type="node.command", events=events)


def test_counts_ignore_the_filter_and_the_total_follows_it(acme_client, acme, job_of):
    one_of_each(job_of, acme)
    counts = {"submitted": 1, "processing": 1, "completed": 2, "failed": 1, "partial_failure": 1}
    everything = acme_client.get("/job").json()
    assert (everything["total_items"], everything["status_counts"]) == (6, counts)
    for status, count in counts.items():
        page = acme_client.get("/job", {"status": status, "limit": 1}).json()
        assert (page["total_items"], page["status_counts"]) == (count, counts)
        assert [job["status"] for job in page["items"]] == [status]


def test_pages_are_newest_first_and_never_overlap(acme_client, acme, job_of):
    moments = itertools.cycle([at(0), at(0.000001), at(0)])
    jobs = [job_of(acme, job_type="any.type", created_at=next(moments)) for _ in range(12)]
    newest_first = sorted(jobs, key=lambda job: (job.created_at, job.public_id), reverse=True)
    seen = [
        job["id"]
        for offset in range(0, 15, 5)
        for job in acme_client.get(f"/job?limit=5&offset={offset}").json()["items"]
    ]
    assert seen == [str(job.public_id.to_uuid()) for job in newest_first]


@pytest.mark.parametrize("offset", [1, 2147483647])
def test_a_page_beyond_the_end_is_empty_and_keeps_its_counts(acme_client, acme, job_of, offset):
    job_of(acme)
    assert acme_client.get(f"/job?offset={offset}").json() == {
        "total_items": 1,
        "status_counts": NO_JOBS | {"submitted": 1},
        "items": [],
    }


def test_ten_jobs_are_a_page_unless_asked_otherwise(acme_client, acme, job_of):
    for _ in range(11):
        job_of(acme)
    assert len(acme_client.get("/job").json()["items"]) == 10


def test_a_tenant_sees_neither_jobs_nor_counts_of_another(acme_client, acme, globex, globex_client, job_of):
    one_of_each(job_of, globex)
    mine = job_of(acme)
    listing = acme_client.get("/job", {"tenant_id": globex.pk, "tenant": "globex"}).json()
    assert [job["id"] for job in listing["items"]] == [str(mine.public_id.to_uuid())]
    assert (listing["total_items"], listing["status_counts"]) == (1, NO_JOBS | {"submitted": 1})
    assert len(globex_client.get("/job").json()["items"]) == 6


def test_an_id_is_the_ulid_as_a_uuid(acme_client, acme, job_of):
    job = job_of(acme, public_id="01JADE5XAMPK9M0Q7RS3T4V5W6")
    assert uuid.UUID(item(acme_client)["id"]).bytes == ULID.from_str("01JADE5XAMPK9M0Q7RS3T4V5W6").bytes
    assert job.public_id.to_uuid() == uuid.UUID(item(acme_client)["id"])


# --- what stays inside ---


def test_no_string_of_an_operation_holds_a_reference_to_the_artifact_store(acme_client, acme, job_of):
    inside = "tenants/acme/hidden.png"
    job_of(
        acme,
        job_type="node.command",
        request={"path": inside, f"{inside}": {"also": f"see s3://artifacts/{inside}"}},
        events=events_of(
            (0, "started", f"{inside}-a", {"message": f"reads s3://artifacts/{inside}"}),
            (1, "completed", f"{inside}-a", with_extra({"wrote": [inside]}, changed=True)),
            (2, "failed", f"{inside}-b", with_extra(error=inside)),
        ),
    )
    job = item(acme_client)
    assert job["operation"] == {"path": "[redacted]", "[redacted]": {"also": "see [redacted]"}}
    assert (job["result"], job["error"], job["hostname"]) == ({"wrote": ["[redacted]"]}, "[redacted]", "[redacted]")
    assert set(job["responses"]) == set(job["agent_states"]) == {"[redacted]", "[redacted] 2"}
    assert [line["message"] for line in job["timeline"]] == ["reads [redacted]", "completed it", "failed it"]
    assert inside not in acme_client.get("/job").content.decode()


def test_only_recorded_pictures_are_signed(acme_client, acme, job_of, local_store):
    key = "tenants/acme/front.png"
    job_of(
        acme,
        request={"image_url": key},
        events=events_of(
            (0, "succeeded", None, {"artifacts": [{"storage_key": key, "kind": "render", "role": "final"}]})
        ),
    )
    job = item(acme_client)
    assert job["operation"]["data"] == {"image_url": "[redacted]"}
    assert [picture["image_url"] for picture in job["result"]] == [links("http://testserver").url(key)]
    assert acme_client.get("/job").content.decode().count(key) == 1


def test_intermediate_pictures_are_no_result(acme_client, acme, job_of):
    picture = {"storage_key": "tenants/acme/1.png", "kind": "render", "role": "intermediate"}
    job_of(acme, events=events_of((0, "succeeded", None, {"artifacts": [picture]})))
    assert item(acme_client)["result"] == []


def test_internal_events_are_folded_and_never_shown(acme_client, acme, job_of):
    internal = {"visibility": "internal", "message": "secret"}
    job_of(
        acme,
        job_type="node.command",
        events=events_of(
            (0, "started", "web-01"),
            (0, "started", "web-02"),
            (1, "completed", "web-01", internal | with_extra("shown as the result", error="secret")),
            (2, "failed", "web-02", internal | with_extra("secret", error="secret")),
            (3, "failed", "secret", internal),
        ),
    )
    job = item(acme_client)
    assert (job["status"], job["result"], job["updated_at"]) == ("partial_failure", "shown as the result", at(3))
    assert job["responses"] == {
        "web-01": {"status": "completed", "data": None, "changed": None, "hostname": "web-01"},
        "web-02": {"status": "failed", "data": None, "changed": None, "hostname": "web-02"},
    }
    assert [line["event"] for line in job["timeline"]] == ["started", "started"]
    assert "secret" not in acme_client.get("/job").content.decode()


# --- parameters ---


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("status=", "status: Input should be"),
        ("status=COMPLETED", "status: Input should be"),
        ("status=SUCCESS", "status: Input should be"),
        ("status=null", "status: Input should be"),
        ("status=completed%00", "status: Input should be"),
        ("status=%FF%FE", "status: Input should be"),
        ("status=failed&status=", "status: Input should be"),
        ("limit=", "limit: Input should be a valid integer"),
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=101", "limit: Input should be less than or equal to 100"),
        ("limit=-1", "limit: Input should be greater than or equal to 1"),
        ("limit=1.0", "limit: Input should be a valid integer"),
        ("limit=1e1", "limit: Input should be a valid integer"),
        ("limit=%D9%A1", "limit: Input should be a valid integer"),
        ("limit=true", "limit: Input should be a valid integer"),
        ("limit=" + "9" * 5000, "limit: Input should be less than or equal to 100"),
        ("offset=-1", "offset: Input should be greater than or equal to 0"),
        ("offset=2147483648", "offset: Input should be less than or equal to 2147483647"),
        ("offset=null", "offset: Input should be a valid integer"),
        ("offset=%00", "offset: Input should be a valid integer"),
    ],
)
def test_a_bad_parameter_is_a_400_of_this_dialect(acme_client, query, problem):
    response = acme_client.get(f"/job?{query}")
    body = response.json()
    assert (response.status_code, body["code"], set(body)) == (400, 400, {"error", "code"})
    assert body["error"].startswith(problem)


def test_all_invalid_parameters_are_reported_together(acme_client):
    error = acme_client.get("/job?status=x&limit=0&offset=x").json()["error"]
    assert [part.split(":")[0] for part in error.split("; ")] == ["status", "limit", "offset"]


@pytest.mark.parametrize(
    "query", ["limit=0&limit=1", "nonsense=%00", "job_type=x&created_after=y", "%00=%00", "limit=%2B7"]
)
def test_the_last_of_several_counts_and_what_is_unknown_changes_nothing(acme_client, acme, job_of, query):
    job_of(acme)
    assert acme_client.get(f"/job?{query}").json()["total_items"] == 1


# --- HTTP ---


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("post", "/job", {}, 405),
        ("delete", "/job", {}, 405),
        ("get", "/job", {"Accept": "text/html"}, 406),
        ("get", "/job", {"Authorization": "Bearer jgw_nobody_nothing"}, 401),
        ("get", "/job", {"X-Shopify-Hmac-Sha256": ""}, 401),
        ("get", "/job/", {}, 404),
        ("get", "/job/01JADE5XAMPK9M0Q7RS3T4V5W6", {}, 404),
    ],
)
def test_every_error_speaks_this_dialect(acme_client, method, path, headers, status):
    response = getattr(acme_client, method)(path, headers=headers)
    body = response.json()
    assert (response.status_code, body["code"], set(body)) == (status, status, {"error", "code"})
    assert isinstance(body["error"], str)
    assert response["Content-Type"] == "application/json"
    assert response["X-Request-ID"]
    assert ("WWW-Authenticate" in response) == (status == 401)
    assert ("Allow" in response) == (status == 405)


def test_the_credential_is_checked_first(anonymous_client, db):
    response = anonymous_client.get("/job?limit=0")
    assert (response.status_code, response.json()["code"]) == (401, 401)


def test_head_and_options_work(acme_client):
    head = acme_client.head("/job")
    assert (head.status_code, head["Content-Type"]) == (200, "application/json")
    assert acme_client.options("/job").status_code == 200


def test_an_answer_is_kept_by_its_caller_alone(acme_client):
    response = acme_client.get("/job", headers={"X-Request-ID": "mine-1"})
    assert (response["Cache-Control"], response["Vary"]) == ("private, no-cache", "Authorization")
    assert response["X-Request-ID"] == "mine-1"


# --- plans ---


def planned(statement: str) -> list[dict[str, Any]]:
    """The nodes of the plan of ``statement``, the outermost first."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}")
        nodes = [cursor.fetchone()[0][0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    return nodes


# By the server: through the ORM these rows take a quarter of a minute.
THOUSANDS_OF_JOBS = (
    """
    INSERT INTO jobs_job (public_id, tenant_id, job_type, status, created_at, updated_at, request, last_seq,
                          last_public_seq, version, is_operation)
    SELECT (lpad(to_hex(1776254400000 + n * 60000), 12, '0') || substr(md5(n::text), 1, 20))::uuid,
           CASE WHEN n %% 10 = 0 THEN %(acme)s ELSE %(globex)s END, 'MODEL_GENERATOR',
           CASE WHEN n %% 5000 = 0 THEN 'FAILURE' WHEN n %% 20 = 0 THEN 'IN_PROGRESS' ELSE 'SUCCESS' END,
           to_timestamp(1776254400 + n * 60), to_timestamp(1776254400 + n * 60), '{}', 0, 0, 1, false
    FROM generate_series(0, 29999) n
    """,
    """
    INSERT INTO jobs_jobevent (job_id, tenant_id, seq, event_type, visibility, message, extra, created_at)
    SELECT public_id, tenant_id, seq, 'stage', 'public', '', '{}', created_at
    FROM jobs_job, generate_series(1, 4) seq WHERE tenant_id = %(acme)s
    """,
    """
    INSERT INTO jobs_artifact (job_id, tenant_id, event_id, position, storage_key, kind, role, meta)
    SELECT job_id, tenant_id, id, 0, 'tenants/acme/final.png', '', 'final', '{}' FROM jobs_jobevent
    """,
)


@pytest.fixture
def thousands_of_jobs(acme, globex):
    """A tenth of 30,000 jobs is acme's, one in 500 of them failed; 500 tenants more."""
    others = Tenant.objects.bulk_create(Tenant(slug=f"shop-{n}") for n in range(500))
    JobCounts.all_tenants.bulk_create(JobCounts(tenant=tenant) for tenant in (*others, acme, globex))
    with connection.cursor() as cursor:
        for statement in THOUSANDS_OF_JOBS:
            cursor.execute(statement, {"acme": acme.pk, "globex": globex.pk})
        cursor.execute("VACUUM (ANALYZE) jobs_job, jobs_jobevent, jobs_artifact, jobs_jobcounts")


PLANNED = {
    "the first page": ("", "job_fleet"),
    "a status": ("?status=processing", "job_fleet_status"),
    "a rare status": ("?status=failed", "job_fleet_status"),
    "a deep page": ("?offset=1000&limit=50", "job_fleet"),
    "a deep page of a status": ("?offset=500&status=processing", "job_fleet_status"),
}


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)  # VACUUM, which index-only scans wait for, runs outside of one
@pytest.mark.usefixtures("_credentials_are_remembered", "thousands_of_jobs")
def test_a_page_comes_from_an_index_in_its_order(acme_client):
    for query, index in PLANNED.values():
        for statement in statements(acme_client, f"/job{query}"):
            nodes = planned(statement)
            read = {node["Index Name"] for node in nodes if node.get("Relation Name") == "jobs_job"}
            assert index in read <= {index, "job_of_tenant", "jobs_job_pkey"}
            assert "Seq Scan" not in {node["Node Type"] for node in nodes}
            # The page itself is put in order, and the pictures of each job; never what the page is chosen from.
            assert all(node["Plan Rows"] <= 50 for node in nodes if node["Node Type"] == "Sort")
