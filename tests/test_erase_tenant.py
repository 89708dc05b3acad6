"""``erase_tenant``: removes a tenant with all its data, and nothing of other tenants."""

from __future__ import annotations

import os
import re
import signal
import threading
from io import StringIO
from pathlib import Path

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from jobs.ingest import erasure, ledger
from jobs.management import stopping
from jobs.management.batches import IncompleteRun
from jobs.models import Artifact, Job, JobCounts, JobEvent
from tenants.models import ApiToken, Tenant
from tests.shared_servers import BUCKET
from tests.stores import counts_of, true_counts

ROWS = (Job, JobEvent, Artifact, JobCounts)


def job_with_a_picture(job_of, tenant, name="front.png"):
    picture = {"storage_key": f"{tenant.storage_prefix}{name}", "kind": "render", "role": "final"}
    loose = picture | {"storage_key": f"{tenant.storage_prefix}loose-{name}"}
    events = [
        {"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z"},
        {"seq": 2, "event_type": "succeeded", "created_at": "2026-04-15T12:00:09Z", "artifacts": [picture]},
    ]
    return job_of(tenant, events=events, artifacts=[loose])


@pytest.fixture
def two_tenants(acme, globex, acme_token, job_of):
    """Five jobs of acme with pictures, one of globex."""
    for n in range(5):
        job_with_a_picture(job_of, acme, f"{n}.png")
    return job_with_a_picture(job_of, globex)


def erase(*arguments, **options):
    out = StringIO()
    call_command("erase_tenant", *arguments, stdout=out, stderr=StringIO(), **options)
    return out.getvalue()


def left_of(tenant):
    return sum(model.all_tenants.filter(tenant=tenant.pk).count() for model in ROWS)


def stored(store):
    root = Path(store.location)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_nothing_is_left_of_the_tenant_and_all_of_the_other(two_tenants, acme, globex, acme_client, globex_client):
    before = globex_client.get(f"/v1/jobs/{two_tenants}").json()
    assert erase("acme", "--yes") == (
        "Tenant acme is removed: 5 jobs, 10 events, 10 artifacts, 1 token\n"
        "Its files under tenants/acme/ are still in the artifact store.\n"
    )
    assert left_of(acme) == 0
    assert not Tenant.objects.filter(slug="acme").exists()
    assert not ApiToken.objects.filter(tenant=acme.pk).exists()
    assert acme_client.get("/v1/jobs").status_code == 401
    assert globex_client.get(f"/v1/jobs/{two_tenants}").json() == before
    assert counts_of(globex) == true_counts(globex) == {"success": 1}
    with pytest.raises(CommandError, match="No tenant “acme”"):
        erase("acme", "--yes")


def test_a_dry_run_counts_and_removes_nothing(two_tenants, acme, local_store):
    local_store.save("tenants/acme/0.png", ContentFile(b"picture"))
    said = erase("acme", "--objects", "--dry-run")
    assert said == "Dry run, nothing removed: 5 jobs, 10 events, 10 artifacts, 1 token, 1 object\n"
    acme.refresh_from_db()
    assert acme.is_active
    assert left_of(acme) == 26
    assert stored(local_store) == ["tenants", "tenants/acme", "tenants/acme/0.png"]


@pytest.mark.parametrize("typed", ["", "yes", "globex", "ACME"])
def test_it_asks_for_the_tenants_name(two_tenants, acme, monkeypatch, typed):
    monkeypatch.setattr("builtins.input", lambda prompt: typed)
    with pytest.raises(CommandError, match="Nothing was removed"):
        erase("acme")
    acme.refresh_from_db()
    assert acme.is_active


def test_the_tenants_name_lets_it_begin(two_tenants, acme, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: "acme")
    assert "Tenant acme is removed" in erase("acme")


def test_without_a_terminal_nothing_is_removed(two_tenants, monkeypatch):
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(CommandError, match="Nothing was removed"):
        erase("acme")


def test_a_signal_stops_it_after_the_batch_and_the_next_run_resumes(two_tenants, acme, acme_client, monkeypatch):
    batches = erasure.erase_jobs

    def interrupted(tenant, batch):
        for erased in batches(tenant, batch):
            signal.raise_signal(signal.SIGTERM)
            yield erased

    with monkeypatch.context() as patch:
        patch.setattr(erasure, "erase_jobs", interrupted)
        with pytest.raises(CommandError) as stopped:
            erase("acme", "--yes", "--batch", "2")
    again = "python manage.py erase_tenant acme --yes --batch 2"
    assert str(stopped.value) == f"Stopped. Tenant acme is deactivated. Resume with:\n{again}"
    assert Job.all_tenants.filter(tenant=acme).count() == 3
    assert counts_of(acme) == true_counts(acme) == {"success": 3}
    assert acme_client.get("/v1/jobs").status_code == 401
    assert "3 jobs, 6 events, 6 artifacts" in erase(*again.split()[3:])
    assert left_of(acme) == 0


# --- objects ---


def test_objects_go_with_it_and_only_its_own(two_tenants, local_store, tmp_path):
    for key in ("tenants/acme/0.png", "tenants/acme/deep/er/1.png", "tenants/acme2/0.png", "tenants/globex/0.png"):
        local_store.save(key, ContentFile(b"picture"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.png").write_bytes(b"picture")
    root = Path(local_store.location)
    (root / "tenants/acme/link").symlink_to(outside)
    (root / "tenants/acme/link.png").symlink_to(root / "tenants/globex/0.png")
    assert erase("acme", "--yes", "--objects").endswith(", 1 token, 4 objects\n")
    assert stored(local_store) == [
        "tenants",
        "tenants/acme2",
        "tenants/acme2/0.png",
        "tenants/globex",
        "tenants/globex/0.png",
    ]
    assert (outside / "kept.png").exists()


def test_a_folder_that_leads_elsewhere_is_not_followed(two_tenants, acme, local_store):
    local_store.save("tenants/globex/0.png", ContentFile(b"picture"))
    root = Path(local_store.location)
    (root / "tenants/acme").symlink_to(root / "tenants/globex")
    with pytest.raises(CommandError, match="no folder of the artifact store"):
        erase("acme", "--yes", "--objects")
    assert (root / "tenants/globex/0.png").exists()
    with pytest.raises(CommandError, match=r"^Nothing was removed\. The artifact store failed: .* no folder of the"):
        erase("acme", "--dry-run", "--objects")


@pytest.mark.parametrize("fault", ["a folder that cannot be read", "a disk that is not mounted"])
def test_files_that_cannot_be_found_leave_the_tenant(two_tenants, acme, local_store, monkeypatch, fault):
    local_store.save("tenants/acme/deep/0.png", ContentFile(b"picture"))
    if fault == "a disk that is not mounted":
        Path(local_store.location).rename(f"{local_store.location}-elsewhere")
    else:
        scandir = os.scandir

        def refused(path):
            if str(path).endswith("/deep"):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(
        IncompleteRun, match=r"The artifact store failed: (Permission denied|No such file or directory)"
    ):
        erase("acme", "--yes", "--objects")
    assert Tenant.objects.filter(pk=acme.pk).exists()


def test_objects_in_a_bucket_go_too(two_tenants, s3_store, s3_server):
    client = s3_server.client()
    for key in ("tenants/acme/0.png", "tenants/acme/deep/1.png", "tenants/acme2/0.png"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"picture")
    assert erase("acme", "--yes", "--objects").endswith(", 1 token, 2 objects\n")
    kept = client.list_objects_v2(Bucket=BUCKET, Prefix="tenants/acme").get("Contents", [])
    assert [each["Key"] for each in kept] == ["tenants/acme2/0.png"]
    client.delete_object(Bucket=BUCKET, Key="tenants/acme2/0.png")


@pytest.mark.parametrize("prefix", ["", "tenants/", "tenants/globex/", "tenants/globex/x/", "/", "../"])
def test_a_prefix_that_does_not_say_whose_it_is_removes_nothing(two_tenants, acme, local_store, prefix):
    local_store.save("tenants/globex/0.png", ContentFile(b"picture"))
    Tenant.objects.filter(pk=acme.pk).update(storage_prefix=prefix)
    with pytest.raises(CommandError, match=r"no storage prefix|cannot be identified"):
        erase("acme", "--yes", "--objects")
    assert Tenant.objects.get(pk=acme.pk).is_active
    assert Job.all_tenants.filter(tenant=acme).count() == 5
    assert local_store.exists("tenants/globex/0.png")


# --- beside writers ---


def test_a_job_that_came_at_the_last_moment_goes_with_the_tenant(two_tenants, acme, monkeypatch, job_of):
    finish = erasure.erase_tenant

    def late(tenant):
        job_with_a_picture(job_of, acme, "late.png")
        return finish(tenant)

    monkeypatch.setattr(erasure, "erase_tenant", late)
    assert "Tenant acme is removed: 5 jobs" in erase("acme", "--yes")
    assert left_of(acme) == 0


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_writer_that_comes_while_the_tenant_goes_waits_and_fails(acme):
    refused = []

    def write():
        try:
            ledger.open_job(acme, "MODEL_GENERATOR")
        except IntegrityError as error:
            refused.append(error)
        finally:
            connection.close()

    with transaction.atomic():
        erasure.erase_tenant(Tenant.objects.get(pk=acme.pk))
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(0.5)
        assert writer.is_alive(), "it waits for the tenant's row"
    writer.join(10)
    assert len(refused) == 1
    assert left_of(acme) == 0


def test_the_help_says_how(capsys):
    with pytest.raises(SystemExit):
        call_command("erase_tenant", "--help")
    assert re.search(r"Example: manage.py erase_tenant acme --objects\s+--dry-run", capsys.readouterr().out)
    assert stopping.command_line("erase_tenant", "a b") == "python manage.py erase_tenant 'a b'"
