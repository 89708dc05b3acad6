"""The commands of the guide set up a database."""

from __future__ import annotations

import re

import pytest

from jobs_gateway.environment import parse_file
from tests.test_checks import manage
from tests.test_deploy import GUIDE

pytestmark = pytest.mark.postgresql


def test_the_commands_of_the_guide_set_up_an_empty_database(postgresql_server, s3_server, tmp_path):
    postgresql_server.psql("CREATE DATABASE guide OWNER gateway")
    [shown] = re.findall(r"```ini\n(.*?)```", GUIDE, re.DOTALL)
    given = parse_file(shown.encode(), "guide") | {
        "DATABASE_URL": postgresql_server.url("guide", user="gateway"),
        "DATABASE_API_URL": postgresql_server.url("guide", user="gateway_api"),
        "DJANGO_SUPERUSER_PASSWORD": "correct-horse-battery",
        "DJANGO_SECRET_KEY": "kD8Vq2mN7rT4xB9wZ1cF6hJ3pL5sG0aYeUoIiQvXtRnMbWzK-4f7Hq",
        "DATA_DIR": str(tmp_path),
        "WEB_WORKERS": "1",
    }
    [step] = re.findall(r"^### 4\. .*?(?=^### 5\. )", GUIDE, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^manage( REQUIRE_ROW_SECURITY=0)? \.venv/bin/python manage\.py (.*)$", step, re.MULTILINE)
    assert [command.split()[0] for _, command in commands] == [
        "check",
        "serve",
        "grant_api_role",
        "createsuperuser",
        "create_tenant",
        "issue_token",
    ]
    for without, command in commands:
        asked = ["--noinput"] if command.startswith("createsuperuser") else []
        security = {"REQUIRE_ROW_SECURITY": "0"} if without else {}
        done = manage(*command.split(), *asked, **given | security)
        assert done.returncode == 0, done.stderr
