"""Servers and migrated databases that a test run starts or creates once, and that all its workers use.

With pytest-xdist the controller starts them before its workers and puts their addresses into the environment, which the
workers inherit. Without it the one process starts each when the first test needs it.

What belongs to one worker carries its name or number: the test database, copies of the migrated database, the bucket,
the Valkey database.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import servers

ROOT = Path(__file__).resolve().parent.parent
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")  # "gw0", "gw1", … under pytest-xdist
WORKER_NUMBER = 0 if WORKER == "main" else int(WORKER.removeprefix("gw"))
BUCKET = f"artifacts-{WORKER}"
PREFIX = "TEST_SHARED_"  # of the environment variables that hold the addresses

cleanup = contextlib.ExitStack()  # stops what this process has started


def is_of_this_run(variable: str) -> bool:
    """Whether a test run that a test starts must not inherit this environment variable."""
    return variable == "DJANGO_SETTINGS_MODULE" or variable.startswith((PREFIX, "PYTEST_"))


def start_all(database: str) -> None:
    """Starts everything side by side, so that the workers of this process inherit the addresses."""
    names = [f"MIGRATED_{database.upper()}", "S3", "VALKEY", "PICTURES", *(["TRIAL"] if database == "sqlite" else [])]
    with ThreadPoolExecutor() as pool:
        for started in [pool.submit(address, name) for name in names]:
            started.result()


def address(name: str) -> str:
    """The address of the server ``name``, a key of ``START``. It is started if it does not run yet."""
    variable = f"{PREFIX}{name}"
    if variable not in os.environ:
        os.environ[variable] = START[name]()
        cleanup.callback(os.environ.pop, variable, None)
    return os.environ[variable]


def temporary_folder(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"jgw-{name}-"))
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


# --- What is started, and its address -----------------------------------------------------------------------------


def start_postgresql() -> str:
    server = cleanup.enter_context(servers.postgresql(settings={"max_connections": "300"}))  # several workers
    # The owner is no superuser, as in production: a superuser passes every permission check.
    server.psql("CREATE ROLE gateway LOGIN CREATEDB CREATEROLE", "CREATE DATABASE gateway OWNER gateway")
    # The role that reads for the API in production. Tests with the fixture `api_role` use it.
    server.psql("CREATE ROLE gateway_api LOGIN")
    return str(server.folder)


def start_pgbouncer() -> str:
    return cleanup.enter_context(servers.pgbouncer(postgresql(), "gateway", "gateway_api", connections=20))


def start_s3() -> str:
    return cleanup.enter_context(servers.s3()).endpoint_url


def start_valkey() -> str:
    return str(cleanup.enter_context(servers.valkey()).port)


def migrate_postgresql() -> str:
    from tests.stores import Store

    postgresql().psql("CREATE DATABASE migrated OWNER gateway")
    Store(postgresql().url("migrated", user="gateway"), temporary_folder("migrated")).run("migrate", "--verbosity=0")
    return "migrated"


def migrate_sqlite() -> str:
    from tests.stores import Store

    folder = temporary_folder("migrated")
    Store(f"sqlite:///{folder / 'migrated.sqlite3'}", folder).run("migrate", "--verbosity=0")
    return str(folder / "migrated.sqlite3")


def prepare_trial() -> str:
    folder = temporary_folder("trial") / "data"
    # Named in full, so that nothing of the environment of tests gets in.
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder), "ENV_FILE": os.devnull}
    command = [sys.executable, "manage.py", "serve", "--demo", "--prepare-only"]
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=300)
    return str(folder)


def pictures_folder() -> str:
    return str(temporary_folder("pictures"))


START = {
    "POSTGRESQL": start_postgresql,
    "PGBOUNCER": start_pgbouncer,
    "S3": start_s3,
    "VALKEY": start_valkey,
    "MIGRATED_POSTGRESQL": migrate_postgresql,
    "MIGRATED_SQLITE": migrate_sqlite,
    "TRIAL": prepare_trial,
    "PICTURES": pictures_folder,
}


# --- What tests use -----------------------------------------------------------------------------------------------


def postgresql() -> servers.PostgreSQL:
    """The server of the PostgreSQL round, with the roles ``gateway`` (the owner) and ``gateway_api``."""
    return servers.PostgreSQL(Path(address("POSTGRESQL")))


def pgbouncer() -> str:
    """The folder of the socket of a PgBouncer in front of :func:`postgresql`."""
    return address("PGBOUNCER")


def s3() -> servers.S3:
    """The S3 server, with the empty bucket ``BUCKET`` of this worker's."""
    server = servers.S3(address("S3"))
    server.create_bucket(BUCKET)
    return server


def valkey() -> servers.Valkey:
    """The Valkey server, with an empty database of this worker's."""
    return servers.Valkey(Path(), int(address("VALKEY")), database=WORKER_NUMBER)


def migrated_postgresql() -> str:
    """The name of a migrated database without rows of tests, owned by ``gateway``: a template for others."""
    return address("MIGRATED_POSTGRESQL")


def migrated_sqlite() -> Path:
    """The path of a migrated database without rows of tests, to be copied."""
    return Path(address("MIGRATED_SQLITE"))


def copy_trial(folder: Path) -> Path:
    """Makes ``folder`` the ``DATA_DIR`` of a trial before its first start, and returns it.

    Drawing the pictures of the demo and compressing static files take a quarter of a minute.
    """
    return Path(shutil.copytree(address("TRIAL"), folder))


def pictures() -> Path:
    """The folder of the demo's pictures that a test has drawn."""
    return Path(address("PICTURES"))
