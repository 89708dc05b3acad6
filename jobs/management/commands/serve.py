"""``manage.py serve``: migrates, collects static files, and becomes the production server."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from jobs.demo.access import DEMO, PAGE_VARIABLE, demo_access
from jobs.demo.records import SIMULATED
from jobs.models import Job, JobType
from jobs_gateway.settings import env, production_settings_given
from tenants.models import Tenant


def server_command(host: str, port: int, workers: int, announce: str = "") -> list[str]:
    """The production server's program and arguments; it prints ``announce`` once it accepts connections."""
    command = [sys.executable, "-m", "jobs_gateway.server"]
    command += ["--host", host, "--port", str(port), "--workers", str(workers)]
    return [*command, "--announce", announce] if announce else command


def free_address(host_setting: str, port_setting: str, command: str) -> str:
    """The numeric address of the host and port in the settings. Raises CommandError if the port is in use or the
    address is not of this machine; the message names ``command``.
    """
    host, port = getattr(settings, host_setting), getattr(settings, port_setting)
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        is_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
        other = f"Choose another port, such as: {port_setting}={port + 1 if port > 1023 else 8000} {command}"
        hint = other if is_port else f"{host_setting} has to be an address of this machine, or a name of one."
        raise CommandError(f"Cannot listen on {in_url(host)}:{port}: {error.strerror}. {hint}") from None
    return str(address[0])


def used_command(demo: bool) -> str:
    """The command that started this process: a target of the Makefile, or this command itself."""
    if "MAKELEVEL" in os.environ:  # which make sets
        return "make run" if demo else "make serve"
    return f"python manage.py serve{' --demo' if demo else ''}"


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def base_url() -> str:
    """The URL of the gateway for a browser on this machine."""
    host = "127.0.0.1" if settings.WEB_HOST in ("0.0.0.0", "::") else settings.WEB_HOST  # noqa: S104 - not bound here
    return f"http://{in_url(host)}:{settings.PORT}"


def start_beside(command: str) -> None:
    """Starts a command beside the server, at a low priority. It ends when this process has ended."""
    subprocess.Popen(
        [sys.executable, str(settings.BASE_DIR / "manage.py"), command, "--verbosity=0", f"--parent={os.getpid()}"],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"METRICS_PORT": "0"},  # it is the server's
        preexec_fn=lambda: os.nice(10),  # noqa: PLW1509 - this process has one thread
    )


class Command(BaseCommand):
    help = (
        "Migrates the database, collects static files when they changed, and serves the gateway on WEB_HOST:PORT with "
        "WEB_WORKERS processes until Ctrl-C. Example: PORT=8001 manage.py serve --demo"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--demo", action="store_true", help="Fill an empty store with the demo, and print requests to try."
        )
        parser.add_argument("--prepare-only", action="store_true", help="Migrate and collect static files, then exit.")

    def handle(self, *args: Any, demo: bool, prepare_only: bool, **options: Any) -> None:
        if demo and "DJANGO_SECURE" in production_settings_given():
            raise CommandError(
                "DJANGO_SECURE=1 says that this is production, and --demo makes a tenant, a superuser and pictures. "
                "Serve without it: make serve"
            )
        if not prepare_only:
            command = used_command(demo)
            address = free_address("WEB_HOST", "PORT", command)
            if settings.METRICS_PORT:
                free_address("METRICS_HOST", "METRICS_PORT", command)
                for counters in settings.METRICS_DIR.glob("*.db"):
                    counters.unlink()  # of processes before this start; Prometheus expects a counter to begin at 0
        call_command("migrate", interactive=False, verbosity=0)
        self.collect_static()
        has_demo = False
        if demo:
            if not Job.all_tenants.exists():
                call_command("seed_demo", stdout=self.stdout)
            has_demo = self.print_requests()
        if not prepare_only:
            if has_demo:
                self.show_jobs_on_page(address)
                self.start_simulation()
            if demo:
                start_beside("deliver_webhooks")
            self.become_server(address)

    def collect_static(self) -> None:
        """Collects if a source was added, removed or changed since the last time. The check takes a few
        milliseconds."""
        seen = hashlib.sha256()
        for finder in get_finders():
            for name, storage in finder.list([]):
                stat = Path(storage.path(name)).stat()
                seen.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        stamp = settings.STATIC_ROOT / ".collected"
        with contextlib.suppress(FileNotFoundError):
            if stamp.read_text() == seen.hexdigest():
                return
        chosen: Any = settings.STORAGES
        chosen["staticfiles"]["BACKEND"] = "whitenoise.storage.CompressedManifestStaticFilesStorage"
        # Files of earlier versions stay: during a reload their pages are still served.
        call_command("collectstatic", interactive=False, verbosity=0)
        stamp.write_text(seen.hexdigest())

    def print_requests(self) -> bool:
        """False if there is no demo."""
        base = settings.PUBLIC_BASE_URL or base_url()
        access = demo_access()
        if access is None:
            self.stdout.write(
                "\nThe store has jobs of its own, so no demo was made. A token for one of its tenants: "
                "manage.py issue_token SLUG\n"
            )
            return False
        # Not a simulated one: it is removed after a while.
        seeded = Job.all_tenants.filter(tenant__slug=DEMO, **{f"request__{SIMULATED}__isnull": True})
        job = seeded.filter(status="SUCCESS", job_type=JobType.PRODUCT_TO_MODEL_PHASED).newest_first().first()
        header = f"-H 'Authorization: Bearer {access.token}'"
        self.stdout.write("\nAsk it something:\n\n")
        for path in ("v1/jobs?limit=5", f"v1/jobs/{job}", f"v1/jobs/{job}/events?since=0", "job?limit=5"):
            self.stdout.write(f"  curl {header} '{base}/{path}'\n")
        self.stdout.write(
            f"\nOr look around:\n\n  {base}/  the jobs of the demo\n  {base}/docs  the documentation\n"
            f"  {base}/admin/  sign in as demo, password {access.password}\n\n"
        )
        return True

    def show_jobs_on_page(self, address: str) -> None:
        """Lets the page at / show the demo's jobs, if this is a trial that only this machine can reach.

        The page holds the demo's token, so everyone who can open it can read the demo's jobs.
        """
        is_local = ip_address(address.partition("%")[0]).is_loopback
        if is_local and not settings.PUBLIC_BASE_URL and not production_settings_given():
            os.environ[PAGE_VARIABLE] = str(os.getpid())  # this process becomes the server

    def start_simulation(self) -> None:
        """Starts `manage.py simulate` beside the server."""
        if not settings.SIMULATE:
            return
        if Tenant.objects.exclude(slug=DEMO).exists():
            self.stdout.write(
                "The store has other tenants too, so no jobs are simulated. To do it: manage.py simulate\n\n"
            )
            return
        start_beside("simulate")

    def become_server(self, address: str) -> None:
        connections.close_all()
        self.stdout.flush()
        announcement = f"Serving on {base_url()} (Ctrl-C stops it)."
        command = server_command(address, settings.PORT, settings.WEB_WORKERS, announcement)
        for name in env.from_file:  # the server reads the file at each reload, and its environment takes precedence
            os.environ.pop(name, None)
        os.execv(sys.executable, command)  # noqa: S606 - no shell is meant
