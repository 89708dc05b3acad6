"""``manage.py seed_demo``: creates jobs of every kind."""

from __future__ import annotations

import io
from itertools import product

import pytest
from django.core.management import call_command
from PIL import Image

from jobs.demo.drawing import draw
from jobs.models import Artifact, Job, JobCounts, JobEvent, JobStatus, JobType
from tenants.models import Tenant
from tests import shared_servers

pytestmark = pytest.mark.full_on_postgresql


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch):
    """The same seed gives the same picture, which takes a tenth of a second: once is enough."""
    monkeypatch.setattr("jobs.demo.pictures.draw", draw_once)


def draw_once(*asked):
    """The picture of ``draw``, from a file that all workers of the test run share."""
    file = shared_servers.pictures() / "-".join(map(str, asked))
    if not file.exists():
        beside = file.with_name(f"{file.name}-{shared_servers.WORKER}")
        beside.write_bytes(draw(*asked))
        beside.rename(file)
    return file.read_bytes()


def seed_demo(*arguments):
    out = io.StringIO()
    call_command("seed_demo", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def demo(db, local_store):
    seed_demo()
    return Tenant.objects.get(slug="demo")


def test_every_workflow_type_is_there_in_every_state(demo):
    there = set(Job.objects.for_tenant(demo).workflows().values_list("job_type", "v1_status"))
    assert there == set(product(JobType.values, set(JobStatus.values) - {"PARTIAL_FAILURE"}))


def test_operations_are_there_in_every_state_and_a_type_that_the_listing_leaves_out(demo):
    assert set(Job.objects.for_tenant(demo).filter(is_operation=True).values_list("status", flat=True)) == set(
        JobStatus.values
    )
    assert Job.objects.for_tenant(demo).filter(is_workflow=False, is_operation=False).count() == 1


def test_an_operation_failed_on_some_of_its_agents(demo):
    job = Job.objects.for_tenant(demo).get(status=JobStatus.PARTIAL_FAILURE)
    ended = JobEvent.objects.for_tenant(demo).filter(job=job, event_type__in=["completed", "failed"])
    assert sorted(ended.values_list("hostname", "event_type")) == [
        ("gpu-01", "completed"),
        ("gpu-02", "completed"),
        ("gpu-03", "failed"),
        ("gpu-04", "completed"),
    ]


def test_each_artifact_is_a_picture_in_the_store(demo, local_store):
    keys = Artifact.objects.for_tenant(demo).values_list("storage_key", flat=True)
    assert len(keys) > 30
    for key in keys:
        with local_store.open(key) as file, Image.open(file) as picture:
            picture.load()
            assert (picture.format, picture.size) == ("PNG", (480, 640))


def test_it_is_the_same_picture_each_time_and_another_for_another_job():
    assert draw("garment", 7, 1) == draw("garment", 7, 1)
    assert len({draw("garment", look_seed) for look_seed in range(5)}) == 5


def test_counts_are_kept(demo):
    counts = JobCounts.objects.for_tenant(demo).get()
    jobs = Job.objects.for_tenant(demo)
    assert {status: getattr(counts, status.lower()) for status in JobStatus.values} == {
        status: jobs.filter(status=status).count() for status in JobStatus.values
    }


def test_seeding_again_changes_nothing(demo):
    before = list(Job.all_tenants.values())
    assert seed_demo() == f"Tenant demo: 0 jobs, 0 pictures, {len(before)} jobs unchanged.\n"
    assert list(Job.all_tenants.values()) == before


def test_a_dry_run_makes_nothing(db, local_store):
    assert seed_demo("--dry-run").startswith("Would create for tenant demo: 41 jobs, 34 pictures")
    assert not Tenant.objects.exists()


def test_on_s3_the_pictures_lie_in_the_bucket(db, s3_store):
    seed_demo()
    key = Artifact.all_tenants.filter(role="final").first().storage_key
    with s3_store.open(key) as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
