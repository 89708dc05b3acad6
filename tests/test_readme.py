"""The README says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.core.management import get_commands

from jobs_gateway.environment import parse_file

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_setting_is_listed_and_every_listed_one_is_read():
    source = (ROOT / "jobs_gateway" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z0-9_]+)"', source)) - {"ENV_FILE"}
    listed = re.findall(r"^\| `([A-Z0-9_]+)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(read)


def test_the_settings_file_it_shows_can_be_read():
    [shown] = re.findall(r"cat > \.env <<'END'\n(.*?)END\n", README, re.DOTALL)
    assert parse_file(shown.encode(), ".env")["DATABASE_URL"].startswith("postgres://")


def test_every_command_it_shows_exists():
    shown = set(re.findall(r"manage\.py (\w+)", README))
    assert shown - set(get_commands()) == set()


def test_every_make_target_it_shows_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) - targets == set()


@pytest.mark.parametrize("path", re.findall(r'(?:src="|\]\()([^)"#:]+)[)"]', README))
def test_every_file_it_points_at_is_there(path):
    assert (ROOT / path).exists()


def test_the_record_it_shows_loads(acme):
    from jobs.ingest import bulk
    from jobs.models import Job

    [record] = [line for line in README.splitlines() if line.startswith('{"public_id"')]
    [loaded] = bulk.load([record.encode()])
    assert (loaded.loaded, loaded.rejections) == (1, [])
    assert Job.objects.for_tenant(acme).get().status == "SUCCESS"


def test_the_python_it_shows_runs(acme):
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"tenant": acme}
    exec(code, names)
    names["job"].refresh_from_db()
    assert names["job"].status == "SUCCESS"
