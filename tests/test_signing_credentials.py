"""Signing with temporary credentials: no request waits while they are found or renewed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
from asgiref.sync import sync_to_async
from botocore.credentials import Credentials

from jobs.artifacts import signing
from jobs.artifacts.credentials import SigningCredentials
from jobs.artifacts.s3 import SignedS3Storage
from jobs.artifacts.signing import CannotSign
from jobs.ingest import ledger
from tests.gateway import ROOT, database_of_this_test, serving
from tests.streams import end_of, stream
from tests.test_signing_s3 import aws  # noqa: F401 - a fixture

pytestmark = pytest.mark.sqlite  # signing is alike on both databases

MINUTE = 60


@pytest.fixture
def credential_program(tmp_path):
    """A program that gives out credentials, as AWS_CONFIG_FILE names it; called with how it answers from now on."""
    said, program, config = tmp_path / "said.json", tmp_path / "program", tmp_path / "config"
    program.write_text(
        f"#!{sys.executable}\nimport json, time\nsaid = json.load(open({str(said)!r}))\n"
        "time.sleep(said.pop('seconds'))\nprint(json.dumps(said))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    config.write_text(f"[default]\ncredential_process = {program}\n")

    def answers(access_key, lives, after_seconds=0):
        expiration = datetime.fromtimestamp(time.time() + lives, UTC).isoformat()
        secret = {"AccessKeyId": access_key, "SecretAccessKey": "a secret", "SessionToken": "a token"}
        written = tmp_path / "written"
        written.write_text(json.dumps({"Version": 1, "Expiration": expiration, "seconds": after_seconds} | secret))
        written.rename(said)

    answers.environment = {
        "AWS_CONFIG_FILE": str(config),
        "AWS_STORAGE_BUCKET_NAME": "pictures",
        "AWS_S3_REGION_NAME": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return answers


@pytest.fixture
def path(acme, job_of):
    """Of a job with a picture."""
    picture = {"storage_key": "tenants/acme/1/front.png", "kind": "render", "role": "final"}
    event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:00Z", "artifacts": [picture]}
    return f"/v1/jobs/{job_of(acme, events=[event]).public_id}"


@pytest.mark.django_db(transaction=True)
def test_a_program_that_hangs_delays_no_request(credential_program, acme_token, path):
    credential_program("ASIA1", 14 * MINUTE)  # so close to its end that new ones are asked for
    with serving(database_of_this_test(), **credential_program.environment) as gateway:
        credential_program("ASIA2", 14 * MINUTE, after_seconds=5)
        slowest = 0.0
        deadline = time.monotonic() + 60
        while True:
            began = time.monotonic()
            answer = gateway.get(path, acme_token)
            slowest = max(slowest, time.monotonic() - began)
            assert answer.status == 200
            if b"ASIA2" in answer.body:
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert slowest < 3  # and not the five of the program


def test_a_worker_loads_what_signing_needs_before_it_serves(tmp_path, credential_program):
    credential_program("ASIA1", 60 * MINUTE)
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import jobs_gateway.asgi; from jobs.artifacts import signing; print(*vars(signing.artifact_store()))",
        ],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": "sqlite://", "DATA_DIR": str(tmp_path)} | credential_program.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"credentials", "base_urls", "_bucket_url_and_region"} <= set(shown.stdout.split())


def test_no_request_loads_anything_after_that(acme_client, path, s3_store, monkeypatch):
    signing.make_ready()
    monkeypatch.setattr(SignedS3Storage, "_create_session", lambda _: pytest.fail("a request loads botocore's S3"))
    assert "X-Amz-Signature" in acme_client.get(path).json()["result"][0]["image_url"]


def test_credentials_may_come_later(credential_program, aws, monkeypatch):  # noqa: F811
    monkeypatch.setattr("jobs.artifacts.credentials.CHECK_SECONDS", 0.01)
    monkeypatch.setenv("AWS_CONFIG_FILE", credential_program.environment["AWS_CONFIG_FILE"])  # it says nothing yet
    aws(keys_from_elsewhere=True)
    signing.make_ready()
    with pytest.raises(CannotSign, match="cannot be loaded"):
        signing.links("")
    credential_program("ASIA1", 60 * MINUTE)
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(CannotSign):
            assert "ASIA1" in signing.links("").url("a.png")
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_credentials_that_cannot_be_renewed_are_used_until_their_end_and_that_is_logged_once(caplog):
    class Expiring:
        """Credentials of botocore that can be read once."""

        access_key, secret_key, token = "ASIA1", "secret", "token"
        _expiry_time = datetime.fromtimestamp(time.time() + MINUTE, UTC)
        reads = 0

        def get_frozen_credentials(self):
            self.reads += 1
            if self.reads > 1:
                raise RuntimeError("still expired")
            return self

    source = Expiring()
    credentials = SigningCredentials(lambda: source)
    first = credentials.now()
    assert credentials.is_due()
    for _ in range(3):
        credentials.read()
    assert credentials.now() == first
    assert [record.message for record in caplog.records] == [
        "The credentials of the artifact store cannot be loaded or refreshed (RuntimeError)."
    ]


def test_a_worker_starts_although_its_credentials_are_late(monkeypatch):
    monkeypatch.setattr("jobs.artifacts.credentials.FIRST_SECONDS", 0.05)
    monkeypatch.setattr("jobs.artifacts.credentials.CHECK_SECONDS", 0.01)
    answer = threading.Event()

    def find():
        answer.wait(60)
        return Credentials("AKIA1", "secret")

    credentials = SigningCredentials(find)
    for _ in range(3):
        with pytest.raises(CannotSign, match="not been found yet"):
            credentials.now()
    answer.set()
    deadline = time.monotonic() + 30
    while not credentials.is_permanent and time.monotonic() < deadline:
        time.sleep(0.01)
    assert credentials.now().credentials.access_key == "AKIA1"


@pytest.mark.full
@pytest.mark.django_db(transaction=True)
def test_a_stream_ends_properly_where_links_can_no_longer_be_signed(credential_program, acme, acme_token):
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    lives = 12
    credential_program("ASIA1", lives)
    began = time.monotonic()
    with serving(database_of_this_test(), **credential_program.environment) as gateway:
        credential_program("ASIA1", -MINUTE)

        async def follow():
            async with stream(gateway.port, f"/v1/jobs/{job.pk}/events", acme_token) as opened:
                assert opened.status == 200
                await asyncio.sleep(lives + 1 - (time.monotonic() - began))
                await sync_to_async(ledger.append)(job, "queued", "Too late for links")
                assert await end_of(opened) == []
                assert opened.is_complete

        asyncio.run(follow())
        assert gateway.get(f"/v1/jobs/{job.pk}/events", acme_token).status == 503
