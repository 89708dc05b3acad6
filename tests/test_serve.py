"""``manage.py serve``: what `make run` and `make serve` start."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from django.core.management import CommandError

from jobs.management.commands.serve import free_address, used_command
from tests import servers, shared_servers
from tests.gateway import database_of_this_test
from tests.stores import Store

ROOT = Path(__file__).resolve().parent.parent


def serve(folder, *arguments, program=("manage.py", "serve"), **environment):
    """``manage.py serve`` as on a fresh machine: an empty ``DATA_DIR``, no other setting but ``SIMULATE=0``."""
    wanted = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env={name: os.environ[name] for name in wanted if name in os.environ}
        | {"DATA_DIR": str(folder), "ENV_FILE": os.devnull, "SIMULATE": "0"}
        | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def serving(folder, *arguments, **environment):
    """What it printed until it served, its address, and how many seconds the first answer took."""
    (port,) = servers.free_ports(1)
    began = time.monotonic()
    process = serve(folder, *arguments, PORT=str(port), **environment)
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if line.startswith("Serving on"):
                base_url = line.split()[2]
                break
        else:
            pytest.fail(printed)
        httpx.get(f"{base_url}/v1/jobs")  # without a second attempt: it has said that it serves
        yield printed, base_url, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdout.close()


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class Trial(NamedTuple):
    """A server of ``serve --demo`` that tests share: they read, and change nothing."""

    process: subprocess.Popen[str]
    base_url: str
    printed: str
    folder: Path
    metrics_port: int


@contextlib.contextmanager
def shared_trial(folder, host, **environment):
    (metrics_port,) = servers.free_ports(1)
    settings = {"WEB_HOST": host, "METRICS_HOST": host, "METRICS_PORT": str(metrics_port)} | environment
    with trial(folder, **settings) as (process, base_url, printed):
        yield Trial(process, base_url, printed, folder, metrics_port)
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="module")
def for_this_machine(tmp_path_factory):
    """The second start of a trial, without the simulation."""
    with shared_trial(shared_servers.copy_trial(tmp_path_factory.mktemp("local") / "data"), "localhost") as started:
        yield started


@pytest.fixture(scope="module")
def for_others(tmp_path_factory):
    """A trial that other machines may reach, in a store that has another tenant."""
    folder = shared_servers.copy_trial(tmp_path_factory.mktemp("others") / "data")
    with contextlib.closing(sqlite3.connect(folder / "gateway.sqlite3")) as store, store:
        store.execute(
            "INSERT INTO tenants_tenant (slug, name, storage_prefix, is_active, created_at) "
            "VALUES ('acme', '', 'tenants/acme/', true, '2026-04-15 12:00:00')"
        )
    with shared_trial(folder, "0.0.0.0", SIMULATE="1", DJANGO_SECRET_KEY="s" * 50) as started:
        yield started


def check_requests(base_url, printed):
    """The requests that it printed work, and so does its page."""
    commands = [shlex.split(line) for line in printed.splitlines() if line.strip().startswith("curl ")]
    assert [re.sub("01[0-9A-Z]{24}", "ID", command[-1].removeprefix(base_url)) for command in commands] == [
        "/v1/jobs?limit=5",
        "/v1/jobs/ID",
        "/v1/jobs/ID/events?since=0",
        "/job?limit=5",
    ]
    answers = []
    for command in commands:
        name, _, value = command[command.index("-H") + 1].partition(": ")
        answers.append(httpx.get(command[-1], headers={name: value}))
    assert [answer.status_code for answer in answers] == [200] * 4
    pictures = [httpx.get(artifact["image_url"]) for artifact in answers[1].json()["result"]]
    assert [picture.headers["content-type"] for picture in pictures] == ["image/png"] * 3

    page = httpx.get(base_url)
    stylesheet = re.search(r'href="(/static/gateway/landing\.[0-9a-f]+\.css)"', page.text)
    assert stylesheet is not None, "static files were not collected"
    assert "immutable" in httpx.get(base_url + stylesheet[1]).headers["cache-control"]


@pytest.mark.sqlite
def test_the_requests_that_are_printed_work(for_this_machine):
    """After a first start with ``--prepare-only`` on an empty folder, which is the one that tests copy."""
    check_requests(for_this_machine.base_url, for_this_machine.printed)


@pytest.mark.sqlite
@pytest.mark.full
def test_a_fresh_machine_gets_requests_that_work_as_they_are_printed_and_keeps_its_token(tmp_path):
    with serving(tmp_path, "--demo") as (first, base_url, _):
        check_requests(base_url, first)
    with serving(tmp_path, "--demo") as (again, _, _):
        assert re.findall("jgw_[^']+", again) == re.findall("jgw_[^']+", first)


def children_of(pid):
    """The command lines of the processes that ``pid`` has started, by process id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            with contextlib.suppress(OSError):
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
    return found


def workers_of(pid):
    return [child for child, command in children_of(pid).items() if "jobs_gateway.server" in command]


BESIDE = ("simulate", "deliver_webhooks")


def is_running(pid, command):
    try:
        return command.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_until(is_so):
    deadline = time.monotonic() + 300  # what runs beside the server has a low priority
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def data(tmp_path):
    """The folder of a trial before its first start."""
    return shared_servers.copy_trial(tmp_path / "data")


@contextlib.contextmanager
def trial(folder, demo=("--demo",), **environment):
    """The process of ``serve --demo`` once it serves, its address, and what it printed."""
    (port,) = servers.free_ports(1)
    process = serve(folder, *demo, PORT=str(port), ACCESS_LOG="0", **environment)
    printed = []
    base_url = ""
    for line in process.stdout:
        printed.append(line)
        if line.startswith("Serving on"):
            base_url = line.split()[2]
            break
    rest = threading.Thread(target=process.stdout.read)  # so that no writer waits for a reader
    rest.start()
    try:
        assert base_url, "".join(printed)
        yield process, base_url, "".join(printed)
    finally:
        left = [process.pid, *children_of(process.pid)] if process.poll() is None else []
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        rest.join(60)
        process.stdout.close()


def jobs_in(base_url, folder):
    token = json.loads((folder / "demo.json").read_text())["token"]
    answer = httpx.get(f"{base_url}/job?limit=1", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    return answer.json()["total_items"]


@pytest.mark.sqlite
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.full), signal.SIGKILL])
def test_simulation_and_webhooks_run_until_the_server_ends_however_that_ends(data, number):
    with trial(data, SIMULATE="1") as (process, base_url, _):
        wait_until(lambda: Store(f"sqlite:///{data}/gateway.sqlite3", data).jobs() > 41)
        assert "data-token" in httpx.get(base_url, timeout=60).text
        children = children_of(process.pid)
        beside = [(pid, name) for pid, command in children.items() for name in BESIDE if name in command]
        assert sorted(name for _, name in beside) == sorted(BESIDE)
        workers = children.keys() - {pid for pid, _ in beside}
        process.send_signal(number)
        process.wait(60)
        wait_until(lambda: not any(is_running(*each) for each in beside))
        for worker in workers:  # the server's own are on their own after SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


@pytest.mark.sqlite
def test_without_the_simulation_nothing_is_added_and_the_page_is_there(for_this_machine):
    assert not any("simulate" in command for command in children_of(for_this_machine.process.pid).values())
    assert "data-token" in httpx.get(for_this_machine.base_url, timeout=60).text
    assert jobs_in(for_this_machine.base_url, for_this_machine.folder) == 41


def check_no_token(base_url):
    page = httpx.get(base_url, timeout=60)
    assert (page.status_code, "data-token" in page.text) == (200, False)
    assert "jgw_" not in page.text


@pytest.mark.sqlite
def test_where_others_may_reach_it_the_page_holds_no_token(for_others):
    check_no_token(for_others.base_url)


@pytest.mark.sqlite
@pytest.mark.full
@pytest.mark.parametrize(
    "production",
    [{"WEB_HOST": "0.0.0.0"}, {"DJANGO_ALLOWED_HOSTS": "127.0.0.1"}, {"PUBLIC_BASE_URL": "http://127.0.0.1:1"}],
)
def test_with_any_setting_of_production_the_page_holds_no_token(data, production):
    with trial(data, DJANGO_SECRET_KEY="s" * 50, **production) as (process, base_url, _):
        check_no_token(base_url)
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.sqlite
def test_a_store_with_other_tenants_gets_no_simulated_jobs(for_others):
    said = "The store has other tenants too, so no jobs are simulated. To do it: manage.py simulate\n"
    assert said in for_others.printed
    assert not any("simulate" in command for command in children_of(for_others.process.pid).values())


@pytest.mark.sqlite
def test_the_second_start_has_the_same_token(for_this_machine):
    first = json.loads(Path(shared_servers.address("TRIAL"), "demo.json").read_text())["token"]
    assert set(re.findall("jgw_[^']+", for_this_machine.printed)) == {first}


@pytest.mark.sqlite
def test_what_the_embedded_default_keeps_secret_is_read_by_its_owner_only(for_this_machine):
    folder = for_this_machine.folder
    assert {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("demo.json", "secret_key")} == {
        "demo.json": 0o600,
        "secret_key": 0o600,
    }


def check_addresses(base_url, shown, metrics_port):
    assert base_url.rpartition(":")[0] == f"http://{shown}"
    assert httpx.get(f"{base_url}/livez").text == "ok\n"
    assert "gateway_" in httpx.get(f"http://{shown}:{metrics_port}/").text


@pytest.mark.sqlite
@pytest.mark.parametrize(("started", "shown"), [("for_this_machine", "localhost"), ("for_others", "127.0.0.1")])
def test_it_listens_on_names_and_on_every_address(request, started, shown):
    started = request.getfixturevalue(started)
    check_addresses(started.base_url, shown, started.metrics_port)


@pytest.mark.sqlite
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.full)])
def test_it_says_that_it_serves_only_when_a_request_is_answered(data, workers):
    """A client that starts with the line never meets a port that is closed; at an address of IPv6 where there are."""
    host, shown = ("::1", "[::1]") if has_ipv6() else ("127.0.0.1", "127.0.0.1")
    port, metrics_port = servers.free_ports(2)
    metrics = {"METRICS_HOST": host, "METRICS_PORT": str(metrics_port)}
    process = serve(data, WEB_HOST=host, PORT=str(port), WEB_WORKERS=str(workers), **metrics)
    announced = []
    is_announced = threading.Event()

    def read():
        for line in process.stdout:
            if line.startswith("Serving on"):
                announced.append(line.split()[2])
                is_announced.set()

    reader = threading.Thread(target=read)
    reader.start()
    refused = answered = 0
    # Each request on a connection of its own; a client for each would read all certificates each time.
    client = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))
    try:
        deadline = time.monotonic() + 120
        while answered < 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            was_announced = is_announced.is_set()
            try:
                assert client.get(f"http://{shown}:{port}/readyz").status_code == 200
                answered += was_announced
            except httpx.TransportError:
                assert not was_announced
                refused += 1
                is_announced.wait(0.05)
        check_addresses(announced[0], shown, metrics_port)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        reader.join(30)
        process.stdout.close()
        client.close()
    assert refused > 10  # the port was tried from the start on


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("arguments", "by_make", "command"),
    [
        (["--demo"], {}, "python manage.py serve --demo"),
        # The advice alone differs, which the next test is about.
        pytest.param([], {}, "python manage.py serve", marks=pytest.mark.full),
        pytest.param(["--demo"], {"MAKELEVEL": "1"}, "make run", marks=pytest.mark.full),
    ],
)
def test_a_port_that_is_taken_is_named_before_anything_else_happens(tmp_path, taken_port, arguments, by_make, command):
    process = serve(tmp_path, *arguments, PORT=str(taken_port), **by_make)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert printed == (
        f"CommandError: Cannot listen on 127.0.0.1:{taken_port}: Address already in use. "
        f"Choose another port, such as: PORT={taken_port + 1} {command}\n"
    )
    assert not (tmp_path / "gateway.sqlite3").exists()


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("is_demo", "by_make", "command"),
    [
        (False, False, "python manage.py serve"),
        (True, False, "python manage.py serve --demo"),
        (False, True, "make serve"),
        (True, True, "make run"),
    ],
)
def test_the_command_that_started_it_is_advised(monkeypatch, is_demo, by_make, command):
    monkeypatch.delenv("MAKELEVEL", raising=False)
    if by_make:
        monkeypatch.setenv("MAKELEVEL", "1")
    assert used_command(is_demo) == command


@pytest.mark.sqlite
@pytest.mark.skipif(
    shutil.which("make") is None or not (ROOT / ".venv/bin/python").exists(), reason="make serve needs make and .venv"
)
def test_make_serve_advises_make_serve(tmp_path, taken_port):
    environment = {"DATA_DIR": str(tmp_path), "ENV_FILE": os.devnull, "PORT": str(taken_port)}
    done = subprocess.run(
        ["make", "serve"],
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert f"Choose another port, such as: PORT={taken_port + 1} make serve\n" in done.stderr


NO_HOST = (
    "Cannot listen on 192.0.2.1:8000: Cannot assign requested address. "
    "WEB_HOST has to be an address of this machine, or a name of one."
)


@pytest.mark.sqlite
def test_a_host_that_is_none_of_this_machine_is_named(settings):
    settings.WEB_HOST = "192.0.2.1"
    with pytest.raises(CommandError) as refused:
        free_address("WEB_HOST", "PORT", "make serve")
    assert str(refused.value) == NO_HOST


@pytest.mark.sqlite
@pytest.mark.full
def test_the_command_ends_with_what_it_says_about_a_host(tmp_path):
    printed, _ = serve(tmp_path, WEB_HOST="192.0.2.1").communicate(timeout=60)
    assert printed == f"CommandError: {NO_HOST}\n"


# Half a minute of attempts is what the full form waits out.
ASK_ONCE = """
import runpy, sys
from jobs.postgresql import base
base.POOL_WAIT_SECONDS = 0
sys.argv = ["manage.py", "serve"]
runpy.run_path("manage.py", run_name="__main__")
"""


@pytest.mark.sqlite
@pytest.mark.parametrize("program", [["-c", ASK_ONCE], pytest.param(["manage.py", "serve"], marks=pytest.mark.full)])
def test_a_database_that_is_not_there_is_named_in_words(tmp_path, program):
    nowhere = f"postgres://nobody@127.0.0.1:{servers.free_ports(1)[0]}/none"
    process = serve(tmp_path, program=program, DATABASE_URL=nowhere, DJANGO_SECRET_KEY="x" * 50)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Connection refused" in printed
    # The pool's thread may have a warning to write after it.
    assert "\nThe database failed: couldn't get a connection" in printed
    assert "Traceback" not in printed


@pytest.mark.sqlite
def test_a_production_setting_without_a_secret_stops_it_and_says_why(tmp_path):
    process = serve(tmp_path, DJANGO_SECURE="1")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "DJANGO_SECRET_KEY is not set, and DJANGO_SECURE says that this is not a trial." in printed


@pytest.mark.sqlite
def test_a_demo_is_refused_where_the_settings_say_that_this_is_production(tmp_path):
    process = serve(tmp_path, "--demo", DJANGO_SECURE="1", DJANGO_SECRET_KEY="s" * 50, TRUSTED_PROXIES="127.0.0.1")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Serve without it: make serve" in printed
    assert not (tmp_path / "gateway.sqlite3").exists()


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_on_postgresql_a_worker_for_each_core_serves(tmp_path, acme, acme_token, job_of):
    job_of(acme)
    url = database_of_this_test()
    with trial(tmp_path, demo=(), DATABASE_URL=url, DJANGO_SECRET_KEY="s" * 50) as (process, base_url, _):
        wait_until(lambda: len(workers_of(process.pid)) == os.cpu_count())
        answer = httpx.get(f"{base_url}/job", headers={"Authorization": f"Bearer {acme_token}"}, timeout=60)
        assert answer.json()["total_items"] == 1


@pytest.mark.postgresql
@pytest.mark.full
def test_postgresql_serves_what_the_embedded_default_serves(tmp_path, postgresql_server):
    postgresql_server.psql("DROP DATABASE IF EXISTS served", "CREATE DATABASE served OWNER gateway")
    url = postgresql_server.url("served", user="gateway")
    with serving(tmp_path, "--demo", DATABASE_URL=url, DJANGO_SECRET_KEY="s" * 50) as (printed, base_url, _):
        token = re.findall("jgw_[^']+", printed)[0]
        answer = httpx.get(f"{base_url}/job", headers={"Authorization": f"Bearer {token}"})
        assert answer.json()["total_items"] == 41
