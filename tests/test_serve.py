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
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests import servers, shared_servers

ROOT = Path(__file__).resolve().parent.parent


def serve(folder, *arguments, **environment):
    """``manage.py serve`` as on a fresh machine: an empty ``DATA_DIR``, no other setting but ``SIMULATE=0``."""
    wanted = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return subprocess.Popen(
        [sys.executable, "manage.py", "serve", *arguments],
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.sqlite
def test_a_fresh_machine_gets_requests_that_work_as_they_are_printed(folder):
    with serving(folder, "--demo") as (printed, base_url, _):
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


def children_of(pid):
    """The command lines of the processes that ``pid`` has started, by process id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            with contextlib.suppress(OSError):
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
    return found


BESIDE = ("simulate", "deliver_webhooks")


def is_running(pid, command):
    try:
        return command.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_until(is_so):
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def data(tmp_path):
    """The folder of a trial before its first start."""
    return shared_servers.copy_trial(tmp_path / "data")


@contextlib.contextmanager
def trial(folder, **environment):
    """The process of ``serve --demo`` once it serves, its address, and what it printed."""
    (port,) = servers.free_ports(1)
    process = serve(folder, "--demo", PORT=str(port), ACCESS_LOG="0", **environment)
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("Serving on"):
            break
    rest = threading.Thread(target=process.stdout.read)  # so that no writer waits for a reader
    rest.start()
    try:
        yield process, f"http://127.0.0.1:{port}", "".join(printed)
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
        wait_until(lambda: jobs_in(base_url, data) > 41)
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
def test_without_the_simulation_nothing_is_added_and_the_page_is_there(data):
    with trial(data) as (process, base_url, _):
        assert not any("simulate" in command for command in children_of(process.pid).values())
        assert "data-token" in httpx.get(base_url, timeout=60).text
        assert jobs_in(base_url, data) == 41
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "production",
    [
        {"WEB_HOST": "0.0.0.0"},
        pytest.param({"DJANGO_ALLOWED_HOSTS": "127.0.0.1"}, marks=pytest.mark.full),
        pytest.param({"PUBLIC_BASE_URL": "http://127.0.0.1:1"}, marks=pytest.mark.full),
    ],
)
def test_where_others_may_reach_it_the_page_holds_no_token(data, production):
    with trial(data, DJANGO_SECRET_KEY="s" * 50, **production) as (process, base_url, _):
        page = httpx.get(base_url, timeout=60)
        assert (page.status_code, "data-token" in page.text) == (200, False)
        assert "jgw_" not in page.text
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.sqlite
def test_a_store_with_other_tenants_gets_no_simulated_jobs(data):
    settings = {"DATABASE_URL": f"sqlite:///{data / 'gateway.sqlite3'}", "DATA_DIR": str(data)}
    command = [sys.executable, str(ROOT / "manage.py"), "create_tenant", "acme"]
    subprocess.run(command, env=os.environ | settings, check=True, capture_output=True)
    with trial(data, SIMULATE="1") as (process, _, printed):
        assert "The store has other tenants too, so no jobs are simulated. To do it: manage.py simulate\n" in printed
        assert not any("simulate" in command for command in children_of(process.pid).values())
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.sqlite
def test_the_second_start_has_the_same_token(folder):
    with serving(folder, "--demo") as (first, _, _):
        pass
    with serving(folder, "--demo") as (again, _, _):
        assert re.findall("jgw_[^']+", again) == re.findall("jgw_[^']+", first)


@pytest.mark.sqlite
def test_what_the_embedded_default_keeps_secret_is_read_by_its_owner_only(folder):
    assert {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("demo.json", "secret_key")} == {
        "demo.json": 0o600,
        "secret_key": 0o600,
    }


@pytest.mark.sqlite
def test_it_says_that_it_serves_only_when_a_request_is_answered(data):
    """A client that starts with the line never meets a port that is closed."""
    (port,) = servers.free_ports(1)
    process = serve(data, PORT=str(port), WEB_WORKERS="2")
    is_announced = threading.Event()

    def read():
        for line in process.stdout:
            if line.startswith("Serving on"):
                is_announced.set()

    reader = threading.Thread(target=read)
    reader.start()
    refused = answered = 0
    try:
        deadline = time.monotonic() + 120
        while answered < 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            was_announced = is_announced.is_set()
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
                answered += was_announced
            except httpx.TransportError:
                assert not was_announced
                refused += 1
                time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        reader.join(30)
        process.stdout.close()
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
        ([], {}, "python manage.py serve"),
        (["--demo"], {}, "python manage.py serve --demo"),
        (["--demo"], {"MAKELEVEL": "1"}, "make run"),
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


@pytest.mark.sqlite
def test_a_host_that_is_none_of_this_machine_is_named(tmp_path):
    printed, _ = serve(tmp_path, WEB_HOST="192.0.2.1").communicate(timeout=60)
    assert printed == (
        "CommandError: Cannot listen on 192.0.2.1:8000: Cannot assign requested address. "
        "WEB_HOST has to be an address of this machine, or a name of one.\n"
    )


@pytest.mark.sqlite
@pytest.mark.parametrize(("host", "shown"), [("localhost", "localhost"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
def test_it_listens_on_names_and_on_both_kinds_of_addresses(folder, host, shown):
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    metrics = servers.free_ports(1)[0]
    with serving(folder, WEB_HOST=host, METRICS_HOST=host, METRICS_PORT=str(metrics)) as (_, base_url, _):
        assert base_url.rpartition(":")[0] == f"http://{shown}"
        assert httpx.get(f"{base_url}/livez").text == "ok\n"
        assert "gateway_" in httpx.get(f"http://{shown}:{metrics}/").text


@pytest.mark.sqlite
def test_a_database_that_is_not_there_is_named_in_words(tmp_path):
    nowhere = f"postgres://nobody@127.0.0.1:{servers.free_ports(1)[0]}/none"
    process = serve(tmp_path, DATABASE_URL=nowhere, DJANGO_SECRET_KEY="x" * 50)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Connection refused" in printed
    assert printed.splitlines()[-1].startswith("The database failed: couldn't get a connection")
    assert "Traceback" not in printed


@pytest.mark.sqlite
def test_a_production_setting_without_a_secret_stops_it_and_says_why(tmp_path):
    process = serve(tmp_path, DJANGO_SECURE="1")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "DJANGO_SECRET_KEY is not set, and DJANGO_SECURE says that this is not a trial." in printed


@pytest.mark.postgresql
def test_on_postgresql_a_worker_for_each_core_serves_what_the_embedded_default_serves(folder, postgresql_server):
    postgresql_server.psql("DROP DATABASE IF EXISTS served", "CREATE DATABASE served OWNER gateway")
    url = postgresql_server.url("served", user="gateway")
    with serving(folder, "--demo", DATABASE_URL=url, DJANGO_SECRET_KEY="s" * 50) as (printed, base_url, _):
        token = re.findall("jgw_[^']+", printed)[0]
        answer = httpx.get(f"{base_url}/job", headers={"Authorization": f"Bearer {token}"})
        assert answer.json()["total_items"] == 41
