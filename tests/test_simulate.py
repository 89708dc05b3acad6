"""``manage.py simulate``: a studio at work, through the ledger."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction
from PIL import Image
from ulid import ULID

from jobs.demo.records import SIMULATED, simulated_record
from jobs.demo.simulator import Simulator
from jobs.ingest import bulk, erasure, ledger
from jobs.management.commands.simulate import Command
from jobs.management.stopping import Stop
from jobs.models import Artifact, Job, JobEvent, JobStatus, JobType
from tenants.models import Tenant
from tests import servers
from tests.gateway import database_of_this_test
from tests.stores import Store, counts_of, gateway_on, true_counts

pytestmark = pytest.mark.full_on_postgresql

FAILED = {JobStatus.FAILURE, JobStatus.PARTIAL_FAILURE}


@pytest.fixture
def demo(db, local_store):
    return Tenant.objects.create(slug="demo", name="Demo Studio")


def simulator_of(tenant, fail_share=0.1, keep=200, seed=1):
    return Simulator(tenant, every=10, speed=1, fail_share=fail_share, keep=keep, chance=random.Random(seed))


def run(simulator, is_done):
    """Takes the steps one after another, without the time between them."""
    for _ in range(2000):
        if is_done():
            return
        simulator.step()
    pytest.fail(str(simulator.totals))


def ended(simulator):
    return simulator.totals.succeeded + simulator.totals.failed


def own_jobs(tenant):
    return Job.objects.for_tenant(tenant).filter(request__simulated=True)


# --- What is simulated --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [30, pytest.param(150, marks=pytest.mark.full)])
def test_the_records_have_every_workflow_and_operations_on_several_agents_and_each_ends_as_it_should(demo, number):
    types, agents = Counter(), []
    for seed in range(number):
        chance, now = random.Random(seed), datetime.now(UTC)
        fails = seed % 3 == 0
        builder = simulated_record(demo, ULID(), now, chance, fails, is_operation=seed % 5 == 1)
        bulk.load_record(builder.record)
        job = Job.objects.for_tenant(demo).get(pk=ULID.from_str(builder.record["public_id"]))
        assert (job.status in FAILED, job.status == JobStatus.SUCCESS) == (fails, not fails)
        assert job.request[SIMULATED] is True
        last = job.events.order_by("seq").last()
        assert not fails or last.message
        types[job.job_type] += 1
        agents.append(job.events.exclude(hostname=None).values("hostname").distinct().count())
    assert set(JobType.values) <= set(types)
    assert sum(each > 0 for each in agents) == number // 5
    assert max(agents) >= 4


def test_jobs_run_at_the_same_time_and_their_results_are_pictures_in_the_store(demo, local_store):
    simulator = simulator_of(demo, fail_share=0)
    together = 0

    def is_done():
        nonlocal together
        together = max(together, simulator.in_progress)
        return ended(simulator) >= 4

    run(simulator, is_done)
    assert together >= 2
    done = own_jobs(demo).filter(status=JobStatus.SUCCESS)
    assert done.count() == simulator.totals.succeeded == 4
    for job in done.filter(is_operation=False):
        finals = list(job.artifacts.filter(role="final").values_list("storage_key", flat=True))
        assert finals
        assert job.events.get(seq=1).event_type == "queued"
    keys = Artifact.objects.for_tenant(demo).values_list("storage_key", flat=True)
    for key in keys:
        with local_store.open(key) as file, Image.open(file) as picture:
            assert (picture.format, picture.size) == ("PNG", (480, 640))
    assert counts_of(demo) == true_counts(demo)


@pytest.mark.parametrize(("fail_share", "outcome"), [(0, {JobStatus.SUCCESS}), (1, FAILED)])
def test_the_share_of_failures_is_as_given(demo, fail_share, outcome):
    simulator = simulator_of(demo, fail_share)
    run(simulator, lambda: ended(simulator) >= 3)
    over = own_jobs(demo).exclude(status__in=["NOT_STARTED", "IN_PROGRESS"])
    assert over.count() == 3
    assert set(over.values_list("status", flat=True)) <= outcome


def test_a_picture_is_stored_before_its_event(demo, local_store, tmp_path):
    """While the store cannot be written, no event names a picture; afterwards the same step succeeds."""
    (tmp_path / "artifacts").write_text("in the place of the folder")
    simulator = simulator_of(demo, fail_share=0)
    with pytest.raises(OSError, match="artifacts"):
        run(simulator, lambda: False)
    assert not Artifact.objects.for_tenant(demo).exists()
    with pytest.raises(OSError, match="artifacts"):
        simulator.step()
    (tmp_path / "artifacts").unlink()
    simulator.step()
    keys = Artifact.objects.for_tenant(demo).values_list("storage_key", flat=True)
    assert keys
    assert all(local_store.exists(key) for key in keys)


# --- Its own jobs -------------------------------------------------------------------------------------------------


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_its_oldest_jobs_are_removed_with_their_pictures_and_no_other_job_is(demo, local_store, tmp_path, job_of):
    picture = {"storage_key": "tenants/demo/other/front.png", "kind": "render", "role": "final"}
    event = {"seq": 1, "event_type": "succeeded", "created_at": "2026-04-15T12:00:09Z", "artifacts": [picture]}
    other = job_of(demo, events=[event])
    path = tmp_path / "artifacts" / picture["storage_key"]
    path.parent.mkdir(parents=True)
    path.write_text("a picture")

    first = simulator_of(demo, keep=200)
    run(first, lambda: ended(first) >= 3)
    second = simulator_of(demo, keep=2, seed=2)  # the jobs of earlier runs count too
    second.start()
    run(second, lambda: ended(second) >= 1 and not second._surplus())
    assert second.totals.pruned >= 2
    assert own_jobs(demo).count() <= 2 + second.in_progress
    assert Job.objects.for_tenant(demo).filter(pk=other.pk).exists()
    assert files_of(tmp_path / "artifacts") == set(
        Artifact.objects.for_tenant(demo).values_list("storage_key", flat=True)
    )
    assert counts_of(demo) == true_counts(demo)


def test_what_an_earlier_run_left_unfinished_is_ended_as_failed(demo, job_of):
    marked = {SIMULATED: True}
    opened = ledger.open_job(demo, "MODEL_GENERATOR", marked)
    running = ledger.open_job(demo, "MODEL_GENERATOR", marked)
    ledger.append(running, "queued", "Queued")
    operation = ledger.open_job(demo, "driver.update", marked)
    for hostname, event_type in [("gpu-01", "completed"), ("gpu-02", "started"), ("gpu-03", "submitted")]:
        ledger.append(operation, event_type, hostname=hostname)
    other = ledger.open_job(demo, "MODEL_GENERATOR", {"prompt": "not simulated"})
    simulator_of(demo).start()
    statuses = dict(Job.objects.for_tenant(demo).values_list("pk", "status"))
    assert statuses == {
        opened.pk: "FAILURE",
        running.pk: "FAILURE",
        operation.pk: "PARTIAL_FAILURE",
        other.pk: "NOT_STARTED",
    }


def test_a_job_that_somebody_else_removed_or_ended_is_dropped(demo):
    simulator = simulator_of(demo, fail_share=0)
    run(simulator, lambda: simulator.totals.opened == 2)
    first, second = own_jobs(demo).order_by("created_at")
    JobEvent.all_tenants.filter(job=first).delete()
    first.delete()
    if not second.is_operation:
        ledger.fail(second, "Ended from outside")
    run(simulator, lambda: simulator.totals.succeeded >= 1)


@pytest.mark.parametrize("committed", [True, False])
def test_a_step_that_is_repeated_records_nothing_twice(demo, monkeypatch, committed):
    """The connection breaks at a commit: only a later look shows whether the event was recorded."""
    simulator = simulator_of(demo, fail_share=0)
    originals = {"open_job": ledger.open_job, "append": ledger.append}
    breaks = True

    def breaking(name):
        def change(*args, **kwargs):
            if not breaks or committed:
                result = originals[name](*args, **kwargs)
            if breaks:
                raise OperationalError("the connection was lost")
            return result

        return change

    for name in originals:
        monkeypatch.setattr(ledger, name, breaking(name))
    while ended(simulator) < 1:
        breaks = True
        with pytest.raises(OperationalError):
            simulator.step()
        breaks = False
        simulator.step()
    for job in own_jobs(demo):
        events = list(job.events.values_list("event_type", "message", "stage", "hostname"))
        assert job.last_seq == len(events)
        if not job.is_operation:  # whose agents may start twice
            assert len(set(events)) == len(events)
    assert own_jobs(demo).count() == simulator.totals.opened


# --- The command --------------------------------------------------------------------------------------------------


def test_another_tenant_needs_a_confirmation(demo, acme):
    with pytest.raises(CommandError, match="Give --yes to add them to the jobs of “acme”"):
        call_command("simulate", "--tenant", "acme")
    assert Command().tenant_named("acme", is_confirmed=True) == acme
    assert not Job.all_tenants.exists()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [(["--tenant", "nobody", "--yes"], "manage.py create_tenant nobody"), ([], "manage.py seed_demo")],
)
def test_a_tenant_that_does_not_exist_is_named(db, arguments, advice):
    with pytest.raises(CommandError, match=advice):
        call_command("simulate", *arguments)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--every", "10"], "argument --every: “10” is not a time such as 10s, 0.5s, 2m or 1h"),
        (["--every", "0s"], "“0s” is not a time"),
        (["--every", "25h"], "a day at most"),
        (["--every", "-1s"], "--every"),
        (["--speed", "0"], "argument --speed: “0” is not a number above 0, up to 1000"),
        (["--speed", "nan"], "“nan” is not a number above 0"),
        (["--fail", "101%"], "argument --fail: “101%” is not a percentage from 0% to 100%"),
        (["--fail", "some"], "“some” is not a percentage"),
        (["--keep", "0"], "argument --keep: “0” is not a whole number from 1 up"),
    ],
)
def test_a_value_that_cannot_be_is_explained(arguments, message):
    with pytest.raises(CommandError, match=message.replace("(", r"\(")):
        call_command("simulate", *arguments)


def lines_of(process):
    """The lines of its log, as they come."""
    for line in process.stderr:
        yield json.loads(line)


@contextmanager
def simulating(store, *arguments, **how):
    process = store.start("simulate", *arguments, stdout=subprocess.DEVNULL, **how)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_jobs(store, number, process):
    deadline = time.monotonic() + 60
    while store.jobs() < number:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (["--tenant", "acme", "--yes"], signal.SIGINT),
        # As in test_it_goes_on_when_the_database_is_back.
        pytest.param([], signal.SIGTERM, marks=pytest.mark.full),
    ],
)
def test_a_signal_stops_it_and_every_event_has_its_pictures(new_store, tmp_path, arguments, number):
    made = new_store("demo", "acme")
    store = Store(made.url, made.folder, {"ARTIFACTS_DIR": str(tmp_path / "artifacts")})
    with simulating(store, "--every", "0.2s", "--speed", "50", *arguments) as process:
        wait_for_jobs(store, 4, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    last = json.loads(err.splitlines()[-1])
    assert (last["level"], last["message"][:8]) == ("INFO", "Stopped:")
    slugs = store.rows("SELECT DISTINCT slug FROM jobs_job JOIN tenants_tenant ON tenant_id = tenants_tenant.id")
    assert slugs == [(arguments[1] if arguments else "demo",)]
    keys = {key for (key,) in store.rows("SELECT storage_key FROM jobs_artifact")}
    # The picture that it was about to record may be there without its event.
    assert keys <= files_of(tmp_path / "artifacts")


@pytest.mark.sqlite
def test_it_ends_with_the_process_that_started_it(new_store, tmp_path):
    """As `serve --demo` starts it; here the process that started it is killed."""
    made = new_store("demo", "acme")
    start = (
        "import os, subprocess, sys, time\n"
        "arguments = ['simulate', f'--parent={os.getpid()}', '--every=0.2s']\n"
        "child = subprocess.Popen([sys.executable, sys.argv[1], *arguments])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = os.environ | {"DATABASE_URL": made.url, "ARTIFACTS_DIR": str(tmp_path)}
    command = [sys.executable, "-c", start, str(servers.__file__).replace("tests/servers.py", "manage.py")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, stderr=subprocess.DEVNULL)
    child = int(parent.stdout.readline())
    wait_for_jobs(made, 1, parent)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{child}/cmdline") and b"simulate" in _command_of(child):  # noqa: PTH110
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""


# --- While the database is busy or away ---------------------------------------------------------------------------


class Messages(io.StringIO):
    """Standard error; calls ``when_it_waits`` once the command says that it waits."""

    def __init__(self, when_it_waits):
        super().__init__()
        self.when_it_waits = when_it_waits

    def write(self, text):
        if "waits until this is over" in text:
            self.when_it_waits()
        return super().write(text)


@contextmanager
def locked_counter(tenant):
    """Another program's transaction, which holds what every change of the tenant's jobs needs; yields its end."""
    if connection.vendor == "sqlite":
        connection.cursor().execute("PRAGMA busy_timeout = 100")  # milliseconds, in place of 20 seconds
        with closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield lambda: other.execute("ROLLBACK")
    else:
        with psycopg.connect(database_of_this_test()) as other:
            other.execute("SELECT * FROM jobs_jobcounts WHERE tenant_id = %s FOR UPDATE", [tenant.pk])
            yield other.rollback


@pytest.mark.django_db(transaction=True)
def test_it_waits_for_a_lock_and_says_so(demo, settings):
    settings.LEDGER_LOCK_SECONDS = 0.1
    simulator = simulator_of(demo)
    run(simulator, lambda: simulator.totals.opened >= 1)
    with locked_counter(demo) as release:
        err = Messages(release)
        Command(stderr=err).repeat(simulator.step, Stop(), "demo")
    assert err.getvalue().splitlines() == [
        "Another transaction holds a lock that is needed. The simulation waits until this is over.",
        "The simulation goes on.",
    ]
    assert own_jobs(demo).get().events.count() == 1


@pytest.mark.django_db(transaction=True)
def test_it_waits_for_the_artifact_store(demo, tmp_path):
    (tmp_path / "artifacts").write_text("in the place of the folder")
    simulator = simulator_of(demo, fail_share=0)
    err = Messages((tmp_path / "artifacts").unlink)
    command = Command(stderr=err)
    run_until = time.monotonic() + 60
    while not Artifact.objects.for_tenant(demo).exists():
        assert time.monotonic() < run_until
        command.repeat(simulator.step, Stop(), "demo")
    assert err.getvalue().splitlines()[0].startswith("The artifact store failed: ")
    assert err.getvalue().splitlines()[1] == "The simulation goes on."


@pytest.mark.django_db(transaction=True)
def test_it_ends_when_its_tenant_is_removed(demo):
    simulator = simulator_of(demo)
    with transaction.atomic():
        erasure.erase_tenant(Tenant.objects.get(slug="demo"))
    with pytest.raises(CommandError, match="Tenant “demo” was removed"):
        Command(stderr=io.StringIO()).repeat(simulator.step, Stop(), "demo")


@pytest.mark.postgresql
def test_it_goes_on_when_the_database_is_back(tmp_path):
    with servers.postgresql() as server:
        store = replace(gateway_on(server, tmp_path), environment={"ARTIFACTS_DIR": str(tmp_path / "artifacts")})
        store.add_tenants("demo")
        with simulating(store, "--every", "0.2s", "--speed", "50") as process:
            lines = lines_of(process)
            wait_for_jobs(store, 2, process)
            server.stop()
            assert any("The simulation waits until this is over." in line["message"] for line in lines)
            server.start()
            assert any(line["message"] == "The simulation goes on." for line in lines)
            wait_for_jobs(store, store.jobs() + 1, process)
            process.terminate()
            assert any(line["message"].startswith("Stopped: ") for line in lines)
            assert process.wait(60) == 0
