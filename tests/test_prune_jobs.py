"""``prune_jobs``: removes and records jobs without an event for a given time, and no others."""

from __future__ import annotations

import io
import json
import signal
from datetime import UTC, datetime, timedelta

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError, call_command
from django.utils import timezone

from jobs.ingest import ledger, removal
from jobs.models import Artifact, Job, JobEvent
from tests.stores import counts_of, exported, true_counts

pytestmark = pytest.mark.django_db


def ago(**age):
    return (datetime.now(UTC) - timedelta(**age)).isoformat().replace("+00:00", "Z")


@pytest.fixture
def old_job(job_of):
    """``old_job(tenant, age, event types…, keys=[…])`` is a job whose last event was ``age`` days ago."""

    def make(tenant, age, *event_types, keys=(), **record):
        artifacts = [{"storage_key": key, "kind": "render", "role": "final"} for key in keys]
        events = [
            {"seq": seq, "event_type": event_type, "created_at": ago(days=age)}
            for seq, event_type in enumerate(event_types, 1)
        ]
        return job_of(tenant, created_at=ago(days=age + 1), events=events, artifacts=artifacts, **record)

    return make


@pytest.fixture
def prune(tmp_path):
    """``prune(…)``: the record's lines, and what the command says at its end."""
    record = tmp_path / "pruned.ndjson"

    def run(older_than="90d", **options):
        err = io.StringIO()
        record.unlink(missing_ok=True)
        try:
            call_command("prune_jobs", f"--older-than={older_than}", record=str(record), stderr=err, **options)
        except CommandError as error:
            err.write(f"{error}\n")
        lines = record.read_bytes().splitlines() if record.exists() else []
        return [json.loads(line) for line in lines], err.getvalue()

    return run


def left():
    return set(Job.all_tenants.values_list("pk", flat=True))


# --- What goes, and what stays ------------------------------------------------------------------------------------


def test_old_jobs_are_recorded_and_removed_from_the_api(acme, acme_client, old_job, prune):
    key = "tenants/acme/1/front.png"
    old = old_job(acme, 91, "queued", "succeeded", keys=[key])
    young = old_job(acme, 89, "queued", "succeeded", keys=["tenants/acme/2/front.png"])
    assert acme_client.get(f"/v1/jobs/{old.pk}").status_code == 200
    [line], said = prune()
    assert said == "1 job, 2 events, 1 artifact removed\n"
    assert datetime.fromisoformat(line.pop("pruned_at")) > timezone.now() - timedelta(minutes=1)
    assert line == {
        "public_id": str(old.pk),
        "tenant": "acme",
        "job_type": "MODEL_GENERATOR",
        "status": "SUCCESS",
        "created_at": old.created_at.isoformat().replace("+00:00", "Z"),
        "updated_at": old.updated_at.isoformat().replace("+00:00", "Z"),
        "storage_keys": [key],
    }
    missing = acme_client.get("/v1/jobs/01JADE5XAMPK9M0Q7RS3T4V5W6")
    for path in (f"/v1/jobs/{old.pk}", f"/v1/jobs/{old.pk}/events"):
        answer = acme_client.get(path)
        assert (answer.status_code, answer.json()) == (404, missing.json())
    assert left() == {young.pk}
    assert (JobEvent.all_tenants.count(), Artifact.all_tenants.count()) == (2, 1)
    assert counts_of(acme) == true_counts(acme) == {"success": 1}


def test_an_old_job_that_an_agent_still_speaks_of_stays(acme, old_job, prune):
    job = old_job(acme, 200, "queued", "stage")
    ledger.note(job, "looked at today")
    assert prune() == ([], "0 jobs, 0 events, 0 artifacts removed\n")
    assert left() == {job.pk}


def test_failures_stay_where_they_are_to_be_kept(acme, old_job, prune):
    failed = old_job(acme, 91, "queued", "failed")
    partly = old_job(acme, 91, status="PARTIAL_FAILURE")
    old_job(acme, 91, "queued", "succeeded")
    old_job(acme, 91, "queued")
    old_job(acme, 91)
    assert prune(keep_failures=True, batch=1)[1] == "3 jobs, 3 events, 0 artifacts removed\n"
    assert left() == {failed.pk, partly.pk}
    assert counts_of(acme) == true_counts(acme)
    assert prune()[1] == "2 jobs, 2 events, 0 artifacts removed\n"


def test_one_tenants_alone(acme, globex, old_job, prune):
    old_job(acme, 91)
    theirs = old_job(globex, 91)
    assert prune(tenant="acme")[1] == "1 job, 0 events, 0 artifacts removed\n"
    assert left() == {theirs.pk}
    assert counts_of(globex) == true_counts(globex) == {"not_started": 1}


@pytest.mark.parametrize("batch", [1, 2, 5, 500])
def test_small_batches_remove_the_same(acme, globex, old_job, prune, batch):
    for tenant in (acme, globex) * 3:
        old_job(tenant, 91, "queued", keys=[f"tenants/{tenant}/x.png"])
    stays = old_job(acme, 10)
    lines, said = prune(batch=batch)
    assert len(lines) == 6
    assert said == "6 jobs, 6 events, 6 artifacts removed\n"
    assert left() == {stays.pk}
    assert [counts_of(tenant) for tenant in (acme, globex)] == [{"not_started": 1}, {}]


def test_jobs_of_one_moment_are_all_found(acme, job_of, prune):
    for _ in range(5):
        job_of(acme, created_at="2020-01-01T00:00:00Z")
    assert len(prune(batch=2)[0]) == 5


def test_a_dry_run_counts_and_removes_nothing(acme, old_job, prune):
    old_job(acme, 91, "queued", keys=["tenants/acme/x.png"])
    before = exported()
    assert prune(dry_run=True) == ([], "Dry run, nothing removed: 1 job\n")
    assert exported() == before


def test_a_job_that_gets_an_event_meanwhile_stays(acme, old_job, prune, monkeypatch):
    old_job(acme, 92)
    spoken_of = old_job(acme, 91)
    batches_by_age = removal.batches_by_age

    def meanwhile(*arguments):
        for batch in batches_by_age(*arguments):
            ledger.append(spoken_of, "queued")
            yield batch

    monkeypatch.setattr(removal, "batches_by_age", meanwhile)
    assert prune()[1] == "1 job, 0 events, 0 artifacts removed\n"
    assert left() == {spoken_of.pk}


@pytest.mark.parametrize("age", ["90", "d", "", "0d", "-1d", "1.5h", "90 d", "9999999d", "٣d"])
def test_an_age_is_a_whole_number_and_a_unit(prune, age):
    with pytest.raises((CommandError, SystemExit)):
        call_command("prune_jobs", f"--older-than={age}")


def test_ages_in_hours_and_minutes(acme, old_job, job_of, prune):
    job_of(acme, created_at=ago(minutes=90))
    assert prune(older_than="2h")[1] == "0 jobs, 0 events, 0 artifacts removed\n"
    assert prune(older_than="80m")[1] == "1 job, 0 events, 0 artifacts removed\n"


# --- Objects ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["local_store", "s3_store"])
def store(request):
    return request.getfixturevalue(request.param)


def test_objects_stay_unless_they_are_to_go(acme, old_job, prune, store):
    store.save("tenants/acme/x.png", ContentFile(b"picture"))
    old_job(acme, 91, keys=["tenants/acme/x.png"])
    prune()
    assert store.object_exists("tenants/acme/x.png")


def test_only_the_tenants_own_unshared_objects_are_removed(acme, globex, old_job, prune, store):
    keys = [f"tenants/{name}.png" for name in ("acme/own", "acme/shared", "globex/theirs", "globex/other")]
    for key in keys:
        store.save(key, ContentFile(b"picture"))
    stray = old_job(acme, 91, keys=["tenants/acme/own.png", "tenants/acme/shared.png", "tenants/acme/gone.png"])
    Artifact.all_tenants.filter(job=stray, storage_key="tenants/acme/gone.png").update(storage_key=keys[2])
    old_job(acme, 10, keys=["tenants/acme/shared.png"])
    assert prune(objects=True)[1] == "1 job, 0 events, 3 artifacts, 1 object removed\n"
    assert [store.object_exists(key) for key in keys] == [False, True, True, True]


def test_a_tenant_without_a_prefix_keeps_its_objects(acme, old_job, prune, store):
    acme.storage_prefix = ""
    acme.save()
    store.save("anywhere/x.png", ContentFile(b"picture"))
    old_job(acme, 91, keys=["anywhere/x.png"])
    assert prune(objects=True)[1] == "1 job, 0 events, 1 artifact removed\n"
    assert store.object_exists("anywhere/x.png")


def test_a_key_that_is_spelled_like_another_removes_nothing(acme, old_job, prune, local_store):
    local_store.save("tenants/acme/x.png", ContentFile(b"picture"))
    spelled = old_job(acme, 91, keys=["tenants/acme//x.png", "tenants/acme/y.png"])
    # Refused today, and stored before it was.
    Artifact.all_tenants.filter(job=spelled, storage_key="tenants/acme/y.png").update(
        storage_key="tenants/acme/./x.png"
    )
    prune(objects=True)
    assert local_store.object_exists("tenants/acme/x.png")


@pytest.mark.parametrize("others", [["--older-than=30d"], ["--older-than=90d", "--keep-failures"]])
def test_a_checkpoint_of_other_jobs_is_refused(acme, old_job, prune, tmp_path, others):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_text('{"of": "prune_jobs of all tenants older than 90d"}')
    old_job(acme, 91, "queued")
    with pytest.raises(CommandError, match="is the checkpoint of prune_jobs of all tenants older than 90d"):
        call_command("prune_jobs", *others, checkpoint=str(checkpoint))


# --- Stopping and going on ----------------------------------------------------------------------------------------


def test_a_signal_stops_it_after_the_batch_and_it_says_how_to_go_on(acme, old_job, prune, monkeypatch, tmp_path):
    for _ in range(5):
        old_job(acme, 91, "queued")
    batches_by_age = removal.batches_by_age

    def signalled(*arguments):
        for batch in batches_by_age(*arguments):
            signal.raise_signal(signal.SIGTERM)
            yield batch

    checkpoint = tmp_path / "checkpoint"
    with monkeypatch.context() as patch:
        patch.setattr(removal, "batches_by_age", signalled)
        lines, said = prune(batch=2, checkpoint=str(checkpoint), keep_failures=True)
    assert len(lines) == 2
    resume_command = (
        f"python manage.py prune_jobs --older-than 90d --keep-failures --record {tmp_path / 'pruned.ndjson'} "
        f"--batch 2 --checkpoint {checkpoint}"
    )
    assert said == f"2 jobs, 2 events, 0 artifacts removed\nStopped. Resume with:\n{resume_command}\n"
    assert counts_of(acme) == true_counts(acme) == {"not_started": 3}
    err = io.StringIO()
    call_command(*resume_command.split()[2:], stderr=err)
    assert err.getvalue() == "5 jobs, 5 events, 0 artifacts removed\n"
    assert len((tmp_path / "pruned.ndjson").read_bytes().splitlines()) == 5
    assert left() == set()
    assert not checkpoint.exists()
