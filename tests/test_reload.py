"""A reload takes up new code and settings from ``.env``, and requests meanwhile are answered."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.gateway import ClosedUnread, database_of_this_test, serving

pytestmark = pytest.mark.full_on_postgresql  # sockets, signals and processes, which are alike


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("callers", [8, pytest.param(32, marks=pytest.mark.full)])
def test_who_connects_during_a_reload_is_answered(acme_token, job_of, acme, tmp_path, callers):
    job = job_of(acme)
    env_file = tmp_path / ".env"
    env_file.write_text("PUBLIC_BASE_URL=https://before.example.com\n")
    outcomes: Counter[object] = Counter()
    over = threading.Event()
    closed_unread: list[bool] = []
    with serving(database_of_this_test(), workers=2, ENV_FILE=str(env_file)) as gateway:

        def poll() -> None:
            while not over.is_set():
                try:
                    outcomes[gateway.get(f"/v1/jobs/{job}", acme_token).status] += 1
                except ClosedUnread:
                    closed_unread.append(True)
                except (OSError, ValueError) as error:
                    outcomes[repr(error)] += 1

        pollers = [threading.Thread(target=poll) for _ in range(callers)]
        for poller in pollers:
            poller.start()
        env_file.write_text("PUBLIC_BASE_URL=https://after.example.com\n")
        gateway.reload()
        over.set()
        for poller in pollers:
            poller.join()
        page = httpx.get(f"http://127.0.0.1:{gateway.port}/").text
    assert set(outcomes) == {200}
    assert outcomes[200] > 100
    # In the last instant of a worker it may accept a connection whose request it never reads; HTTP clients repeat that.
    assert len(closed_unread) <= 4
    assert "https://after.example.com" in page


@pytest.mark.django_db(transaction=True)
def test_a_new_connection_to_a_worker_that_stops_is_answered(db):
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with serving(database_of_this_test()) as gateway, contextlib.ExitStack() as open_connections:
        connections = [
            open_connections.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 10)) for _ in range(20)
        ]
        time.sleep(0.1)  # until the worker has taken them
        (worker,) = gateway.workers()
        os.kill(int(worker), signal.SIGTERM)
        time.sleep(0.05)  # until it has heard
        for connection in connections:
            connection.sendall(request)
        answers = [connection.recv(12) for connection in connections]
    assert answers == [b"HTTP/1.1 200"] * 20


@pytest.mark.django_db(transaction=True)
def test_requests_in_progress_are_answered_during_a_reload_and_a_stop(db):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a store that hangs, so that /readyz takes its second
        store = {
            "AWS_STORAGE_BUCKET_NAME": "pictures",
            "AWS_S3_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        with serving(database_of_this_test(), **store) as gateway, ThreadPoolExecutor() as asking:
            answers = []
            for send in (gateway.reload, lambda: os.kill(gateway.pid, signal.SIGTERM)):
                asked = asking.submit(gateway.get, "/readyz")
                time.sleep(0.3)
                send()
                answers.append(asked.result())
    assert [answer.status for answer in answers] == [503, 503]
    assert {answer.body for answer in answers} == {b"database: ok\nmigrations: ok\nartifacts: no answer within 1 s\n"}


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_gets_a_signal_during_its_start_ends(db):
    with serving(database_of_this_test()) as gateway:
        (before,) = gateway.workers()
        os.kill(int(before), signal.SIGKILL)
        while gateway.workers() <= {before}:
            time.sleep(0.01)
        told_at = time.monotonic()
    assert time.monotonic() - told_at < 5


@pytest.mark.django_db(transaction=True)
def test_repeated_signals_stop_the_server(db):
    with serving(database_of_this_test()) as gateway:
        told_at = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM) * 3:
            os.kill(gateway.pid, number)
    assert time.monotonic() - told_at < 5
