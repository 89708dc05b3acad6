"""``manage.py check`` names each setting that cannot work, and says what to write instead."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest
from django.core import checks

from jobs_gateway.environment import UnknownName

ROOT = Path(__file__).resolve().parent.parent
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": "gateway.sqlite3", "OPTIONS": {}}
POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": "gateway", "OPTIONS": {"pool": {"max_size": 4}}}
HOST_TWICE = {"pool": {"max_size": 4}, "host": "/run/postgresql"}
SMALL_POOL = POSTGRESQL | {"OPTIONS": {"pool": {"max_size": 1}}}
CLUSTER = {"ENGINE": "jobs.postgresql", "NAME": "gateway", "HOST": "a,b,c", "PORT": ""}


def cluster(**options):
    return CLUSTER | {"OPTIONS": {"pool": {"max_size": 4}} | options}


S3 = "jobs.artifacts.s3.SignedS3Storage"
LOCAL = "jobs.artifacts.local.SignedFileSystemStorage"

PRODUCTION = {
    "DATABASE_URL": "postgres://gateway:x@db.internal/gateway",
    "AWS_STORAGE_BUCKET_NAME": "studio-artifacts",
    "DJANGO_SECRET_KEY": "kD8Vq2mN7rT4xB9wZ1cF6hJ3pL5sG0aYeUoIiQvXtRnMbWzK-4f7Hq",
    "DJANGO_ALLOWED_HOSTS": "jobs.example.com",
    "PUBLIC_BASE_URL": "https://jobs.example.com",
    "DJANGO_SECURE": "1",
    "TRUSTED_PROXIES": "10.0.0.0/8",
}

NETWORKS = "Write addresses and networks, comma separated, such as 10.0.0.0/8,192.0.2.1."


def networks(*texts):
    return [ip_network(text) for text in texts]


def artifacts(**options):
    return {"artifacts": {"BACKEND": S3, "OPTIONS": {"bucket_name": "pictures", **options}}}


# What is set, and the one check that says so.
WRONG = [
    ("jobs_gateway.E001", {"PORT": 0}),
    ("jobs_gateway.E001", {"PORT": 70_000}),
    ("jobs_gateway.E001", {"WEB_WORKERS": 0, "DATABASES": {"default": POSTGRESQL}}),
    ("jobs_gateway.E001", {"STATEMENT_TIMEOUT_MS": 0}),
    ("jobs_gateway.E001", {"CONSOLE_REFRESH_SECONDS": 0}),
    ("jobs_gateway.E002", {"PORT": 9100, "METRICS_PORT": 9100}),
    ("jobs_gateway.E003", {"DATABASES": {"default": POSTGRESQL | {"NAME": ""}}}),
    ("jobs_gateway.E004", {"DATABASES": {"default": SMALL_POOL}}),
    ("jobs_gateway.E005", {"DATABASES": {"default": POSTGRESQL, "api": SQLITE}}),
    ("jobs_gateway.E006", {"DATABASES": {"default": SQLITE}, "REQUIRE_ROW_SECURITY": True}),
    ("jobs_gateway.E007", {"SECURE": True, "TRUSTED_PROXIES": networks("0.0.0.0/0")}),
    ("jobs_gateway.E009", {"UNKNOWN_SETTINGS": [UnknownName("DATABSE_URL", "DATABASE_URL", in_file=True)]}),
    ("jobs_gateway.W006", {"UNKNOWN_SETTINGS": [UnknownName("DATABSE_URL", "DATABASE_URL", in_file=False)]}),
    ("jobs_gateway.W006", {"UNKNOWN_SETTINGS": [UnknownName("DATABASE_FOO", "", in_file=True)]}),
    ("jobs_gateway.W001", {"DATABASES": {"default": SQLITE}, "WEB_WORKERS": 2}),
    ("jobs_gateway.W002", {"SECURE": True}),
    ("jobs_gateway.W003", {"TRUSTED_PROXIES": networks("10.0.0.7")}),
    (
        "jobs_gateway.W004",
        {"SECURE": True, "TRUSTED_PROXIES": networks("10.0.0.7"), "PUBLIC_BASE_URL": "http://jobs.example.com"},
    ),
    ("jobs_gateway.W005", {"ALLOWED_HOSTS": ["*"]}),
    ("jobs_gateway.E008", {"ALLOWED_HOSTS": ["https://jobs.example.com"]}),
    ("jobs_gateway.E008", {"ALLOWED_HOSTS": ["[::1]", "jobs.example.com:8000"]}),
    ("jobs_gateway.E010", {"CORS_ALLOWED_ORIGINS": ["https://shop.example.com/"]}),
    ("jobs_gateway.E010", {"CORS_ALLOWED_ORIGINS": ["https://a.example", "shop.example.com"]}),
    ("jobs_gateway.E010", {"CORS_ALLOWED_ORIGINS": ["https://Shop.example.com"]}),
    ("jobs_gateway.E011", {"OPENAPI_LICENSE": {"name": "", "url": "https://example.com/terms"}}),
    ("jobs_gateway.E012", {"OPENAPI_LICENSE": {"name": "Terms", "url": "example.com/terms"}}),
    ("jobs_gateway.E012", {"OPENAPI_CONTACT": {"name": "", "url": "mailto:api@example.com", "email": ""}}),
    ("jobs_gateway.E013", {"DATABASES": {"default": cluster(target_session_attrs="writable")}}),
    ("jobs_gateway.E014", {"DATABASES": {"default": POSTGRESQL, "replica": cluster(target_session_attrs="primary")}}),
    ("jobs_gateway.W007", {"DATABASES": {"default": POSTGRESQL, "replica": cluster()}}),
    ("jobs_gateway.E015", {"DATABASES": {"default": cluster()}}),
    ("jobs_gateway.E015", {"DATABASES": {"default": POSTGRESQL, "api": cluster(target_session_attrs="any")}}),
    ("jobs_gateway.E016", {"DATABASES": {"default": cluster(target_session_attrs="primary", load_balance_hosts="1")}}),
    ("jobs_gateway.E017", {"DATABASES": {"default": POSTGRESQL | {"HOST": "a", "OPTIONS": HOST_TWICE}}}),
    ("tenants.E005", {"DATABASE_REPLICA_MAX_LAG_SECONDS": 0}),
    ("tenants.W003", {"DATABASES": {"default": POSTGRESQL, "replica": POSTGRESQL}, "API_REPLICA": "replica"}),
    ("jobs.E003", {"STORAGES": artifacts(endpoint_url="s3.internal:8333")}),
    ("jobs.E003", {"STORAGES": artifacts(endpoint_url="https://s3.internal/?x=1")}),
    ("jobs.E003", {"STORAGES": artifacts(endpoint_url="https://key:secret@s3.internal")}),
    ("jobs.E004", {"STORAGES": artifacts(addressing_style="subdomain")}),
    ("jobs.E005", {"STORAGES": artifacts(bucket_name="s3://pictures")}),
    ("jobs.E005", {"STORAGES": artifacts(bucket_name="pictures/acme")}),
    ("jobs.E005", {"STORAGES": artifacts(region_name="")}),
    ("jobs.E007", {"REST_FRAMEWORK": {"DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAdminUser"]}}),
    ("jobs.E007", {"REST_FRAMEWORK": {"DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.UserRateThrottle"]}}),
    ("jobs.E006", {"STORAGES": {"artifacts": {"BACKEND": LOCAL, "OPTIONS": {"location": __file__}}}}),
]


def ids():
    return {message.id for message in checks.run_checks()}


def manage(*arguments, **environment):
    """A command in a separate process, in an environment with nothing else."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME", "DATA_DIR", "ENV_FILE")} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # a bound for a machine with other things to do
    )


@pytest.fixture(autouse=True)
def one_worker(settings):
    settings.WEB_WORKERS = 1


@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")  # nothing is read from them
@pytest.mark.parametrize(("wrong", "given"), WRONG)
def test_a_setting_that_cannot_be_meant_has_a_check_of_its_own(settings, wrong, given):
    for name, value in given.items():
        setattr(settings, name, settings.STORAGES | value if name == "STORAGES" else value)
    assert ids() == {wrong}
    assert all(message.hint for message in checks.run_checks())


def test_nothing_is_said_about_the_settings_of_these_tests():
    assert ids() == set()


@pytest.mark.sqlite  # no database is used: once is enough
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "PORT is 'http'. Write a whole number, without a unit."),
        ("PRESIGN_TTL_SECONDS", "15m", "PRESIGN_TTL_SECONDS is '15m'. Write a whole number, without a unit."),
        ("TOKEN_CACHE_SECONDS", "1s", "TOKEN_CACHE_SECONDS is '1s'. Write a number, without a unit."),
        ("DJANGO_SECURE", "maybe", "DJANGO_SECURE is 'maybe'. Write 1 or 0."),
        ("DJANGO_DEBUG", "", "DJANGO_DEBUG is ''. Write 1 or 0."),
        (
            "TRUSTED_PROXIES",
            "10.0.0.0/99",
            "TRUSTED_PROXIES: '10.0.0.0/99' does not appear to be an IPv4 or IPv6 network. " + NETWORKS,
        ),
        (
            "DATABASE_URL",
            "gateway.sqlite3",
            (
                "DATABASE_URL is not a valid URL. Write DATABASE_URL=postgres://user:password@host/name or "
                "sqlite:////path/to/file."
            ),
        ),
        (
            "DATABASE_API_URL",
            "postgres://gateway_api:12/34@db.internal/gateway",
            (
                "DATABASE_API_URL is ambiguous. "
                "In a user name or password, write % as %25, @ as %40, / as %2F, ? as %3F and # as %23."
            ),
        ),
        (
            "CACHE_URL",
            "redi://cache.internal",
            (
                "CACHE_URL is not a valid URL. Write CACHE_URL=redis://user:password@host:6379/0 or "
                "valkey://host:6379/0, or leave it out."
            ),
        ),
        (
            "DATA_DIR",
            "/dev/null/gateway",
            "/dev/null/gateway cannot be made: Not a directory. DATA_DIR names a folder that the gateway may write to.",
        ),
        (
            "ENV_FILE",
            "/etc/no-such-file.env",
            "/etc/no-such-file.env cannot be read: No such file or directory. ENV_FILE names the settings file.",
        ),
    ],
)
def test_a_value_that_cannot_be_read_is_named_in_one_line(name, value, said):
    done = manage("check", **{"DJANGO_SECRET_KEY": "x"} | {name: value})
    assert (done.returncode, done.stderr) == (1, f"{said}\n")


@pytest.mark.sqlite
def test_production_settings_pass_djangos_own_checks_for_deployment_too():
    done = manage("check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.sqlite
def test_serving_is_refused_with_a_setting_that_cannot_work(tmp_path):
    done = manage("serve", DATA_DIR=str(tmp_path), PRESIGN_TTL_SECONDS="0")
    assert done.returncode == 1
    assert "(jobs.E001)" in done.stderr
    assert "it may be 1 to 604800" in done.stderr
    assert not (tmp_path / "gateway.sqlite3").exists()


IMPORTS = """
import sys, django
django.setup()
from django.core import checks
assert not {"jobs.admin.jobs", "jobs.api.views", "pydantic", "aiohttp"} & sys.modules.keys()
checks.run_checks(tags=[checks.Tags.admin])
assert {"jobs.admin.jobs", "jobs.webhooks.admin"} <= sys.modules.keys()
assert "aiohttp" not in sys.modules
"""


@pytest.mark.sqlite
def test_a_command_imports_no_console_and_no_api_and_the_check_of_the_console_does():
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "jobs_gateway.settings"}
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
