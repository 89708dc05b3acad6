"""A PostgreSQL cluster that fails over by itself: three nodes under Patroni, with etcd, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.servers import (
    STOP_SECONDS,
    PostgreSQL,
    ServerFailed,
    free_ports,
    postgresql_binaries,
    temporary_folder,
    unprivileged,
    wait_until,
)

PATRONI = ("patroni[etcd3]==4.1.5", "psycopg[binary]~=3.3", "setuptools<81", "wheel")
SYSTEM_PYTHON = "/usr/bin/python3"  # root's own interpreter cannot be read by the user that the nodes run as
CLUSTER_SECONDS = 120  # until three nodes are there on a busy machine; half a minute on an idle one
# The smallest that Patroni takes: it raises a lower ttl to 20.
TTL_SECONDS, LOOP_SECONDS, RETRY_SECONDS = 20, 2, 3


@functools.cache
def missing_program() -> str | None:
    """Why there can be no cluster here; None where there can."""
    if not shutil.which("etcd"):
        return "etcd is not installed: apt-get install etcd-server"
    if not Path(SYSTEM_PYTHON).exists():
        return f"there is no {SYSTEM_PYTHON}"
    return None


class Forwarder:
    """A TCP address that leads to another one, until it is cut: then nothing passes, and nothing is closed."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._stopped = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=[port], daemon=True)
        self._thread.start()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._is_open.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._is_open.set)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self, port: int) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(port))

    async def _serve(self, port: int) -> None:
        async with await asyncio.start_server(self._accept, "127.0.0.1", port):
            await self._stopped.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._is_open.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@dataclass
class Node:
    """A PostgreSQL server and the Patroni that runs it, which finds etcd through ``way_to_etcd``."""

    name: str
    port: int
    api_port: int
    folder: Path
    way_to_etcd: Forwarder
    process: subprocess.Popen[bytes] | None = None

    def start(self, patroni: Path) -> None:
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(
                [str(patroni), str(self.folder / "patroni.json")],
                cwd=self.folder,
                env=PostgreSQL.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **unprivileged(),
            )

    def ask(self, path: str = "patroni") -> dict[str, Any]:
        """What Patroni says of its server, or of the ``cluster``; {} if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}/{path}", timeout=1) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:  # 503: the server is not in order
            return dict(json.loads(error.read() or "{}"))
        except OSError:
            return {}

    def postmaster(self) -> int | None:
        """The process id of the PostgreSQL server."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self.folder / "data" / "postmaster.pid").read_text().split("\n")[0])
        return None

    def kill(self) -> None:
        """Patroni and PostgreSQL end as when the machine loses its power."""
        self._signal(signal.SIGKILL)
        if self.process:
            self.process.wait()
            self.process = None

    def hang(self) -> None:
        """Patroni and PostgreSQL keep their connections, and answer nothing until :meth:`go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        postmaster = self.postmaster()
        pids = [self.process.pid] if self.process else []
        if postmaster:
            pids.append(postmaster)
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
                pids += map(int, children.split())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def query(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Rows, as the superuser. Raises psycopg.OperationalError while the server is down."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, connect_timeout=2, autocommit=True
        ) as connection:
            return connection.execute(sql).fetchall()

    def execute(self, sql: str) -> None:
        """A statement without rows, as the superuser."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", autocommit=True) as connection:
            connection.execute(sql)


@dataclass
class Cluster:
    folder: Path
    nodes: Sequence[Node]
    patroni: Path
    etcd: subprocess.Popen[bytes]

    def url(self, user: str, **parameters: str) -> str:
        """What ``DATABASE_URL`` takes, with every node."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"postgres://{user}@{hosts}/gateway?{query}"

    def leader(self) -> Node | None:
        """The node that takes writes, by its own word and Patroni's."""
        for node in self.nodes:
            status = node.ask()
            if status.get("role") in ("primary", "master") and status.get("state") == "running":
                return node
        return None

    def is_whole(self) -> bool:
        """Whether there is a leader, and all other nodes follow it and belong to the quorum.

        By what is written in etcd: Patroni promotes no node that is not written down there.
        """
        leader = self.leader()
        members = leader.ask("cluster").get("members", ()) if leader else ()
        followers = [each for each in members if (each["role"], each["state"]) == ("quorum_standby", "streaming")]
        return len(followers) == len(self.nodes) - 1

    def wait_until_whole(self) -> Node:
        """The leader."""
        deadline = time.monotonic() + CLUSTER_SECONDS
        while not self.is_whole():
            if time.monotonic() > deadline:
                logs = "\n".join((node.folder / "log").read_text(errors="replace")[-2000:] for node in self.nodes)
                raise ServerFailed(f"The cluster is not whole:\n{logs}")
            time.sleep(0.1)
        leader = self.leader()
        assert leader
        return leader

    def switch_over(self, leader: Node, candidate: Node | None = None) -> None:
        """Hands the leadership to another node, as ``patronictl switchover`` does: to any unless ``candidate``
        is given. Returns when Patroni has done it."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{leader.api_port}/switchover",
            data=json.dumps({"leader": leader.name} | ({"candidate": candidate.name} if candidate else {})).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        deadline = time.monotonic() + CLUSTER_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    answer.read()
                return
            except urllib.error.HTTPError as error:
                # 412: Patroni has not written down yet which nodes are in the quorum.
                if error.code != 412 or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
            node.way_to_etcd.stop()
        self.etcd.kill()
        self.etcd.wait(STOP_SECONDS)


def install_patroni(folder: Path) -> Path:
    """The program ``patroni``: that on the PATH, else in a virtual environment of the system's Python."""
    if found := shutil.which("patroni"):
        return Path(found)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *PATRONI]
    for command in ([SYSTEM_PYTHON, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerFailed(f"Patroni cannot be installed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return folder / "bin" / "patroni"


def configuration(node: Node, etcd_port: int) -> dict[str, Any]:
    """Of Patroni; deploy/patroni.yml explains the settings that matter."""
    return {
        "scope": "gateway",
        "name": node.name,
        "restapi": {"listen": f"127.0.0.1:{node.api_port}", "connect_address": f"127.0.0.1:{node.api_port}"},
        # As a proxy, or it would ask etcd for its addresses and go round the forwarder.
        "etcd3": {"host": f"127.0.0.1:{etcd_port}", "use_proxies": True},
        "bootstrap": {
            "dcs": {
                "ttl": TTL_SECONDS,
                "loop_wait": LOOP_SECONDS,
                "retry_timeout": RETRY_SECONDS,
                "maximum_lag_on_failover": 1_048_576,
                "synchronous_mode": "quorum",
                "postgresql": {
                    "use_pg_rewind": True,
                    "use_slots": True,
                    "parameters": {
                        "shared_buffers": "64MB",
                        "max_connections": 100,
                        "wal_log_hints": "on",
                        "hot_standby_feedback": "on",
                        "wal_retrieve_retry_interval": "500ms",
                    },
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale-provider": "builtin"}, {"locale": "C.UTF-8"}],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{node.port}",
            "connect_address": f"127.0.0.1:{node.port}",
            "data_dir": str(node.folder / "data"),
            "bin_dir": str(postgresql_binaries()),
            "pgpass": str(node.folder / "pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": "postgres"},
                "replication": {"username": "replicator", "password": "replicator"},
            },
            "pg_hba": [f"{kind} trust" for kind in ("host all all 127.0.0.1/32", "host replication all 127.0.0.1/32")],
            "parameters": {"unix_socket_directories": str(node.folder)},
        },
        "tags": {},
    }


def belongs_to_user(folder: Path) -> Path:
    """``folder``, made for the user that the servers run as."""
    folder.mkdir()
    if as_user := unprivileged():
        os.chown(folder, as_user["user"], as_user["group"])
    return folder


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Three nodes while the block runs, when one leads and the others follow. Raises ServerFailed."""
    with temporary_folder("jgw-ha-") as folder:
        folder.chmod(0o755)
        patroni = install_patroni(folder / "patroni")
        client, peer, *ports = free_ports(11)
        nodes = [
            Node(
                f"node{number}",
                ports[number],
                ports[3 + number],
                belongs_to_user(folder / f"node{number}"),
                Forwarder(ports[6 + number], client),
            )
            for number in range(3)
        ]
        store = belongs_to_user(folder / "etcd")
        with (store / "log").open("wb") as output:
            etcd = subprocess.Popen(
                [
                    str(shutil.which("etcd")),
                    *("--name", "one", "--data-dir", str(store / "data")),
                    *("--listen-client-urls", f"http://127.0.0.1:{client}"),
                    *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
                    *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                    *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
                    *("--initial-cluster", f"one=http://127.0.0.1:{peer}"),
                    *("--logger", "zap"),
                    "--unsafe-no-fsync",
                ],
                cwd=store,
                env=PostgreSQL.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **unprivileged(),
            )
        made = Cluster(folder, nodes, patroni, etcd)
        try:
            wait_until(lambda: etcd_answers(client), etcd, store / "log")
            for node, way in zip(nodes, ports[6:], strict=True):
                (node.folder / "patroni.json").write_text(json.dumps(configuration(node, way)))
                node.start(patroni)
            made.wait_until_whole()
            yield made
        finally:
            made.stop()


def etcd_answers(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
        return b"true" in answer.read()
    return False
