"""The content of a store, as tests compare it, and stores for commands that run as processes."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from jobs.ingest import record_reader
from jobs.ingest.interchange import dump
from jobs.models import Artifact, Job, JobCounts, JobEvent
from tests import servers, shared_servers

ROOT = Path(__file__).resolve().parent.parent

# One process for all tenants, as each takes a second to start.
ADD_TENANTS = """
import django, sys
django.setup()
from django.core.management import call_command
for slug in sys.argv[1:]:
    call_command("create_tenant", slug)
"""
# As manage.py runs each.
RUN_ALL = """
import json, sys
from django.core.management import execute_from_command_line
for command in json.loads(sys.argv[1]):
    execute_from_command_line(["manage.py", *command])
"""


def counts_of(tenant: Any) -> dict[str, int]:
    """The kept counts that are not 0, by status."""
    row = JobCounts.objects.for_tenant(tenant).values().first() or {}
    return {name: number for name, number in row.items() if name not in ("tenant_id", "last_position") and number}


def true_counts(tenant: Any) -> dict[str, int]:
    """What :func:`counts_of` should say."""
    return dict(Counter(status.lower() for status in Job.objects.for_tenant(tenant).values_list("status", flat=True)))


def everything() -> list[list[dict[str, Any]]]:
    """Every row of every job."""
    models: list[Any] = [Job, JobEvent, Artifact, JobCounts]
    return [list(model.all_tenants.order_by("pk").values()) for model in models]


def exported() -> bytes:
    """The whole store as ``export_jobs`` writes it."""
    out = io.BytesIO()
    for batch in record_reader.batches(Job.all_tenants.all(), 100):
        out.writelines(map(dump, batch))
    return out.getvalue()


@dataclass(frozen=True)
class Store:
    """A database that ``manage.py`` is run on."""

    url: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: object, stdin: bytes = b"", expected: int = 0) -> subprocess.CompletedProcess[bytes]:
        return self.python(ROOT / "manage.py", *arguments, stdin=stdin, expected=expected)

    def run_all(self, *commands: Sequence[object]) -> subprocess.CompletedProcess[bytes]:
        """Runs the commands one after another in one process, for tests that are about what they do."""
        return self.python("-c", RUN_ALL, json.dumps([list(map(str, command)) for command in commands]))

    def python(self, *arguments: object, stdin: bytes = b"", expected: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(**self._how(arguments), input=stdin, capture_output=True, check=False, timeout=600)
        assert done.returncode == expected, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def start(self, *arguments: object, **how: Any) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(**self._how((ROOT / "manage.py", *arguments)) | pipes | how)

    def add_tenants(self, *slugs: str) -> None:
        self.python("-c", ADD_TENANTS, *slugs)

    def export(self, *arguments: object) -> bytes:
        return self.run("export_jobs", *arguments).stdout

    @property
    def name(self) -> str:
        """The name of the database on its PostgreSQL server."""
        return urlsplit(self.url).path[1:]

    def jobs(self) -> int:
        """The number of jobs."""
        return int(self.rows("SELECT count(*) FROM jobs_job")[0][0])

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._connected() as database:
            return list(database.execute(query).fetchall())

    def execute(self, statement: str) -> None:
        with self._connected() as database:
            database.execute(statement)
            database.commit()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """The database itself: a command takes a second to start."""
        connect: Any = psycopg.connect
        where = self.url
        if self.url.startswith("sqlite"):
            connect, where = sqlite3.connect, self.url.removeprefix("sqlite:///")
        with contextlib.closing(connect(where)) as database:
            yield database

    def _how(self, arguments: tuple[object, ...]) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_API_URL"}
        return {
            "args": [sys.executable, *map(str, arguments)],
            "cwd": self.folder,
            "env": environment | {"DATABASE_URL": self.url, "PYTHONPATH": str(ROOT)} | dict(self.environment),
        }


def gateway_on(server: servers.PostgreSQL, folder: Path) -> Store:
    """A migrated store on ``server``, which has nothing yet, that the role ``gateway`` owns, as in production."""
    server.psql("CREATE ROLE gateway LOGIN CREATEROLE")
    migrated = shared_servers.migrated_postgresql()
    server.copy_database("gateway", shared_servers.postgresql(), migrated, owner="gateway")
    return Store(server.url("gateway", user="gateway"), folder)


class SQLiteStores:
    """Makes stores in ``folder`` as copies of a migrated one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = itertools.count()
        self.templates: dict[tuple[str, ...], Store] = {}

    def new(self, *tenants: str, like: Store | None = None) -> Store:
        """A store without jobs that has ``tenants``, or a copy of one that nobody is connected to."""
        if tenants and tenants not in self.templates:
            self.templates[tenants] = self.new()
            self.templates[tenants].add_tenants(*tenants)
        original = like or self.templates.get(tenants)
        path = self.folder / f"store{next(self.numbers)}.sqlite3"
        shutil.copy(original.url.removeprefix("sqlite:///") if original else shared_servers.migrated_sqlite(), path)
        return Store(f"sqlite:///{path}", self.folder)


class PostgreSQLStores:
    """Makes stores on ``server`` as copies of its migrated database.

    Their names begin with ``prefix``, so that workers can share a server. ``migrated`` is copied from the one that all
    workers share unless given.
    """

    def __init__(
        self, folder: Path, server: servers.PostgreSQL, prefix: str = "store", migrated: str | None = None
    ) -> None:
        self.folder = folder
        self.server = server
        self.prefix = prefix
        self.migrated = migrated
        self.numbers = itertools.count()
        self.templates: dict[tuple[str, ...], Store] = {}

    def new(self, *tenants: str, like: Store | None = None) -> Store:
        """A store without jobs that has ``tenants``, or a copy of one that nobody is connected to."""
        if self.migrated is None:
            self.migrated = f"{self.prefix}_migrated"
            self.server.copy_database(self.migrated, shared_servers.postgresql(), shared_servers.migrated_postgresql())
        if tenants and tenants not in self.templates:
            self.templates[tenants] = self.new()
            self.templates[tenants].add_tenants(*tenants)
        original = like or self.templates.get(tenants)
        name = f"{self.prefix}_{next(self.numbers)}"
        self.server.psql(f"CREATE DATABASE {name} TEMPLATE {original.name if original else self.migrated}")
        return Store(self.server.url(name), self.folder)
