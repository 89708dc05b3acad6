"""Each worker's threads stay on one core, which no other worker has."""

import os
import signal
import socket
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic

import pytest

from jobs_gateway.cores import OwnCore, name_of
from tests.gateway import database_of_this_test, serving
from tests.servers import START_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def free_cores():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("threads are bound to cores on Linux alone")
    if len(cores := os.sched_getaffinity(0)) < 2:
        pytest.skip("with one core there is nothing to choose")
    for core in cores:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as probe:
            try:
                probe.bind(name_of(core))
            except OSError:
                pytest.skip("a gateway that runs beside the tests holds a core")


def cores_of(gateway):
    """For each worker the sets of cores that its threads are bound to; threads that go anywhere are left out."""
    everywhere = os.sched_getaffinity(0)
    bound = []
    for worker in gateway.workers():
        threads = [os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{worker}/task").iterdir()]
        bound.append({frozenset(cores) for cores in threads if cores != everywhere})
    return bound


def ask_until(gateway, is_so):
    """Asks until each worker has had its turn and ``is_so`` of their cores."""
    deadline = monotonic() + START_SECONDS
    while not is_so(found := cores_of(gateway)):
        assert monotonic() < deadline, f"the workers' cores are {found}"
        with suppress(OSError, ValueError):  # a worker may just have been killed
            gateway.get("/livez")
    return found


def each_has_its_own(found):
    return len(found) == 2 and all(len(cores) == 1 for cores in found) and found[0] != found[1]


def test_two_workers_have_two_cores_and_a_new_worker_takes_the_place_of_the_one_that_died(db):
    with serving(database_of_this_test(), workers=2, WEB_PIN_WORKERS="1") as gateway:
        ask_until(gateway, each_has_its_own)
        os.kill(int(next(iter(gateway.workers()))), signal.SIGKILL)
        ask_until(gateway, each_has_its_own)
        gateway.reload()
        ask_until(gateway, each_has_its_own)


def test_a_gateway_beside_another_takes_no_core_of_its(db):
    with (
        serving(database_of_this_test(), WEB_PIN_WORKERS="1") as one,
        serving(database_of_this_test(), WEB_PIN_WORKERS="1") as other,
    ):
        [first] = ask_until(one, lambda found: len(found[0]) == 1)
        [second] = ask_until(other, lambda found: len(found[0]) == 1)
        assert first != second


def test_a_thread_that_may_not_be_bound_answers_all_the_same(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr("os.sched_setaffinity", forbidden)
    core = OwnCore()
    core.bind()
    assert core._claim is not None
    core._claim.close()


def test_no_thread_is_bound_unless_it_is_asked_for(db):
    with serving(database_of_this_test()) as gateway:
        for _ in range(20):
            assert gateway.get("/livez").status == 200
        assert cores_of(gateway) == [set()]
