"""Bodies are kept by all that they were rendered from: never another tenant's, never an old one, within a bound."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from jobs.api import views
from jobs.api.body_cache import ENTRY_BYTES, MAX_BODY_BYTES, BodyCache, Rendered
from jobs.api.v1.serializers import JobDetailResponseSerializer
from jobs.models import Artifact, JobEvent

# --- The cache ----------------------------------------------------------------------------------------------------


def test_the_body_that_was_used_longest_ago_makes_room():
    cache = BodyCache(max_bytes=2 * (ENTRY_BYTES + 100))
    for key in ("a", "b"):
        cache.put(key, Rendered(b"x" * 60), 0, 40)
    assert cache.get("a").rendered.body == b"x" * 60
    cache.put("c", Rendered(b"x" * 60), 0, 40)
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.get("c") is not None
    assert cache.bytes == 2 * (ENTRY_BYTES + 100)


def test_a_large_body_is_not_kept():
    cache = BodyCache()
    cache.put("a", Rendered(b"x" * (MAX_BODY_BYTES + 1)), 0, 0)
    assert cache.get("a") is None
    assert cache.bytes == 0


# --- Responses ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rendered(monkeypatch):
    """How often the body of a detail was rendered."""
    calls = []
    represent = JobDetailResponseSerializer.represent

    def counted(row, renderer):
        calls.append(row)
        return represent(row, renderer)

    monkeypatch.setattr(views, "bodies", BodyCache())
    monkeypatch.setattr(JobDetailResponseSerializer, "represent", staticmethod(counted))
    return calls


@pytest.fixture
def job(acme, job_of):
    picture = {"storage_key": "tenants/acme/front.png", "kind": "render", "role": "final"}
    event = {"seq": 1, "event_type": "succeeded", "message": "done", "created_at": "2026-04-15T12:00:00Z"}
    return job_of(acme, events=[event | {"artifacts": [picture]}])


def count(name):
    return REGISTRY.get_sample_value(name) or 0


def test_an_unchanged_job_is_rendered_once_and_its_links_are_counted_each_time(acme_client, job, rendered):
    path = f"/v1/jobs/{job.public_id}"
    first = acme_client.get(path)
    before = count("gateway_presigned_links_total")
    second = acme_client.get(path)
    assert second.content == first.content
    assert second.headers["ETag"] == first.headers["ETag"]
    assert len(rendered) == 1
    assert count("gateway_presigned_links_total") - before == 2  # of the result and of the event


def test_a_changed_job_is_rendered_again(acme_client, job, rendered):
    path = f"/v1/jobs/{job.public_id}"
    acme_client.get(path)
    JobEvent.all_tenants.filter(job=job).update(message="changed")
    assert acme_client.get(path).json()["latest_event"]["message"] == "changed"
    assert len(rendered) == 2


def test_another_host_has_links_and_redaction_of_its_own(acme_client, job, rendered, settings, local_store):
    settings.ALLOWED_HOSTS = ["a.example", "b.example"]
    for host in ("a.example", "b.example"):
        body = acme_client.get(f"/v1/jobs/{job.public_id}", headers={"host": host}).json()
        assert body["result"][0]["image_url"].startswith(f"http://{host}/artifacts/")


def test_what_is_left_out_is_counted_at_each_request(acme_client, job, rendered):
    Artifact.all_tenants.filter(job=job).update(storage_key="tenants/globex/front.png")
    before = count("gateway_omitted_artifacts_total")
    for _ in range(2):
        assert acme_client.get(f"/v1/jobs/{job.public_id}").json()["result"] == []
    assert len(rendered) == 2
    assert count("gateway_omitted_artifacts_total") - before == 4
