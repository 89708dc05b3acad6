"""``/metrics``: the metrics of all worker processes together."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import timedelta

import pytest
from django.utils import timezone
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from tenants import tokens
from tests import servers
from tests.conftest import client_with
from tests.gateway import ROOT, database_of_this_test, serving
from tests.streams import end_of, stream

pytestmark = pytest.mark.full_on_postgresql

ROUTES = {"v1/jobs": "/v1/jobs", "v1/jobs/<str:public_id>": "/v1/jobs/01JADE5XAMPK9M0Q7RS3T4V5W6", "job": "/job"}


def scraped(port):
    """Every sample, by its name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return text, {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}


def without_reads(samples):
    """Without those of the database, which each worker asks once a second how it is."""
    return {name: value for name, value in samples.items() if not name[0].startswith("gateway_database_seconds")}


def rejection_count(reason):
    return REGISTRY.get_sample_value("gateway_credentials_rejected_total", {"reason": reason}) or 0


@pytest.mark.django_db(transaction=True)
def test_any_worker_reports_the_counts_of_all_and_no_tenant(acme_token, job_of, acme, tmp_path):
    (port,) = servers.free_ports(1)
    picture = {"storage_key": "tenants/acme/a.png", "kind": "render", "role": "final"}
    event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:00Z", "artifacts": [picture] * 3}
    job = job_of(acme, events=[event])
    environment = {"METRICS_PORT": str(port), "ACCESS_LOG": "0"}
    with serving(database_of_this_test(), workers=2, **environment) as gateway:
        for _ in range(20):  # each on a connection of its own, so that both workers get some
            for path in ROUTES.values():
                gateway.get(path, acme_token)
        gateway.get(f"/v1/jobs/{job}", acme_token)
        gateway.get("/v1/jobs", "jgw_wrong")
        loaded = subprocess.run(
            [sys.executable, "manage.py", "backfill_jobs", "-"],
            cwd=ROOT,
            env=os.environ
            | environment
            | {"DATABASE_URL": database_of_this_test(), "DATABASE_API_URL": "", "DATA_DIR": str(gateway.log.parent)},
            input=b'{"public_id": "nonsense"}\n'
            + json.dumps(
                {
                    "public_id": "01JADE5XAMPK9M0Q7RS3T4V5W7",
                    "tenant": "acme",
                    "job_type": "MODEL_GENERATOR",
                    "created_at": "2026-04-15T12:00:00Z",
                }
            ).encode(),
            capture_output=True,
            check=False,
        )
        answers = [scraped(port) for _ in range(8)]
    text, samples = answers[0]
    assert all(without_reads(other) == without_reads(samples) for _, other in answers)
    requests = "gateway_request_seconds_count"
    assert {route: samples[requests, *sorted(("GET", "200", route))] for route in ("v1/jobs", "job")} == {
        "v1/jobs": 20,
        "job": 20,
    }
    assert samples[requests, *sorted(("GET", "404", "v1/jobs/<str:public_id>"))] == 20
    assert samples[requests, *sorted(("GET", "401", "v1/jobs"))] == 1
    assert samples["gateway_presigned_links_total",] == 66  # 3 each on /job, twice 3 on the job: result, latest event
    assert samples["gateway_credentials_rejected_total", "malformed"] == 1
    assert samples["gateway_database_seconds_count", "default"] >= 61
    assert loaded.returncode == 1, loaded.stderr
    assert samples["gateway_backfill_records_total", "loaded"] == 1
    assert samples["gateway_backfill_records_total", "rejected"] == 1
    assert not any(word in text for word in ("acme", "tenant=", acme_token[4:16]))


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("none sent", None),
        ("other scheme", "Basic YTpi"),
        ("malformed", "Bearer jgw_short"),
        ("unknown", "Bearer jgw_abcdefghijkl_" + "Z" * 43),
        ("malformed", "Bearer not-a-session-token"),
        ("session token: no app is set up", f"Bearer eyJhbGciOiJIUzI1NiJ9.e30.{'Z' * 43}"),
    ],
)
def test_a_credential_that_opens_nothing_is_counted_by_its_reason(db, anonymous_client, reason, header):
    before = rejection_count(reason)
    headers = {"Authorization": header} if header else {}
    assert anonymous_client.get("/v1/jobs", headers=headers).status_code == 401
    assert rejection_count(reason) == before + 1


def test_a_token_that_opens_nothing_any_more_says_why(db, acme):
    one, other, third = (tokens.issue(acme) for _ in range(3))
    tokens.revoke(one.split("_")[1])
    acme.tokens.filter(prefix=other.split("_")[1]).update(expires_at=timezone.now() - timedelta(seconds=1))
    for reason, token in [("revoked", one), ("expired", other), ("inactive tenant", third)]:
        if reason == "inactive tenant":
            acme.is_active = False
            acme.save()
        before = rejection_count(reason)
        assert client_with(token).get("/v1/jobs").status_code == 401
        assert rejection_count(reason) == before + 1


def test_an_hmac_that_does_not_verify_is_counted(acme_client):
    before = rejection_count("hmac")
    assert acme_client.get("/v1/jobs", headers={"X-Shopify-Hmac-Sha256": "x"}).status_code == 401
    assert rejection_count("hmac") == before + 1


@pytest.mark.django_db(transaction=True)
def test_open_streams_are_counted_and_forgotten_with_a_worker_that_was_killed(acme_token):
    (port,) = servers.free_ports(1)
    with serving(database_of_this_test(), METRICS_PORT=str(port)) as gateway:

        async def open_and_kill() -> None:
            async with stream(gateway.port, "/v1/events", acme_token) as opened:
                assert opened.status == 200
                assert (await asyncio.to_thread(scraped, port))[1]["gateway_streams",] == 1
                [worker] = gateway.workers()
                os.kill(int(worker), signal.SIGKILL)
                await end_of(opened)
                assert not opened.is_complete, "the connection closes without an end"

        asyncio.run(open_and_kill())
        deadline = time.monotonic() + servers.START_SECONDS
        while not servers.answers(f"http://127.0.0.1:{port}/metrics"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert scraped(port)[1]["gateway_streams",] == 0
