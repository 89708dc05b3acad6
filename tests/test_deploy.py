"""What is shipped for production is well formed, and says what is so; nginx has a file of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from django.core.management import get_commands

from tests.servers import answers, free_ports, wait_until
from tests.test_checks import manage

pytestmark = pytest.mark.sqlite  # no database is asked: once is enough

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
GUIDE = (ROOT / "docs" / "deploy.md").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
# Read by boto3, not by the settings.
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def settings_read():
    source = (ROOT / "jobs_gateway" / "settings.py").read_text()
    return set(re.findall(r'env\.\w+\(\s*"([A-Z0-9_]+)"', source)) | CREDENTIALS


def test_the_dockerfile_passes_its_linter():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_nobody_in_particular_and_takes_what_is_there():
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY ([\w.]+) \S+$", text, re.MULTILINE)
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / name).exists() for name in sent)


def test_the_services_are_set_by_settings_that_exist():
    for service in ("prepare", "gateway"):
        assert set(COMPOSE["services"][service]["environment"]) - settings_read() == set()
    assert set(COMPOSE["services"]) == {"prepare", "gateway", "nginx", "postgresql", "seaweedfs", "bucket", "valkey"}


def test_what_the_services_ask_for_is_in_the_example():
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert asked == set(re.findall(r"^(\w+)=", (DEPLOY / "compose.env.example").read_text(), re.MULTILINE))


def test_every_file_the_services_mount_is_there():
    mounted = [
        volume.partition(":")[0]
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert [name for name in mounted if not (DEPLOY / name).exists()] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    unit = (DEPLOY / "jobs-gateway.service").read_text()
    unit = unit.replace("/srv/jobs-gateway/.venv/bin/python", sys.executable).replace("/srv/jobs-gateway", str(ROOT))
    (tmp_path / "jobs-gateway.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / "jobs-gateway.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "jobs-gateway.service" in line] == []


@pytest.mark.sqlite
def test_another_asgi_server_needs_migrate_alone_to_be_ready(tmp_path):
    data = tmp_path / "data"
    done = manage("migrate", "--verbosity", "0", DATA_DIR=str(data))
    assert (done.returncode, done.stderr) == (0, "")
    (port,) = free_ports(1)
    command = [Path(sys.executable).with_name("granian"), "--interface", "asgi", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "jobs_gateway.asgi:application"],
            cwd=ROOT,
            env=os.environ | {"DATA_DIR": str(data), "DATABASE_URL": f"sqlite:///{data}/gateway.sqlite3"},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/livez"), process, tmp_path / "log")
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").text == "database: ok\nmigrations: ok\nartifacts: ok\n"
        (data / "artifacts").rmdir()  # as a disk that is not mounted any more
        time.sleep(1.1)  # an answer is reused for a second
        assert "artifacts: failed (FileNotFoundError)\n" in httpx.get(f"http://127.0.0.1:{port}/readyz").text
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_the_guide_names_commands_settings_and_files_that_exist():
    assert set(re.findall(r"manage\.py (\w+)", GUIDE)) - set(get_commands()) == set()
    assert set(re.findall(r"^([A-Z][A-Z0-9_]+)=", GUIDE, re.MULTILINE)) - settings_read() == set()
    for path in re.findall(r"\]\(([^)#:]+)\)", GUIDE):
        assert (ROOT / "docs" / path).exists(), path
