"""The OpenAPI document: it agrees with the contract, and the responses agree with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.urls import get_resolver
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from rest_framework import serializers
from rest_framework.exceptions import APIException

from jobs.api.fleet.params import FleetListParams
from jobs.api.fleet.serializers import FleetJobListResponseSerializer
from jobs.api.v1.params import ListParams
from jobs.api.v1.serializers import (
    FeedResponseSerializer,
    JobDetailResponseSerializer,
    JobEventsResponseSerializer,
    JobListResponseSerializer,
)
from jobs.fold import AGENT_RANKS
from tests.test_checks import manage

pytestmark = pytest.mark.full_on_postgresql

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden" / "openapi.json"
CONTRACT = HERE / "contract" / "openapi.yaml"


@pytest.fixture
def document(anonymous_client) -> dict[str, Any]:
    response = anonymous_client.get("/v1/openapi.json")
    assert response.status_code == 200
    return dict(response.json())


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations by their ids."""
    return {
        operation["operationId"]: operation | {"path": path, "method": method}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """``part``, or the component that it refers to."""
    if "$ref" not in part:
        return part
    _, components, kind, name = part["$ref"].split("/")
    return dict(document[components][kind][name])


# --- how it is served ---


def test_anyone_may_read_it_and_need_not_read_it_twice(anonymous_client):
    first = anonymous_client.get("/v1/openapi.json")
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["Cache-Control"] == "public, max-age=300"
    again = anonymous_client.get("/v1/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])


def test_it_answers_head_and_options_and_nothing_that_writes(anonymous_client):
    assert anonymous_client.head("/v1/openapi.json").status_code == 200
    assert anonymous_client.options("/v1/openapi.json").status_code == 200
    refused = anonymous_client.post("/v1/openapi.json")
    assert refused.status_code == 405
    assert refused.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert refused.json()["code"] == "METHOD_NOT_ALLOWED"


# --- what it says ---


def test_it_is_the_golden_file(document):
    assert document == json.loads(GOLDEN.read_text()), (
        "If the change is meant, write the golden file anew: make openapi"
    )


def test_it_is_made_without_a_warning(tmp_path):
    made = tmp_path / "openapi.json"
    call_command("spectacular", format="openapi-json", validate=True, fail_on_warn=True, file=str(made))
    assert json.loads(made.read_text()) == json.loads(GOLDEN.read_text())


def test_it_is_openapi_3_1(document):
    assert document["openapi"] == "3.1.0"
    validate(document)


def test_nothing_of_the_contract_is_missing_or_different(document):
    contract = yaml.safe_load(CONTRACT.read_text())
    assert document["info"].items() >= contract["info"].items()
    assert differences(document["components"], contract["components"]) == []
    ours, agreed = operations(document), operations(contract)
    assert ours.keys() >= agreed.keys()
    for name, operation in agreed.items():
        assert ours[name]["security"] == contract["security"]
        assert differences(in_full(document, ours[name]), in_full(contract, operation)) == []


def in_full(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """The operation with its parameters by place and name, and no reference to a parameter or a response."""
    parameters = [resolved(document, part) for part in operation["parameters"]]
    return operation | {
        "parameters": {f"{part['in']} {part['name']}": part for part in parameters},
        "responses": {status: resolved(document, part) for status, part in operation["responses"].items()},
    }


def differences(ours: Any, agreed: Any, place: str = "") -> list[str]:
    """Where ``ours`` lacks something of what was ``agreed`` or has it otherwise; additions are none.

    A property that was agreed is required in both or in neither.
    """
    if not isinstance(agreed, dict) or not isinstance(ours, dict):
        return [] if ours == agreed else [f"{place}: {ours!r} instead of {agreed!r}"]
    found = []
    for name, part in agreed.items():
        if name == "required" and isinstance(part, list):
            continue
        if name in ours:
            found += differences(ours[name], part, f"{place}/{name}")
        else:
            found.append(f"{place}/{name} is missing")
    if isinstance(properties := agreed.get("properties"), dict):
        required = [name for name in properties if name in ours.get("required", [])]
        if sorted(required) != sorted(agreed.get("required", [])):
            found.append(f"{place}: required are {required}")
    return found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda part: part["properties"].pop("note"), ["/properties/note is missing"]),
        (
            lambda part: part["properties"]["seq"].update(type="string"),
            ["/properties/seq/type: 'string' instead of 'integer'"],
        ),
        (lambda part: part["required"].remove("seq"), [": required are []"]),
        (lambda part: part["required"].append("note"), [": required are ['seq', 'note']"]),
        (lambda part: part["properties"].update(more={}), []),
        (lambda part: (part["properties"].update(more={}), part["required"].append("more")), []),
    ],
)
def test_additions_are_no_differences(change, expected):
    agreed = {"properties": {"seq": {"type": "integer"}, "note": {}}, "required": ["seq"]}
    ours = json.loads(json.dumps(agreed))
    change(ours)
    assert differences(ours, agreed) == expected


def test_no_parameter_may_be_null_as_the_gateway_takes_no_null(document, acme_client):
    for operation in operations(document).values():
        for part in operation["parameters"]:
            assert "null" not in json.dumps(resolved(document, part)["schema"])


@pytest.mark.parametrize(
    ("operation", "path", "params"), [("listJobs", "/v1/jobs", ListParams), ("listFleetJobs", "/job", FleetListParams)]
)
def test_the_bounds_and_defaults_are_those_that_are_checked(document, acme_client, operation, path, params):
    schemas = {
        part["name"]: part["schema"]
        for part in in_full(document, operations(document)[operation])["parameters"].values()
        if part["in"] == "query"
    }
    assert schemas.keys() == params.model_fields.keys()
    for name in ("limit", "offset"):
        schema = schemas[name]
        for value, status in ((schema["minimum"], 200), (schema["maximum"], 200)):
            assert acme_client.get(f"{path}?{name}={value}").status_code == status
        for value in (schema["minimum"] - 1, schema["maximum"] + 1):
            assert acme_client.get(f"{path}?{name}={value}").status_code in (400, 422)
        assert getattr(params(), name) == schema["default"]


def test_the_document_is_relative_to_the_host_that_serves_it(document):
    assert document["servers"] == [{"url": "/"}]


def test_every_address_that_the_api_answers_is_in_it(document):
    served = {f"/{route}" for route in routes(get_resolver()) if route == "job" or route.startswith("v1/")}
    described = {path.replace("{public_id}", "<str:public_id>") for path in document["paths"]}
    assert served == described | {"/v1/openapi.json"}


def routes(resolver: Any, prefix: str = "") -> list[str]:
    """The routes below ``resolver``, as they are written in ``urls.py``."""
    found = []
    for entry in resolver.url_patterns:
        route = prefix + str(entry.pattern)
        found += routes(entry, route) if hasattr(entry, "url_patterns") else [route]
    return found


def test_every_operation_and_every_parameter_is_explained(document):
    for operation in operations(document).values():
        assert operation["description"]
        assert operation["tags"] in (["jobs"], ["fleet"])
        for part in operation["parameters"]:
            assert resolved(document, part)["description"]


def test_it_says_what_ends_a_job_and_what_the_members_of_extra_and_the_types_of_events_mean(document):
    overview = document["info"]["description"]
    for name in ("Job-Status", "progress", "retryable", "error", *AGENT_RANKS, "retried"):
        assert f"`{name}`" in overview
    assert "`Job-Status`" in operations(document)["listJobEvents"]["description"]
    event_fields = document["components"]["schemas"]["JobEventResponse"]["properties"]
    assert "`Job-Status`" in event_fields["event_type"]["description"]
    assert "agents' own types" in event_fields["event_type"]["description"]
    for name in ("progress", "retryable", "error", "data", "changed"):
        assert f"`{name}`" in event_fields["extra"]["description"]


def test_it_says_what_to_do_about_every_error_and_how_not_to_poll(document):
    overview = document["info"]["description"]
    kinds, of_the_gateway = [APIException], set()
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.__module__.startswith(("jobs.", "tenants.")):
            of_the_gateway.add(kind.default_code)
    assert of_the_gateway >= {"CURSOR_GONE", "JOB_NOT_FOUND", "RATE_LIMITED"}
    for name in (*of_the_gateway, "text/event-stream", "Prefer: wait=30", "GET /v1/events", "Retry-After"):
        assert f"`{name}`" in overview


# --- what the operator adds, and linters ---

CONTACT_AND_LICENSE = {
    "OPENAPI_CONTACT_NAME": "Studio support",
    "OPENAPI_CONTACT_URL": "https://example.com/support",
    "OPENAPI_CONTACT_EMAIL": "support@example.com",
    "OPENAPI_LICENSE_NAME": "Terms of use",
    "OPENAPI_LICENSE_URL": "https://example.com/terms",
}


def document_with(path: Path, **environment: str) -> dict[str, Any]:
    """The document of a gateway with these settings, also written to ``path``."""
    done = manage("spectacular", "--format", "openapi-json", "--file", str(path), **environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(path.read_text()))


def test_contact_and_license_are_those_of_the_settings(tmp_path, document):
    given = document_with(tmp_path / "openapi.json", **CONTACT_AND_LICENSE)
    validate(given)
    assert given["info"].pop("contact") == {
        "name": "Studio support",
        "url": "https://example.com/support",
        "email": "support@example.com",
    }
    assert given["info"].pop("license") == {"name": "Terms of use", "url": "https://example.com/terms"}
    assert given == document


def test_settings_that_are_not_given_are_left_out(tmp_path, document):
    given = document_with(tmp_path / "openapi.json", OPENAPI_CONTACT_EMAIL="support@example.com")
    assert given["info"] == document["info"] | {"contact": {"email": "support@example.com"}}


@pytest.mark.parametrize(
    ("command", "configuration"),
    [
        (["spectral", "lint", "--fail-severity", "hint", "--ruleset"], "extends: spectral:oas"),
        # The rules of ``recommended``, whose warnings would not change the exit status.
        (["redocly", "lint", "--config"], "extends: [recommended-strict]"),
    ],
    ids=["Spectral", "Redocly"],
)
def test_linters_find_nothing(tmp_path, command, configuration):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: npm install --global @stoplight/spectral-cli @redocly/cli")
    document_with(tmp_path / "openapi.json", **CONTACT_AND_LICENSE)
    (tmp_path / "rules.yaml").write_text(configuration)
    linted = subprocess.run(
        [*command, "rules.yaml", "openapi.json"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "REDOCLY_TELEMETRY": "off",
            "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


# --- its examples ---


def examples_of(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], Any]]:
    """Operation, status, schema and value of every example."""
    return [
        (name, status, media["schema"], example["value"])
        for name, operation in operations(document).items()
        for status, part in operation["responses"].items()
        for media in resolved(document, part).get("content", {}).values()
        for example in media.get("examples", {}).values()
    ]


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Raises ValidationError unless ``value`` is what ``schema``, a part of ``document``, describes."""
    Draft202012Validator(
        {**schema, "components": document["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(value)


def test_every_response_with_a_body_has_an_example(document):
    bodies = {
        (name, status)
        for name, operation in operations(document).items()
        for status, part in operation["responses"].items()
        if "content" in resolved(document, part)
    }
    assert {(name, status) for name, status, _, _ in examples_of(document)} == bodies


def test_every_example_is_what_its_schema_describes(document):
    for _, _, schema, value in examples_of(document):
        check(document, schema, value)


@pytest.mark.parametrize(
    ("operation", "url", "headers"),
    [
        ("listJobs", "/v1/jobs?job_type=MODEL_GENERATOR&job_type=SHIRT&limit=500", {}),
        ("listJobs", "/v1/jobs", {"Authorization": "Bearer jgw_unknown"}),
        ("listJobs", "/v1/jobs", {"X-Shopify-Hmac-Sha256": "AAAA"}),
        ("listJobs", "/v1/jobs", {"Accept": "text/html"}),
        ("getJob", "/v1/jobs/01JADE5XAMPK9M0Q7RS3T4V5W6", {}),
        ("listJobEvents", "/v1/jobs/01JADE5XAMPK9M0Q7RS3T4V5W6/events", {}),
        ("listFleetJobs", "/job?limit=500", {}),
        ("listFleetJobs", "/job", {"Authorization": "Bearer jgw_unknown"}),
        ("listFleetJobs", "/job", {"X-Shopify-Hmac-Sha256": "AAAA"}),
        ("listFleetJobs", "/job", {"Accept": "text/html"}),
    ],
)
def test_the_examples_of_errors_are_the_errors(document, acme_client, operation, url, headers):
    response = acme_client.get(url, headers=headers)
    examples = [
        value
        for name, status, _, value in examples_of(document)
        if (name, status) == (operation, str(response.status_code))
    ]
    assert response.json() in examples


# --- what is answered ---

PICTURE = {"storage_key": "tenants/acme/1/front.png", "kind": "on_model_render", "role": "final"}


def event(seq: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "event_type": kind, "created_at": f"2026-04-15T12:00:{seq:02}Z"} | more


@pytest.fixture
def answers(acme_client, acme, job_of, local_store) -> list[tuple[str, type[serializers.Serializer], Any]]:
    """Operation, serializer and body of answers that between them have every field, with a value and with null."""
    bare = job_of(acme).public_id
    rich = job_of(
        acme,
        request={"prompt": "studio"},
        events=[
            event(1, "queued"),
            event(2, "stage", stage="render", message="Rendering"),
            event(3, "succeeded", extra={"cost": 0.04}, artifacts=[PICTURE, PICTURE | {"label": "back"}]),
        ],
    ).public_id
    job_of(acme, job_type="BACKGROUND_GENERATOR", events=[event(1, "queued"), event(2, "failed", message="Out of ink")])
    job_of(
        acme,
        job_type="node.hostname.update",
        events=[
            event(1, "submitted", hostname="_api"),
            event(2, "started", hostname="web-01"),
            event(3, "started", hostname="web-02"),
            event(4, "completed", hostname="web-01", extra={"data": {"ok": True}, "changed": True}),
            event(5, "failed", hostname="web-02", extra={"error": "permission denied"}),
        ],
    )
    requests = [
        ("listJobs", JobListResponseSerializer, "/v1/jobs"),
        *(("getJob", JobDetailResponseSerializer, f"/v1/jobs/{job}") for job in (bare, rich)),
        *(("listJobEvents", JobEventsResponseSerializer, f"/v1/jobs/{job}/events") for job in (bare, rich)),
        ("listEvents", FeedResponseSerializer, "/v1/events"),
        ("listFleetJobs", FleetJobListResponseSerializer, "/job"),
    ]
    return [(operation, shape, acme_client.get(url).json()) for operation, shape, url in requests]


def test_answers_are_what_the_document_describes(document, answers):
    for operation, _, body in answers:
        media = operations(document)[operation]["responses"]["200"]["content"]["application/json"]
        check(document, media["schema"], body)


def test_answers_have_the_declared_fields_in_their_order_and_null_where_it_is_declared(answers):
    nulls: dict[str, set[bool]] = {}
    for _, shape, body in answers:
        compare(shape(), body, nulls)
    # Every field was seen with a value, and those that may be null with null too.
    assert nulls == {name: {False, True} if nullable else {False} for name, nullable in declared(answers)}


def compare(shape: serializers.Serializer, body: dict[str, Any], nulls: dict[str, set[bool]]) -> None:
    """Compares ``body`` with the fields of ``shape`` and adds to ``nulls`` whether each was null."""
    fields: dict[str, Any] = dict(shape.fields.items())
    left_out = {"error", "hostname"} - body.keys()  # optional strings of the fleet dialect
    assert list(body) == [name for name in fields if name not in left_out]
    for name, value in body.items():
        nulls.setdefault(f"{type(shape).__name__}.{name}", set()).add(value is None)
        for part in parts(fields[name], value):
            compare(nested(fields[name]), part, nulls)


def parts(field: serializers.Field, value: Any) -> list[Any]:
    """The objects in ``value`` that a serializer nested in ``field`` describes."""
    if nested(field) is None or value is None:
        return []
    if isinstance(field, serializers.DictField):
        return list(value.values())
    return value if isinstance(field, serializers.ListSerializer) else [value]


def nested(field: serializers.Field) -> Any:
    inner = getattr(field, "child", field)
    return inner if isinstance(inner, serializers.Serializer) else None


def declared(answers: list[Any]) -> list[tuple[str, bool]]:
    """Every field of the answers' serializers and of those nested in them, and whether it may be null."""
    found, waiting = {}, [shape() for _, shape, _ in answers]
    while waiting:
        shape = waiting.pop()
        for name, field in shape.fields.items():
            found[f"{type(shape).__name__}.{name}"] = field.allow_null
            if inner := nested(field):
                waiting.append(inner)
    return list(found.items())


FIRST_REQUESTS = """
import asyncio
from jobs_gateway.asgi import application

SCOPE = {"type": "http", "method": "GET", "path": "/v1/openapi.json", "query_string": b"", "scheme": "http"}

async def ask():
    messages = []
    async def send(message):
        messages.append(message)
    await application(SCOPE | {"headers": [(b"host", b"localhost")]}, None, send)
    return messages[0]["status"]

async def ask_together():
    return await asyncio.gather(*(ask() for _ in range(4)))

print(asyncio.run(ask_together()))
"""


def test_a_new_worker_answers_several_who_ask_at_once():
    command = [sys.executable, "-c", FIRST_REQUESTS]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=True)
    assert done.stdout == f"{[200] * 4}\n", done.stderr
