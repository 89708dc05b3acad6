"""The environment of the tests (SQLite or PostgreSQL, nothing of the developer's), and the cast: acme and globex."""

from __future__ import annotations

import atexit
import copy
import importlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from django.conf import settings as django_settings

from tests import leak_checks, servers, shared_servers
from tests.shared_servers import BUCKET

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.core.files.storage import Storage
    from django.db.backends.base.base import BaseDatabaseWrapper
    from pytest_django.fixtures import Settings

    from jobs.models import Job
    from tenants.models import Tenant
    from tests.client import Client
    from tests.stores import Store

ROOT = Path(__file__).resolve().parent.parent
TEST_DATABASE = os.environ.get("TEST_DATABASE", "sqlite")

# --- Before Django reads its settings -----------------------------------------------------------------------------
# pytest-django would read them before this file when the name of the module came from pyproject.toml.

atexit.register(shared_servers.cleanup.close)  # for a run that ends before pytest was configured


def prepare_environment() -> None:
    """Clears what settings, boto3 and psycopg would read of the developer's environment, and sets what tests need."""
    is_worker = shared_servers.WORKER != "main"  # which inherits what the controller has prepared
    if not is_worker and (django_settings.configured or "DJANGO_SETTINGS_MODULE" in os.environ):
        raise pytest.UsageError("Unset DJANGO_SETTINGS_MODULE: the tests bring their own environment.")
    read_by_settings = set(re.findall(r'"([A-Z][A-Z0-9_]+)"', (ROOT / "jobs_gateway" / "settings.py").read_text()))
    for name in list(os.environ):
        if name in read_by_settings or name.startswith(("AWS_", "PG")):
            del os.environ[name]
    folder = shared_servers.temporary_folder("tests")
    if TEST_DATABASE == "postgresql":
        server = shared_servers.postgresql()
        os.environ["DATABASE_URL"] = server.url("gateway", user="gateway")
        os.environ["DATABASE_API_URL"] = server.url("gateway", user="gateway_api")
        os.environ["DATABASE_POOL_SIZE"] = "20"  # more than any test has threads
        if os.environ.get("TEST_POOLER") == "pgbouncer":  # tests/test_pgbouncer.py runs other files this way
            for name in ("DATABASE_URL", "DATABASE_API_URL"):
                os.environ[name] = os.environ[name].replace(str(server.folder), shared_servers.pgbouncer())
            os.environ["DATABASE_PREPARED"] = "0"
    elif TEST_DATABASE == "sqlite":
        os.environ["DATABASE_URL"] = f"sqlite:///{folder / 'gateway.sqlite3'}"
    else:
        raise pytest.UsageError(f"TEST_DATABASE is sqlite or postgresql, not {TEST_DATABASE!r}.")
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "jobs_gateway.settings",
        "ENV_FILE": os.devnull,
        "DATA_DIR": str(folder),
        "DJANGO_SECRET_KEY": "tests-only-" + "0123456789abcdef" * 4,
        "RECORD_TOKEN_USE": "0",  # it writes in a thread; its own tests switch it on
        "RECORD_REFUSALS": "0",  # likewise
        # URLs, and validators with them, change after a third of it: never while a test compares two answers.
        "PRESIGN_TTL_SECONDS": "604800",
        "DJANGO_ALLOWED_HOSTS": "localhost,127.0.0.1,[::1],testserver",
        # boto3 looks for credentials on the network and in the developer's home directory unless these are set.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    (folder / "static").mkdir()  # whitenoise warns about a missing folder
    # This line reads the settings: pytest-django sets up Django only where that was done. What a test writes in a
    # transaction is only visible to the connection that wrote it.
    django_settings.API_DATABASE = "default"
    # In this process a machine that stalls for two seconds is no fault. The servers of the tests keep theirs.
    django_settings.DATABASE_DEADLINE_SECONDS = 20.0
    # Cheap to compute: no test is about how a console password is stored, and hundreds of them sign in.
    django_settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


prepare_environment()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long tests too (make test-full)")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile("short", max_examples=50)
    hypothesis.settings.register_profile("full", max_examples=1_000)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "short")
    config.pluginmanager.register(leak_checks.SecurityTestTable())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Runs in the controller of pytest-xdist, before it starts its workers."""
    shared_servers.start_all(TEST_DATABASE)
    # A worker that inherits it reads the settings before its own conftest.py, and would use the controller's database.
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)


def pytest_unconfigure() -> None:
    shared_servers.cleanup.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    other = {"sqlite": "postgresql", "postgresql": "sqlite"}[TEST_DATABASE]
    unwanted = {other} if config.getoption("--full") else {other, "full"}

    def is_unwanted(item: pytest.Item) -> bool:
        marks = {mark.name for mark in item.iter_markers()}
        if {"sqlite", "postgresql"} <= marks:
            raise pytest.UsageError(f"{item.nodeid} is marked for both databases, so it would run on neither.")
        is_alike = f"full_on_{TEST_DATABASE}" in marks and TEST_DATABASE not in marks
        return bool(unwanted & marks) or (is_alike and not config.getoption("--full"))

    left_out = [item for item in items if is_unwanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    items.sort(key=lambda item: not starts_processes(item))  # the long files first, so that no core is idle at the end


def starts_processes(item: pytest.Item) -> bool:
    """Whether the item's file starts servers, browsers or commands."""
    names = {"serving", "Store", "needs_chromium", "needs_node", "subprocess", "SQLiteStores"}
    return not names.isdisjoint(vars(item.getparent(pytest.Module).obj))  # type: ignore[union-attr]


@pytest.fixture(scope="session", autouse=True)
def api_reads_on_connections_of_tests() -> None:
    from tests.client import lend_connections

    lend_connections()


@pytest.fixture(scope="session", autouse=True)
def leak_watch() -> Iterator[None]:
    yield from leak_checks.watch_responses_and_logs()


@pytest.fixture(autouse=True)
def no_leaks(leak_watch: None) -> Iterator[None]:
    """Fails a test in which a token, a secret or a storage key was in a response or in the log."""
    leak_checks.watch.add_settings()
    yield
    leak_checks.watch.check()


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """Each worker's test database is a copy of the migrated one. On SQLite it is a file, which threads can share."""
    default = django_settings.DATABASES["default"]
    test = default.setdefault("TEST", {})
    if TEST_DATABASE == "sqlite":
        test["NAME"] = str(Path(default["NAME"]).with_name("test.sqlite3"))
        shutil.copy(shared_servers.migrated_sqlite(), test["NAME"])
    else:
        test["NAME"] = f"test_{shared_servers.WORKER}"
        template = shared_servers.migrated_postgresql()
        shared_servers.postgresql().psql(f"CREATE DATABASE {test['NAME']} TEMPLATE {template} OWNER gateway")


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """pytest-django does not create the test database: ``django_db_modify_db_settings`` has done it."""
    return True


@pytest.fixture
def api_role(transactional_db: None, settings: Settings) -> Iterator[BaseDatabaseWrapper]:
    """The API is answered by a role that owns nothing and is bound by row security, as in production.

    For tests of the PostgreSQL round, marked ``django_db(transaction=True, databases=["default", "api"])``.
    """
    from django.core.management import call_command
    from django.db import connections

    call_command("grant_api_role", "gateway_api", verbosity=0)
    settings.API_DATABASE = "api"
    yield connections["api"]
    connections["api"].close()
    connections["api"].close_pool()  # type: ignore[attr-defined]  # PostgreSQL's has it


# --- Servers and stores -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgresql_server() -> servers.PostgreSQL:
    """The server of the PostgreSQL round, which all workers share; ``url(user="postgres")`` is its superuser."""
    return shared_servers.postgresql()


@pytest.fixture(scope="session")
def s3_server() -> servers.S3:
    """The S3 server, which all workers share; ``BUCKET`` is this worker's."""
    return shared_servers.s3()


@pytest.fixture(scope="session")
def valkey_server() -> servers.Valkey:
    """The Valkey server, which all workers share; its database is this worker's."""
    return shared_servers.valkey()


@pytest.fixture
def s3_store(s3_server: servers.S3, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """The artifact store, in this worker's bucket of a real S3 server, which is emptied after the test."""
    for name, value in s3_server.environment(BUCKET).items():
        monkeypatch.setenv(name, value)
    yield artifact_store(
        settings,
        "jobs.artifacts.s3.SignedS3Storage",
        bucket_name=BUCKET,
        endpoint_url=s3_server.endpoint_url,
        region_name=s3_server.region,
        addressing_style="path",
    )
    client = s3_server.client()
    if found := client.list_objects_v2(Bucket=BUCKET).get("Contents"):
        client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": each["Key"]} for each in found]})


@pytest.fixture
def local_store(settings: Settings, tmp_path: Path) -> Storage:
    """The artifact store, in a folder of this test's."""
    return artifact_store(
        settings, "jobs.artifacts.local.SignedFileSystemStorage", location=str(tmp_path / "artifacts")
    )


def artifact_store(settings: Settings, backend: str, **options: Any) -> Storage:
    from django.core.files.storage import storages

    settings.STORAGES = settings.STORAGES | {"artifacts": {"BACKEND": backend, "OPTIONS": options}}
    return storages["artifacts"]


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Store]:
    """``new_store("acme")`` is a migrated store with that tenant, for commands that run as processes.

    ``new_store(like=another)`` is a copy of a store that nobody is connected to.
    """
    from tests.stores import PostgreSQLStores, SQLiteStores

    folder = tmp_path_factory.mktemp("stores")
    if TEST_DATABASE == "sqlite":
        return SQLiteStores(folder).new
    server, migrated = shared_servers.postgresql(), shared_servers.migrated_postgresql()
    return PostgreSQLStores(folder, server, f"store_{shared_servers.WORKER}", migrated).new


# --- The cast -----------------------------------------------------------------------------------------------------


@pytest.fixture
def acme(db: None) -> Tenant:
    from tenants.models import Tenant

    return Tenant.objects.create(slug="acme", name="Acme", shop_domain="acme.myshopify.com")


@pytest.fixture
def globex(db: None) -> Tenant:
    from tenants.models import Tenant

    return Tenant.objects.create(slug="globex", name="Globex", shop_domain="globex.myshopify.com")


@pytest.fixture
def acme_token(acme: Tenant) -> str:
    from tenants import tokens

    return tokens.issue(acme, label="tests")


@pytest.fixture
def acme_client(acme_token: str) -> Client:
    return client_with(acme_token)


@pytest.fixture
def globex_client(globex: Tenant) -> Client:
    from tenants import tokens

    return client_with(tokens.issue(globex, label="tests"))


@pytest.fixture
def admin_client(admin_user: User) -> Client:
    """A superuser. Replaces the fixture of pytest-django, whose client does not use the gateway's ASGI application."""
    from tests.client import Client

    client = Client()
    client.force_login(admin_user)
    return client


@pytest.fixture
def client() -> Client:
    """As :func:`anonymous_client`; replaces the fixture of pytest-django."""
    from tests.client import Client

    return Client()


@pytest.fixture
def anonymous_client() -> Client:
    from tests.client import Client

    return Client()


def client_with(token: str) -> Client:
    from tests.client import Client

    return Client(headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def sam(db: None) -> User:
    """Sam of the support group, who signs in to the console as sam, sam; a superuser is pytest-django's admin_user."""
    from django.apps import apps
    from django.contrib.auth.models import Group, User
    from django.db import connection

    # A test that commits leaves empty tables behind: what the migration had made is made again.
    migration = importlib.import_module("jobs.migrations.0002_support_console")
    migration.add_support_group(apps, SimpleNamespace(connection=connection))
    migration = importlib.import_module("jobs.webhooks.migrations.0002_support")
    migration.extend_support_group(apps, SimpleNamespace(connection=connection))
    sam = User.objects.create_user("sam", password="sam", is_staff=True)
    sam.groups.add(Group.objects.get(name="support"))
    return sam


@pytest.fixture
def support_client(sam: User) -> Client:
    from tests.client import Client

    client = Client()
    client.force_login(sam)
    return client


@pytest.fixture
def browser_page() -> Iterator[Any]:
    """A page of a browser that knows no host but this one, and what it asked for and complained of."""
    from tests.browser import CHROMIUM, watched_page

    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        with watched_page(browser) as page:
            yield page
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the tests of one file."""
    from tests.browser import CHROMIUM

    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    # Playwright runs an event loop in this thread. Django would refuse queries in it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def browser_errors() -> list[str]:
    """Errors and warnings of the browser's console: script errors, Content-Security-Policy, missing files."""
    return []


@pytest.fixture
def context(browser: Any, live_server: Any, browser_errors: list[str]) -> Iterator[Any]:
    """The browser at the live server. It may read the clipboard."""
    from tests.browser import TIMEOUT_MS

    context = browser.new_context(base_url=live_server.url, viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(TIMEOUT_MS)
    context.on("console", lambda said: browser_errors.append(said.text) if said.type in ("error", "warning") else None)
    context.on("weberror", lambda error: browser_errors.append(str(error.error)))
    yield context
    context.close()


@pytest.fixture
def page(context: Any, sam: User) -> Any:
    """A page of Sam, a user of the support group, after the login."""
    from tests.browser import log_in

    return log_in(context, "sam")


@pytest.fixture
def demo(s3_store: Storage, s3_server: servers.S3, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """The demo tenant: jobs in every status. Its images are in a real S3 server that the img-src policy allows."""
    from django.core.management import call_command

    from tenants.models import Tenant
    from tests.test_seed_demo import draw_once

    policy = copy.deepcopy(settings.CONTENT_SECURITY_POLICY)
    policy["DIRECTIVES"]["img-src"].append(s3_server.endpoint_url)
    settings.CONTENT_SECURITY_POLICY = policy
    monkeypatch.setattr("jobs.demo.pictures.draw", draw_once)
    call_command("seed_demo", verbosity=0)
    return Tenant.objects.get(slug="demo")


@pytest.fixture
def job_of(db: None) -> Callable[..., Job]:
    """``job_of(acme, job_type=…, events=[…])`` loads one interchange record, a second younger than the one before."""
    from ulid import ULID

    from jobs.ingest import bulk
    from jobs.models import Job

    seconds = itertools.count()

    def load(tenant: Tenant, **overrides: Any) -> Job:
        created_at = datetime(2026, 4, 15, 12, tzinfo=UTC) + timedelta(seconds=next(seconds))
        record = {
            "public_id": str(ULID.from_datetime(created_at)),
            "tenant": tenant.slug,
            "job_type": "MODEL_GENERATOR",
            "created_at": created_at.isoformat().replace("+00:00", "Z"),
        } | overrides
        bulk.load_record(record)
        return Job.all_tenants.get(pk=ULID.from_str(record["public_id"]))

    return load
