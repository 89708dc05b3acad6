"""The TypeScript client, installed and built with npm, and what its tests ask of the gateway's backend."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from PIL import Image

from jobs.ingest import ledger
from jobs.models import JobCounts, JobEvent
from tenants import tokens
from tenants.models import Tenant
from tests.gateway import Gateway

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "clients" / "typescript"
MODULES = CLIENT / "node_modules"
LONGEST_SECONDS = 300

NODE, NPM = shutil.which("node"), shutil.which("npm")
needs_node = pytest.mark.skipif(not (NODE and NPM), reason="Node is not installed: apt-get install nodejs npm")


def run(*command: str | Path, cwd: Path = CLIENT, **environment: str) -> str:
    """What the program prints; fails the test with it where the program fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"CI": "1"} | environment,  # npm then shows no progress
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout[-20_000:]}", pytrace=False)
    return done.stdout


def install_and_build() -> None:
    """Installs what package-lock.json names and compiles the client, each where something has changed since."""
    with (CLIENT / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run in this checkout may do the same
        digest = hashlib.sha256(lock.read()).hexdigest()
        stamp = MODULES / ".installed"
        if not stamp.exists() or stamp.read_text() != digest:
            run("npm", "ci", "--prefer-offline")
            stamp.write_text(digest)
        sources = [*(CLIENT / "src").iterdir(), CLIENT / "tsconfig.json", stamp]
        built = CLIENT / "dist" / "index.js"
        if not built.exists() or any(each.stat().st_mtime > built.stat().st_mtime for each in sources):
            shutil.rmtree(CLIENT / "dist", ignore_errors=True)
            run("node", MODULES / "typescript/bin/tsc")


def png(name: str) -> bytes:
    """A picture that differs from those of other names."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), f"#{hashlib.sha256(name.encode()).hexdigest()[:6]}").save(file, "png")
    return file.getvalue()


class Backend:
    """Writes jobs for tests that run in another process. Their pictures are files of ``folder``."""

    _tenant: Tenant

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self._gateway = gateway
        self._folder = folder

    def new_tenant(self) -> str:
        """Its token. All other calls are for the last tenant."""
        self._tenant = Tenant.objects.create(slug=f"tenant-{Tenant.objects.count()}")
        return tokens.issue(self._tenant, label="tests")

    def open_job(self, job_type: str) -> str:
        return str(ledger.open_job(self._tenant, job_type).pk)

    def append(
        self,
        job: str,
        event_type: str,
        message: str,
        hostname: str | None = None,
        picture: str | None = None,
        role: str = "final",
    ) -> int:
        details: ledger.Details = {"hostname": hostname}
        if picture:
            key = f"{self._tenant.storage_prefix}{picture}"
            path = self._folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture))
            details["artifacts"] = [{"storage_key": key, "kind": "render", "role": role}]
        return ledger.append(job, event_type, message, **details).seq

    def picture(self, name: str) -> str:
        return base64.b64encode(png(name)).decode()

    def delete_pictures(self) -> None:
        shutil.rmtree(self._folder / self._tenant.storage_prefix)

    def lose_last_event(self) -> None:
        last = JobEvent.objects.for_tenant(self._tenant).filter(position__isnull=False).latest("position")
        JobEvent.all_tenants.filter(pk=last.pk).delete()
        JobCounts.objects.for_tenant(self._tenant).update(last_position=last.position - 1)

    def reload(self) -> None:
        self._gateway.reload()

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """The address that takes calls, ``{"call": "open_job", "job_type": "restart"}``, one at a time."""
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                call: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                result = json.dumps(getattr(backend, call.pop("call"))(**call)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(result)))
                self.end_headers()
                self.wfile.write(result)

            def log_message(self, *args: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)

        def serve() -> None:
            server.serve_forever(poll_interval=0.05)
            connections.close_all()  # of this thread

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@contextlib.contextmanager
def site(files: Mapping[str, bytes]) -> Iterator[str]:
    """An origin that serves ``files`` by their path, such as ``/index.html``; the mapping may grow meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/javascript" if self.path.endswith(".js") else "text/html")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
