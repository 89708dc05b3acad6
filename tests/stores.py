"""What a store holds, as tests compare it, and stores of their own for commands in processes of their own."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from jobs.ingest import record_reader
from jobs.ingest.interchange import dump
from jobs.models import Artifact, Job, JobCounts, JobEvent
from tests import servers

ROOT = Path(__file__).resolve().parent.parent


def counts_of(tenant: Any) -> dict[str, int]:
    """The kept counts that are not 0, by status."""
    row = JobCounts.objects.for_tenant(tenant).values().first() or {}
    return {name: number for name, number in row.items() if name != "tenant_id" and number}


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

    def python(self, *arguments: object, stdin: bytes = b"", expected: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(**self._how(arguments), input=stdin, capture_output=True, check=False, timeout=600)
        assert done.returncode == expected, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def start(self, *arguments: object, **how: Any) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(**self._how((ROOT / "manage.py", *arguments)) | pipes | how)

    def add_tenants(self, *slugs: str) -> None:
        for slug in slugs:
            self.run("create_tenant", slug)

    def export(self, *arguments: object) -> bytes:
        return self.run("export_jobs", *arguments).stdout

    def jobs(self) -> int:
        """How many there are, asked of the database itself: a command takes a second to start."""
        connect: Any = psycopg.connect
        where = self.url
        if self.url.startswith("sqlite"):
            connect, where = sqlite3.connect, self.url.removeprefix("sqlite:///")
        with contextlib.closing(connect(where)) as database:
            return int(database.execute("SELECT count(*) FROM jobs_job").fetchone()[0])

    def _how(self, arguments: tuple[object, ...]) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_API_URL"}
        return {
            "args": [sys.executable, *map(str, arguments)],
            "cwd": self.folder,
            "env": environment | {"DATABASE_URL": self.url, "PYTHONPATH": str(ROOT)} | dict(self.environment),
        }


class SQLiteStores:
    """Copies of one that has been migrated and has ``tenants``."""

    def __init__(self, folder: Path, tenants: Sequence[str] = ()) -> None:
        self.folder = folder
        self.tenants = tenants
        self.numbers = itertools.count()

    @cached_property
    def migrated(self) -> Path:
        path = self.folder / "migrated.sqlite3"
        first = Store(f"sqlite:///{path}", self.folder)
        first.run("migrate", "--verbosity=0")
        first.add_tenants(*self.tenants)
        return path

    def new(self, like: Store | None = None) -> Store:
        """An empty store, or a copy of another that nobody is connected to."""
        path = self.folder / f"store{next(self.numbers)}.sqlite3"
        shutil.copy(like.url.removeprefix("sqlite:///") if like else self.migrated, path)
        return Store(f"sqlite:///{path}", self.folder)


class PostgreSQLStores:
    """Databases made after one that has been migrated and has ``tenants``; ``prefix`` tells those of a server apart."""

    def __init__(self, folder: Path, server: servers.PostgreSQL, tenants: Sequence[str] = (), prefix: str = "") -> None:
        self.folder = folder
        self.server = server
        self.tenants = tenants
        self.prefix = prefix
        self.numbers = itertools.count()

    @cached_property
    def migrated(self) -> str:
        name = f"{self.prefix}migrated"
        self.server.psql(f"CREATE DATABASE {name}")
        first = Store(self.server.url(name), self.folder)
        first.run("migrate", "--verbosity=0")
        first.add_tenants(*self.tenants)
        return name

    def new(self, like: Store | None = None) -> Store:
        """An empty store, or a copy of another that nobody is connected to."""
        name = f"{self.prefix}store{next(self.numbers)}"
        template = urlsplit(like.url).path[1:] if like else self.migrated
        self.server.psql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return Store(self.server.url(name), self.folder)
