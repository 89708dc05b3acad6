"""The files for production are valid, and the guide's commands work. ``tests/test_nginx.py`` is about nginx."""

from __future__ import annotations

import json
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

from jobs_gateway import server
from jobs_gateway.environment import parse_file
from tests.servers import answers, free_ports, wait_until
from tests.shared_servers import BUCKET, migrated_sqlite
from tests.stores import Store

pytestmark = pytest.mark.sqlite  # no database is used: once is enough

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
GUIDE = (ROOT / "docs" / "deploy.md").read_text()
CLIENTS = (ROOT / "docs" / "clients.md").read_text()
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


def test_the_image_runs_without_root_and_copies_existing_files():
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY ([\w.]+) \S+$", text, re.MULTILINE)
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / name).exists() for name in sent)


def test_the_services_are_set_by_settings_that_exist():
    for service in ("prepare", "gateway"):
        assert set(COMPOSE["services"][service]["environment"]) - settings_read() == set()
    assert set(COMPOSE["services"]) == {
        "prepare",
        "gateway",
        "webhooks",
        "nginx",
        "postgresql",
        "seaweedfs",
        "bucket",
        "valkey",
    }


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


UNITS = sorted(path.name for path in DEPLOY.glob("jobs-gateway*") if path.suffix in (".service", ".timer"))
PYTHON = "/srv/jobs-gateway/.venv/bin/python"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_the_units(name, tmp_path):
    for each in UNITS:
        unit = (DEPLOY / each).read_text().replace(PYTHON, sys.executable).replace("/srv/jobs-gateway", str(ROOT))
        (tmp_path / each).write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "jobs-gateway" in line] == []


def test_each_timer_starts_a_unit_that_is_there():
    timers = [name for name in UNITS if name.endswith(".timer")]
    assert len(timers) == 3
    assert [name for name in timers if name.replace(".timer", ".service") not in UNITS] == []


def test_the_commands_of_the_timers_run_and_finish(new_store, tmp_path):
    units = "".join((DEPLOY / name).read_text() for name in UNITS if "Type=oneshot" in (DEPLOY / name).read_text())
    commands = re.findall(rf"^ExecStart={PYTHON} manage\.py (.*)$", units, re.MULTILINE)
    assert sorted(command.split()[0] for command in commands) == ["backfill_artifacts", "backfill_status", "prune_jobs"]
    store = Store(new_store().url, tmp_path, {"DATA_DIR": str(tmp_path)})
    store.run_all(*(command.replace("/var/lib/jobs-gateway", str(tmp_path)).split() for command in commands))


def test_as_many_files_may_be_open_as_the_server_asks_for():
    assert f"\nLimitNOFILE={server.MAX_OPEN_FILES}\n" in (DEPLOY / "jobs-gateway.service").read_text()
    assert COMPOSE["services"]["gateway"]["ulimits"] == {"nofile": server.MAX_OPEN_FILES}


def test_the_settings_that_the_guide_shows_can_be_read():
    [shown] = re.findall(r"```ini\n(.*?)```", GUIDE, re.DOTALL)
    assert set(parse_file(shown.encode(), "guide")) - settings_read() == set()


def test_the_rule_of_the_guide_lets_a_page_read_what_is_in_the_bucket(s3_server):
    [rule] = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)
    client = s3_server.client()
    bucket = BUCKET
    client.put_object(Bucket=bucket, Key="front.png", Body=b"picture")
    client.put_bucket_cors(Bucket=bucket, CORSConfiguration=json.loads(rule))
    link = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "front.png"})
    answer = httpx.get(link, headers={"Origin": "https://shop.example.com"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://shop.example.com")
    other = httpx.get(link, headers={"Origin": "https://evil.example.com"})
    assert "Access-Control-Allow-Origin" not in other.headers
    client.delete_bucket_cors(Bucket=bucket)
    client.delete_object(Bucket=bucket, Key="front.png")


def test_another_asgi_server_needs_migrate_alone_to_be_ready(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(migrated_sqlite(), data / "gateway.sqlite3")
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
    for path in re.findall(r"\]\(([^)#:]+)[)#]", GUIDE + CLIENTS):
        assert (ROOT / "docs" / path).exists(), path


def test_the_line_for_api_job_is_the_one_that_nginx_has():
    [line] = re.findall(r"```nginx\n(.*)\n```", CLIENTS)
    assert f"    #{line}\n" in (DEPLOY / "nginx.conf").read_text()
    assert f"`{line}`" in GUIDE
