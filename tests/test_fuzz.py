"""Fuzzing: schemathesis sends requests to a served gateway that its OpenAPI document allows, and ones that it
forbids."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway import ROOT, database_of_this_test, serving

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
SIZES = [pytest.param(5, id="short"), pytest.param(500, id="full", marks=pytest.mark.full)]


@pytest.fixture
def gateway(transactional_db, acme, job_of):
    picture = {"storage_key": "tenants/acme/front.png", "kind": "render", "role": "final"}
    done = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:00Z", "artifacts": [picture]}
    # The one that the document's examples ask for.
    job_of(acme, public_id="01JADE5XAMPK9M0Q7RS3T4V5W6", request={"prompt": "studio, soft light"}, events=[done])
    for n in range(3):
        job_of(acme, job_type=("node.command", "MODEL_GENERATOR")[n % 2], status="PARTIAL_FAILURE")
    with serving(database_of_this_test(), TOKEN_CACHE_SECONDS="5") as gateway:
        yield gateway


@pytest.mark.parametrize("examples", SIZES)
# Without a token every answer is a refusal, before the database is asked.
@pytest.mark.parametrize("credential", ["a token", pytest.param("none", marks=pytest.mark.full)])
def test_no_check_of_schemathesis_fails(gateway, acme_token, credential, examples, tmp_path, record_property):
    headers = ["--header", f"Authorization: Bearer {acme_token}"] if credential == "a token" else []
    done = subprocess.run(
        [
            str(SCHEMATHESIS),
            "run",
            f"http://127.0.0.1:{gateway.port}/v1/openapi.json",
            *headers,
            "--checks=all",
            f"--max-examples={examples}",
            "--continue-on-failure",
            "--seed=20260415",
            "--generation-database=none",
            "--no-color",
        ],
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.fuzz_hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cases = re.search(r"(\d[\d,]*) generated", done.stdout)
    assert cases, done.stdout[-3000:]
    record_property("cases", int(cases[1].replace(",", "")))
