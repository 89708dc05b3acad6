"""What a response shows of stored values depends on its own tenant only."""

from __future__ import annotations

import dataclasses
import logging

import pytest
from django.test import RequestFactory
from prometheus_client import REGISTRY

from jobs.api.tenant_renderer import TenantRenderer
from jobs.models import Artifact
from tenants.callers import Caller

ACME = Caller(tenant_id=1, slug="acme", storage_prefix="tenants/acme/", token_prefix=None)
GLOBEX = Caller(tenant_id=2, slug="globex", storage_prefix="tenants/globex/", token_prefix=None)
THEIRS = "tenants/globex/theirs.png"


def renderer(caller, host="testserver"):
    return TenantRenderer(RequestFactory().get("/", headers={"Host": host}), caller)


def omitted():
    return REGISTRY.get_sample_value("gateway_omitted_artifacts_total") or 0


def row(storage_key):
    return [storage_key, "render", "final", None, {}]


# --- Redaction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(ACME, GLOBEX), (GLOBEX, ACME)])
def test_each_tenants_own_prefix_is_redacted_in_any_order_of_requests(local_store, first, second):
    for caller in (first, second, first):
        for other in (ACME, GLOBEX):
            text = f"{other.storage_prefix}front.png"
            expected = "[redacted]" if other is caller else text
            assert renderer(caller).redact_text(text) == expected


def test_a_changed_prefix_is_redacted_at_once(local_store):
    assert renderer(ACME).redact_text("moved/front.png") == "moved/front.png"
    moved = dataclasses.replace(ACME, storage_prefix="moved/")
    assert renderer(moved).redact_text("moved/front.png") == "[redacted]"
    assert renderer(moved).redact_text("tenants/acme/front.png") == "tenants/acme/front.png"


def test_the_origin_that_was_asked_and_the_public_one_are_redacted(local_store, settings):
    settings.ALLOWED_HOSTS = ["a.example", "b.example"]
    for host, other in (("a.example", "b.example"), ("b.example", "a.example")):
        redact = renderer(ACME, host).redact_text
        assert redact(f"http://{host}/artifacts/x") == "[redacted]"
        assert redact(f"http://{other}/artifacts/x") == f"http://{other}/artifacts/x"
    settings.PUBLIC_BASE_URL = "https://jobs.example.com"
    assert renderer(ACME, "a.example").redact_text("https://jobs.example.com/artifacts/x") == "[redacted]"


def test_another_artifact_store_is_redacted_at_once(local_store, settings):
    text = "https://minio.internal/pix/front.png"
    assert renderer(ACME).redact_text(text) == text
    options = {"bucket_name": "pix", "endpoint_url": "http://minio.internal:9000", "access_key": "a", "secret_key": "b"}
    bucket = {"BACKEND": "jobs.artifacts.s3.SignedS3Storage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"artifacts": bucket}
    assert renderer(ACME).redact_text(text) == "[redacted]"


def test_two_tenants_that_ask_in_turn_never_share_a_redaction(acme_client, globex_client, acme, globex, job_of):
    clients = {acme: acme_client, globex: globex_client}
    said = "tenants/acme/a.png" + "', '" + "tenants/globex/b.png"
    event = {"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z", "message": f"'{said}'"}
    expected = {acme: "'[redacted]', 'tenants/globex/b.png'", globex: "'tenants/acme/a.png', '[redacted]'"}
    jobs = {tenant: job_of(tenant, events=[event]) for tenant in clients}
    for tenant in (acme, globex, acme):
        detail = clients[tenant].get(f"/v1/jobs/{jobs[tenant]}").json()
        assert detail["latest_event"]["message"] == expected[tenant]


# --- Signing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "storage_key",
    [THEIRS, "tenants/acme-2/x.png", "x.png", "", "/tenants/acme/x.png", "tenants/acme/../globex/x", "tenants/acme/\0"],
)
def test_an_artifact_whose_key_must_not_be_signed_is_left_out(local_store, caplog, storage_key):
    before = omitted()
    rows = [row("tenants/acme/a.png"), row(storage_key), row("tenants/acme/b.png"), row(storage_key)]
    responses = renderer(ACME).artifact_responses(rows)
    assert [each["image_url"].partition("?")[0] for each in responses] == [
        "http://testserver/artifacts/tenants/acme/a.png",
        "http://testserver/artifacts/tenants/acme/b.png",
    ]
    assert omitted() - before == 2
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "jobs.artifacts")
    assert record.getMessage().startswith("Artifacts of tenant acme were left out of a response. The storage key ")
    assert not storage_key or storage_key not in record.getMessage()


def test_a_thousand_such_artifacts_are_one_line_in_the_log(local_store, caplog):
    before = omitted()
    assert renderer(ACME).artifact_responses([row(f"tenants/globex/{n}.png") for n in range(1000)]) == []
    assert omitted() - before == 1000
    assert len(caplog.records) == 1


def test_an_empty_prefix_turns_the_prefix_check_off(local_store):
    anywhere = dataclasses.replace(ACME, storage_prefix="")
    assert len(renderer(anywhere).artifact_responses([row(THEIRS), row("a/../b"), row("x.png")])) == 2


def test_neither_dialect_signs_a_key_of_another_tenant(local_store, acme_client, acme, job_of):
    pictures = [{"storage_key": f"tenants/acme/{name}", "kind": "render", "role": "final"} for name in ("a", "b")]
    event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:00Z", "artifacts": pictures}
    job = job_of(acme, events=[event])
    Artifact.all_tenants.filter(job=job, storage_key="tenants/acme/b").update(storage_key=THEIRS)
    detail = acme_client.get(f"/v1/jobs/{job}")
    events = acme_client.get(f"/v1/jobs/{job}/events")
    fleet = acme_client.get("/job")
    shown = [
        detail.json()["result"],
        detail.json()["latest_event"]["artifacts"],
        events.json()["events"][0]["artifacts"],
        fleet.json()["items"][0]["result"],
    ]
    for artifacts in shown:
        (artifact,) = artifacts
        assert artifact["image_url"].startswith("http://testserver/artifacts/tenants/acme/a?")
    for response in (detail, events, fleet):
        assert response.status_code == 200
        assert b"theirs" not in response.content


def test_the_console_does_not_sign_it_either(local_store, admin_client, acme, job_of):
    artifact = {"storage_key": "tenants/acme/a", "kind": "render", "role": "final"}
    job = job_of(acme, status="SUCCESS", artifacts=[artifact])
    Artifact.all_tenants.filter(job=job).update(storage_key=THEIRS)
    page = admin_client.get(f"/admin/jobs/job/{job.pk}/change/", follow=True).content.decode()
    assert "lies outside the tenant" in page
    assert "theirs" not in page
