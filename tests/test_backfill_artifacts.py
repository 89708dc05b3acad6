"""``backfill_artifacts``: metadata from the artifact store, and reported differences between store and database."""

from __future__ import annotations

import hashlib
import io
import json
import signal
from types import SimpleNamespace

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError, call_command
from PIL import Image

from jobs.artifacts import objects
from jobs.ingest import artifacts, bulk
from jobs.management.commands import backfill_artifacts
from jobs.models import Artifact, Job
from tests.shared_servers import BUCKET
from tests.stores import everything, exported

pytestmark = [pytest.mark.django_db, pytest.mark.full_on_postgresql]


def image(width, height, kind="PNG"):
    file = io.BytesIO()
    Image.effect_noise((width, height), 50).save(file, kind)
    return file.getvalue()


def picture(key):
    return {"storage_key": key, "kind": "render", "role": "final"}


@pytest.fixture
def folder(local_store):
    """The artifact store as a folder: ``put(key, content)``."""
    return SimpleNamespace(put=lambda key, content: local_store.save(key, ContentFile(content)))


@pytest.fixture
def bucket(s3_store, s3_server):
    """The artifact store as a bucket: ``put(key, content, content_type)``."""
    client = s3_server.client()
    return SimpleNamespace(
        put=lambda key, content, kind="image/png": client.put_object(
            Bucket=BUCKET, Key=key, Body=content, ContentType=kind
        )
    )


@pytest.fixture(params=["folder", "bucket"])
def store(request):
    return request.getfixturevalue(request.param)


def backfill(*arguments, **options):
    """The findings, the summary, and what made it fail."""
    out, err, failed = io.StringIO(), io.StringIO(), None
    try:
        call_command("backfill_artifacts", *arguments, stdout=out, stderr=err, **options)
    except CommandError as error:
        failed = str(error)
    summary = (err.getvalue().splitlines() or [None])[-1]
    return [json.loads(line) for line in out.getvalue().splitlines()], summary, failed


def known(*columns):
    return list(Artifact.all_tenants.order_by("storage_key", "pk").values_list(*columns))


# --- Filling in ---------------------------------------------------------------------------------------------------


def test_a_file_is_described(acme, job_of, folder):
    content = image(640, 480)
    folder.put("tenants/acme/front.png", content)
    job_of(acme, artifacts=[picture("tenants/acme/front.png")])
    assert backfill() == ([], "filled 1, unchanged 0, missing 0, orphaned 0, wrong tenant 0, unreadable 0", None)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert known(*artifacts.METADATA_COLUMNS) == [(len(content), "image/png", checksum, 640, 480)]


@pytest.mark.parametrize(
    "kind", ["PNG", "TIFF", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("JPEG", "GIF", "WEBP"))]
)
def test_an_object_is_described_by_as_little_of_it_as_will_do(acme, job_of, bucket, s3_store, monkeypatch, kind):
    content = image(900, 700, kind)
    assert len(content) > 3 * objects.CHUNK_BYTES
    bucket.put("tenants/acme/front – é.x", content, "image/some")
    job_of(acme, artifacts=[picture("tenants/acme/front – é.x")])
    read = []
    monkeypatch.setattr(objects.RangeReader, "readinto", counted(objects.RangeReader.readinto, read))
    monkeypatch.setattr(objects.RangeReader, "readall", counted(objects.RangeReader.readall, read, len))
    assert backfill()[1:] == ("filled 1, unchanged 0, missing 0, orphaned 0, wrong tenant 0, unreadable 0", None)
    checksum = f"etag:{hashlib.md5(content).hexdigest()}"
    assert known(*artifacts.METADATA_COLUMNS) == [(len(content), "image/some", checksum, 900, 700)]
    if kind in ("PNG", "JPEG", "GIF"):
        assert sum(read) <= objects.CHUNK_BYTES


def counted(method, read, size=int):
    def counting(*arguments):
        result = method(*arguments)
        read.append(size(result))
        return result

    return counting


def test_what_is_no_image_has_no_pixels(acme, job_of, store):
    contents = [b"", b"{}", image(30, 30)[:20], b"GIF89a", b"\xff\xd8\xff" + b"\0" * 99]
    keys = [f"tenants/acme/{number}.png" for number in range(len(contents))]
    for key, content in zip(keys, contents, strict=True):
        store.put(key, content)
    job_of(acme, artifacts=[picture(key) for key in keys])
    assert backfill()[2] is None
    found = known("size", "content_type", "width", "height")
    assert found == [(len(content), "image/png", None, None) for content in contents]


def test_an_image_too_large_to_decode_is_measured_all_the_same(acme, job_of, folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    folder.put("tenants/acme/front.png", image(15, 15))
    job_of(acme, artifacts=[picture("tenants/acme/front.png")])
    backfill()
    assert known("width", "height") == [(15, 15)]


def test_a_second_run_reads_what_is_new_or_has_changed(acme, job_of, store, monkeypatch):
    for name in ("a", "b"):
        store.put(f"tenants/acme/{name}.png", image(3, 3))
        job_of(acme, artifacts=[picture(f"tenants/acme/{name}.png")])
    backfill()
    before = everything()
    assert backfill()[1] == "filled 0, unchanged 2, missing 0, orphaned 0, wrong tenant 0, unreadable 0"
    assert everything() == before
    Artifact.all_tenants.filter(storage_key="tenants/acme/b.png").update(size=1)
    assert backfill()[1] == "filled 1, unchanged 1, missing 0, orphaned 0, wrong tenant 0, unreadable 0"
    assert everything() == before


def test_the_record_stays_what_it_was(acme, job_of, folder):
    folder.put("tenants/acme/front.png", image(3, 3))
    job = job_of(acme, artifacts=[picture("tenants/acme/front.png")])
    record, version = exported(), job.version
    backfill()
    assert exported() == record
    [loaded] = bulk.load([record])
    assert (loaded.loaded, loaded.unchanged) == (0, 1)
    assert Job.all_tenants.get().version == version
    assert known("width") == [(3,)]


# --- Where the two do not agree -----------------------------------------------------------------------------------


def test_missing_orphaned_and_wrong_tenants_objects_are_reported(acme, globex, job_of, store):
    mine = job_of(acme, artifacts=[picture("tenants/acme/gone.png"), picture("tenants/acme/there.png")])
    stray = job_of(globex, artifacts=[picture("tenants/globex/x.png")])
    Artifact.all_tenants.filter(job=stray).update(storage_key="tenants/acme/there.png")
    for key in ("nobodys.png", "tenants/acme/extra.png", "tenants/acme/there.png", "tenants/initech/x.png"):
        store.put(key, image(3, 3))
    findings, summary, failed = backfill()
    assert sorted(findings, key=lambda each: each["storage_key"]) == [
        {"finding": "orphaned", "storage_key": "nobodys.png", "tenant": None},
        {"finding": "orphaned", "storage_key": "tenants/acme/extra.png", "tenant": "acme"},
        {"finding": "missing", "storage_key": "tenants/acme/gone.png", "tenant": "acme", "job": str(mine.pk)},
        {"finding": "wrong_tenant", "storage_key": "tenants/acme/there.png", "tenant": "globex", "job": str(stray.pk)},
        {"finding": "orphaned", "storage_key": "tenants/initech/x.png", "tenant": None},
    ]
    assert summary == "filled 1, unchanged 0, missing 1, orphaned 3, wrong tenant 1, unreadable 0"
    assert failed == "2 artifacts without an object that belongs to the tenant and can be read."
    assert known("job_id", "size")[0] == (mine.pk, None)


@pytest.mark.parametrize("batch", [2, 100, *(pytest.param(batch, marks=pytest.mark.full) for batch in (1, 3))])
def test_keys_that_servers_sort_differently_meet_all_the_same(acme, globex, job_of, store, batch):
    """SeaweedFS lists by folder, S3 by bytes: “acme.png”, “acme-eu/1” and “acme/1” come in another order."""
    acme.storage_prefix = "t/"
    acme.save()
    keys = [f"t/{name}" for name in ("A", "acme/1", "acme/2/x", "acme/é", "acme-eu/1", "acme-eu/2", "acme.png", "z 1")]
    for key in keys:
        store.put(key, image(3, 3))
    job_of(acme, artifacts=[picture(key) for key in (*keys, "t/acme", "t/acme-eu/0", "t/b", "t/zz", "t/A")])
    store.put("t/acme.gif", b"")
    findings, summary, _ = backfill(batch=batch)
    assert sorted((each["finding"], each["storage_key"]) for each in findings) == [
        *(("missing", key) for key in ("t/acme", "t/acme-eu/0", "t/b", "t/zz")),
        ("orphaned", "t/acme.gif"),
    ]
    assert summary == "filled 9, unchanged 0, missing 4, orphaned 1, wrong tenant 0, unreadable 0"


def test_one_tenants_alone(acme, globex, job_of, store):
    for tenant in (acme, globex):
        job_of(tenant, artifacts=[picture(f"tenants/{tenant}/{name}.png") for name in "ab"])
        store.put(f"tenants/{tenant}/a.png", image(3, 3))
    findings, summary, _ = backfill(tenant="acme")
    assert [each["storage_key"] for each in findings] == ["tenants/acme/b.png"]
    assert summary == "filled 1, unchanged 0, missing 1, orphaned 0, wrong tenant 0, unreadable 0"
    assert known("width") == [(3,), (None,), (None,), (None,)]
    globex.storage_prefix = ""
    globex.save()
    assert backfill(tenant="globex")[2] == ("Tenant globex has no storage prefix. Run without --tenant.")


def test_a_dry_run_reports_and_writes_nothing(acme, job_of, store):
    job_of(acme, artifacts=[picture("tenants/acme/a.png"), picture("tenants/acme/b.png")])
    store.put("tenants/acme/a.png", image(3, 3))
    before = everything()
    findings, summary, _ = backfill(dry_run=True)
    assert [each["finding"] for each in findings] == ["missing"]
    assert (
        summary
        == "Dry run, nothing written: filled 1, unchanged 0, missing 1, orphaned 0, wrong tenant 0, unreadable 0"
    )
    assert everything() == before


def test_one_that_cannot_be_read_does_not_stop_the_others(acme, job_of, folder, local_store, monkeypatch):
    for name in ("a", "b", "c"):
        folder.put(f"tenants/acme/{name}.png", image(3, 3))
    job = job_of(acme, artifacts=[picture(f"tenants/acme/{name}.png") for name in "abc"])
    read_metadata = type(local_store).read_metadata

    def failing(self, found):
        if found.storage_key.endswith("a.png"):
            raise PermissionError("not yours")
        if found.storage_key.endswith("b.png"):
            raise FileNotFoundError
        return read_metadata(self, found)

    monkeypatch.setattr(type(local_store), "read_metadata", failing)
    key = "tenants/acme/{}.png".format
    assert backfill() == (
        [
            {
                "finding": "unreadable",
                "storage_key": key("a"),
                "tenant": "acme",
                "job": str(job.pk),
                "why": "not yours",
            },
            {"finding": "missing", "storage_key": key("b"), "tenant": "acme", "job": str(job.pk)},
        ],
        "filled 1, unchanged 0, missing 1, orphaned 0, wrong tenant 0, unreadable 1",
        "2 artifacts without an object that belongs to the tenant and can be read.",
    )


# --- Stopping and going on ----------------------------------------------------------------------------------------


@pytest.fixture
def five(acme, job_of, store):
    job_of(acme, artifacts=[picture(f"tenants/acme/{number}.png") for number in range(5)])
    for number in range(5):
        store.put(f"tenants/acme/{number}.png", image(3, 3))


@pytest.fixture
def signalled(monkeypatch):
    """The command is sent SIGTERM while it fills in its first batch."""
    fill = backfill_artifacts.fill

    def and_then(*arguments):
        fill(*arguments)
        monkeypatch.setattr(backfill_artifacts, "fill", fill)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(backfill_artifacts, "fill", and_then)


def test_a_signal_stops_it_after_the_batch_and_it_says_how_to_go_on(five, signalled):
    resume_command = "python manage.py backfill_artifacts --batch 2 --throttle 0.01 --after tenants/acme/1.png"
    assert backfill(batch=2, throttle=0.01) == (
        [],
        "filled 2, unchanged 0, missing 0, orphaned 0, wrong tenant 0, unreadable 0",
        f"Stopped. Resume with:\n{resume_command}",
    )
    assert backfill(batch=2, after="tenants/acme/1.png") == (
        [],
        "filled 3, unchanged 0, missing 0, orphaned 0, wrong tenant 0, unreadable 0",
        None,
    )


@pytest.mark.parametrize(
    "store",
    # The test before goes on in a bucket.
    ["folder", pytest.param("bucket", marks=pytest.mark.full)],
    indirect=True,
)
def test_a_checkpoint_keeps_where_it_was_and_what_was_found(five, signalled, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    resume_command = f"python manage.py backfill_artifacts --batch 2 --checkpoint {checkpoint}"
    assert backfill(batch=2, checkpoint=str(checkpoint))[2] == f"Stopped. Resume with:\n{resume_command}"
    assert backfill(*resume_command.split()[3:]) == (
        [],
        "filled 5, unchanged 0, missing 0, orphaned 0, wrong tenant 0, unreadable 0",
        None,
    )
    assert not checkpoint.exists()


def test_an_unreachable_store_is_an_error(acme, s3_store, settings, monkeypatch):
    monkeypatch.setattr(type(s3_store), "list_objects", lambda *_: iter(raising()))
    assert backfill()[2] == (
        "The artifact store failed: connection refused. Resume with:\npython manage.py backfill_artifacts --batch 1000"
    )


def raising():
    raise ConnectionRefusedError("connection refused")
    yield
