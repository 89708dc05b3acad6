"""Positions: one order of everything public that happens to a tenant's jobs, without a gap that is filled later."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from jobs.ingest import bulk, counts, interchange, ledger
from jobs.ingest.erasure import erase_tenant
from jobs.ingest.removal import remove
from jobs.models import Artifact, Job, JobCounts, JobEvent
from tests.stores import counts_of, exported, true_counts
from tests.test_counts import backfill_status, record

RENDER: ledger.NewArtifact = {"storage_key": "tenants/acme/front.png", "kind": "on_model_render", "role": "final"}
committing = pytest.mark.django_db(transaction=True)


@pytest.fixture
def job(acme):
    return ledger.open_job(acme, "MODEL_GENERATOR")


def positions(job):
    return list(JobEvent.all_tenants.filter(job=job).order_by("seq").values_list("position", flat=True))


def last_position(tenant):
    return JobCounts.objects.for_tenant(tenant).get().last_position


def load(*records):
    """Loads the records in one batch."""
    result = bulk.load_batch([bulk.line_of(interchange.record(each)) for each in records])
    assert result.rejections == []
    return result


# --- What takes a position ----------------------------------------------------------------------------------------


def test_every_public_event_takes_the_next_one_of_its_tenant(acme, globex, job):
    other, foreign = ledger.open_job(acme, "restart"), ledger.open_job(globex, "MODEL_GENERATOR")
    assert (last_position(acme), last_position(globex)) == (0, 0)
    for each in (job, other, foreign, job):
        ledger.append(each, "started" if each is other else "stage", hostname="web-1" if each is other else None)
    event = ledger.finish(job)
    assert positions(job) == [1, 3, 4]
    assert positions(other) == [2]
    assert positions(foreign) == [1]
    assert event.position == 4 == last_position(acme)
    assert counts_of(acme) == true_counts(acme)


def test_an_internal_event_takes_none_unless_it_changes_the_status(acme, job):
    ledger.note(job, "taken by a worker")  # from NOT_STARTED to IN_PROGRESS
    assert last_position(acme) == 1
    ledger.note(job, "billed")
    ledger.append(job, "stage")
    ledger.note(job, "billed again")
    assert positions(job) == [None, None, 2, None]
    assert last_position(acme) == 2


def test_an_attached_artifact_takes_one_that_no_event_has(acme, job):
    ledger.append(job, "stage")
    ledger.attach(job, [RENDER, RENDER])
    ledger.attach(job, [])
    ledger.append(job, "stage")
    assert positions(job) == [1, 3]


def test_a_repair_takes_one_that_no_event_has(acme, job):
    ledger.append(job, "stage")
    Job.all_tenants.update(status="NOT_STARTED")
    JobCounts.all_tenants.update(in_progress=0, not_started=1)
    assert "1 job checked, 1 repaired" in backfill_status()
    assert last_position(acme) == 2
    ledger.append(job, "stage")
    assert positions(job) == [1, 3]


def test_a_refused_change_takes_none(acme, job):
    ledger.finish(job)
    for refused in (lambda: ledger.append(job, "stage"), lambda: ledger.attach(job, [RENDER | {"role": "last"}])):
        with pytest.raises(ledger.LedgerError):
            refused()
    assert last_position(acme) == 1


@pytest.mark.parametrize(
    ("call", "statements"),
    [
        (lambda acme, job: ledger.open_job(acme, "restart"), 2),
        (lambda acme, job: ledger.append(job, "stage"), 4),
        (lambda acme, job: ledger.note(job, "billed"), 3),
        (lambda acme, job: ledger.finish(job, artifacts=[RENDER]), 6),
        (lambda acme, job: ledger.attach(job, [RENDER]), 6),
    ],
)
def test_counts_and_position_are_one_statement_of_few(acme, job, call, statements):
    ledger.append(job, "stage")
    with CaptureQueriesContext(connection) as queries:
        call(acme, job)
    sent = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]
    assert len(sent) == statements, sent


# --- Changes of several jobs --------------------------------------------------------------------------------------


def test_events_of_a_group_have_positions_of_their_tenants(acme, globex, job):
    foreign = ledger.open_job(globex, "MODEL_GENERATOR")
    with ledger.together(job, foreign):
        ledger.append(job, "stage")
        ledger.append(foreign, "stage")
        opened = ledger.open_job(acme, "BACKGROUND_GENERATOR")
        ledger.append(opened, "stage")
        ledger.note(opened, "billed")
        ledger.attach(job, [RENDER])
        ledger.finish(job)
    assert (positions(job), positions(opened), positions(foreign)) == ([1, 4], [2, None], [1])
    assert (last_position(acme), last_position(globex)) == (4, 1)
    ledger.append(opened, "stage")
    assert positions(opened) == [2, None, 5]
    for tenant in (acme, globex):
        assert counts_of(tenant) == true_counts(tenant)


def test_what_a_part_of_a_group_took_back_leaves_a_hole(acme, job):
    with ledger.together(job):
        with pytest.raises(RuntimeError, match="changed my mind"), transaction.atomic():  # noqa: PT012 - all of it
            ledger.finish(job)
            raise RuntimeError("changed my mind")
        ledger.append(job, "stage")
    assert positions(job) == [2]
    assert last_position(acme) == 2


def test_a_tenant_of_a_job_that_is_opened_in_a_group_is_named(acme, globex, job):
    with pytest.raises(ledger.NotNamed, match="tenants="), ledger.together(job):
        ledger.open_job(globex, "MODEL_GENERATOR")
    with ledger.together(job, tenants=[globex]):
        opened = ledger.open_job(globex, "MODEL_GENERATOR")
        ledger.append(opened, "stage")
    with ledger.together(tenants=[acme, globex]):
        ledger.append(ledger.open_job(acme, "MODEL_GENERATOR"), "stage")
        ledger.append(ledger.open_job(globex, "MODEL_GENERATOR"), "stage")
    assert (last_position(acme), last_position(globex)) == (1, 2)
    for tenant in (acme, globex):
        assert counts_of(tenant) == true_counts(tenant)


def test_a_group_within_a_group_is_a_part_of_it(acme, globex, job):
    other = ledger.open_job(acme, "MODEL_GENERATOR")
    with ledger.together(job, other):
        with ledger.together(job):
            ledger.finish(job)
        ledger.finish(other)
    assert counts_of(acme) == {"success": 2} == true_counts(acme)
    assert last_position(acme) == 2
    with ledger.together(job):
        with pytest.raises(ledger.NotNamed), ledger.together(other):
            pass
        with pytest.raises(ledger.NotNamed), ledger.together(tenants=[globex]):
            pass


@committing
def test_a_callers_transaction_changes_one_job_or_names_them_together(acme, globex, job):
    other, foreign = ledger.open_job(acme, "MODEL_GENERATOR"), ledger.open_job(globex, "MODEL_GENERATOR")
    with transaction.atomic():
        ledger.append(job, "stage")
        ledger.append(job, "stage")
        ledger.attach(str(job.pk), [RENDER])
        opened = ledger.open_job(acme, "MODEL_GENERATOR")
        ledger.append(opened, "stage")
        for late in (
            lambda: ledger.append(other, "stage"),
            lambda: ledger.note(other, "billed"),
            lambda: ledger.attach(other, [RENDER]),
            lambda: ledger.append(foreign, "stage"),
        ):
            with pytest.raises(ledger.NotNamed, match=r"already changed another job .* together\(\)"):
                late()
        with pytest.raises(ledger.NotNamed, match="another tenant"):
            ledger.open_job(globex, "MODEL_GENERATOR")
        with pytest.raises(ledger.NotNamed), ledger.together(job, other):
            pass
        with ledger.together(job, opened):
            ledger.finish(opened)
            ledger.finish(job)
    with transaction.atomic():
        ledger.append(other, "stage")  # in another transaction
        with pytest.raises(ledger.NotNamed):
            ledger.append(foreign, "stage")
    with transaction.atomic(), ledger.together(other, foreign):
        ledger.append(foreign, "stage")
        ledger.append(other, "stage")
    with transaction.atomic():
        with ledger.together(other):
            ledger.append(other, "stage")
        with pytest.raises(ledger.NotNamed):
            ledger.append(foreign, "stage")
    assert [positions(each) for each in (job, other, opened, foreign)] == [[1, 2, 6], [7, 8, 9], [4, 5], [1]]


@committing
def test_what_a_transaction_took_back_does_not_count_as_changed(job, acme):
    other = ledger.open_job(acme, "MODEL_GENERATOR")

    def append_and_fail():
        with transaction.atomic():
            ledger.append(job, "stage")
            raise RuntimeError("changed my mind")

    with transaction.atomic():
        with pytest.raises(RuntimeError):
            append_and_fail()
        ledger.append(other, "stage")
    with pytest.raises(RuntimeError):
        append_and_fail()
    with transaction.atomic():
        ledger.append(other, "stage")
    assert (positions(job), positions(other)) == ([], [1, 2])


def test_the_transaction_of_a_test_is_not_the_callers(job, acme):
    other = ledger.open_job(acme, "MODEL_GENERATOR")

    @transaction.atomic
    def append_in_a_transaction(each):
        ledger.append(each, "stage")

    append_in_a_transaction(job)
    append_in_a_transaction(other)
    ledger.append(job, "stage")
    with transaction.atomic():
        ledger.append(other, "stage")
        with pytest.raises(ledger.NotNamed):
            ledger.append(job, "stage")
    assert (positions(job), positions(other)) == ([1, 3], [2, 4])


# --- Locks --------------------------------------------------------------------------------------------------------


@contextmanager
def open_transaction(change):
    """Another connection has run ``change`` in a transaction, which is open within the block and then committed."""
    ready, end = Event(), Event()

    def hold():
        try:
            with transaction.atomic():
                change()
                ready.set()
                assert end.wait(60)
        finally:
            ready.set()
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        assert ready.wait(30)
        try:
            yield
        finally:
            end.set()
            held.result()


def in_thread(pool, change):
    def run():
        try:
            return change()
        finally:
            connection.close()

    return pool.submit(run)


def lock_timeout():
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        return cursor.fetchone()[0]


def wait_until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waits_for_a_lock():
    """Whether some connection of this database waits for a lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # a transaction keeps what it has read of other ones
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return cursor.fetchone()[0]


@pytest.mark.postgresql
@committing
def test_a_call_waits_for_the_counter_within_its_bound_and_restores_the_timeout(acme, job, settings):
    other, noted = (ledger.open_job(acme, "MODEL_GENERATOR") for _ in range(2))
    ledger.append(noted, "stage")
    settings.LEDGER_LOCK_SECONDS = 0.2
    busy = (
        lambda: ledger.append(other, "stage"),
        lambda: ledger.open_job(acme, "MODEL_GENERATOR"),
        lambda: ledger.attach(other, [RENDER]),
        lambda: ledger.together(other).__enter__(),
    )
    with open_transaction(lambda: ledger.append(job, "stage")):
        for call in busy:
            began = time.monotonic()
            with pytest.raises(ledger.LedgerBusy, match="transactions"):
                call()
            assert 0.15 < time.monotonic() - began < 5
            assert lock_timeout() == "0"
        ledger.note(noted, "takes no position")
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '7s'")
            with pytest.raises(ledger.LedgerBusy):
                ledger.append(other, "stage")
            assert lock_timeout() == "7s"
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '7s'")
        ledger.append(other, "stage")
        assert lock_timeout() == "7s"
    assert lock_timeout() == "0"
    assert (positions(job), positions(other)) == ([2], [3])
    assert counts_of(acme) == true_counts(acme)


@pytest.mark.sqlite
@committing
def test_a_writer_that_holds_sqlite_for_too_long_makes_calls_fail_as_busy(acme, job):
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 100")
    with open_transaction(lambda: ledger.append(job, "stage")):
        for call in (
            lambda: ledger.append(job, "stage"),
            lambda: ledger.open_job(acme, "MODEL_GENERATOR"),
            lambda: ledger.together(job).__enter__(),
        ):
            with pytest.raises(ledger.LedgerBusy):
                call()
    ledger.append(job, "stage")
    assert positions(job) == [1, 2]
    connection.close()  # with its timeout


@pytest.mark.postgresql
@committing
def test_a_call_is_repeated_after_a_deadlock_unless_the_caller_has_a_transaction(acme, job, postgresql_server):
    postgresql_server.psql("GRANT SET ON PARAMETER deadlock_timeout TO gateway")

    def lock_counter_then_job():
        """In the wrong order. It looks for a deadlock so late that the call does, and is cancelled."""
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL deadlock_timeout = '60s'")
            list(JobCounts.objects.for_tenant(acme).select_for_update())
            counter_locked.set()
            wait_until(waits_for_a_lock)
            list(Job.all_tenants.filter(pk=job.pk).select_for_update())

    def append_in_a_transaction():
        with transaction.atomic():
            ledger.append(job, "stage", "joined")

    with ThreadPoolExecutor(2) as pool:
        for change in (lambda: ledger.append(job, "stage", artifacts=iter([RENDER])), append_in_a_transaction):
            counter_locked = Event()
            other = in_thread(pool, lock_counter_then_job)
            assert counter_locked.wait(30)
            if change is append_in_a_transaction:
                with pytest.raises(OperationalError, match="deadlock detected"):
                    change()
            else:
                change()
            other.result()
    assert positions(job) == [1]
    assert Artifact.all_tenants.count() == 1


# --- The bulk loader ----------------------------------------------------------------------------------------------


def test_loaded_public_events_take_positions_in_the_order_of_their_job(acme, globex, job_of):
    internal = [
        each | {"visibility": "internal"} if each["seq"] == 2 else each
        for each in record(acme, None, "queued", "stage", "stage")["events"]
    ]
    first, second, foreign = (
        record(acme, None),
        record(acme, None, "queued", "succeeded"),
        record(globex, None, "stage"),
    )
    first["events"] = internal
    first["public_id"], second["public_id"] = sorted([first["public_id"], second["public_id"]])
    load(second, first, foreign)
    assert [positions(each["public_id"]) for each in (first, second, foreign)] == [[1, None, 2], [3, 4], [1]]
    assert (last_position(acme), last_position(globex)) == (4, 1)

    assert load(first, second).unchanged == 2
    assert last_position(acme) == 4
    first["events"] = [*internal, internal[1] | {"seq": 4}]  # internal, and the status stays
    load(first)
    assert last_position(acme) == 4
    first["artifacts"] = [RENDER]
    load(first)
    assert last_position(acme) == 5
    first["events"] = [*first["events"], internal[0] | {"seq": 5, "event_type": "failed"}]
    load(first, record(acme, None))
    assert positions(first["public_id"]) == [1, None, 2, None, 6]
    assert last_position(acme) == 6
    event = ledger.append(job_of(acme), "stage")
    assert event.position == 7


def test_a_loaded_status_without_a_public_event_takes_a_position_that_no_event_has(acme):
    loaded = record(acme)
    load(loaded)
    assert JobCounts.objects.for_tenant(acme).get().last_position == 0
    loaded["events"] = [event | {"visibility": "internal"} for event in record(acme, None, "stage")["events"]]
    load(loaded)
    assert (positions(loaded["public_id"]), last_position(acme)) == ([None], 1)


def test_internal_events_of_a_tenant_without_counts_are_loaded(acme):
    loaded = record(acme, None, "stage")
    loaded["events"][0]["visibility"] = "internal"
    load(loaded)
    JobCounts.all_tenants.all().delete()
    loaded["events"].append(loaded["events"][0] | {"seq": 2})
    load(loaded)
    assert positions(loaded["public_id"]) == [None, None]


def test_the_loader_takes_the_counters_once_and_last(acme, globex):
    def several():
        with_artifacts = record(acme, None, "queued", "stage")
        with_artifacts["artifacts"] = [RENDER]
        return [with_artifacts, *(record(tenant, None, "queued", "succeeded") for tenant in (globex, acme) * 5)]

    with CaptureQueriesContext(connection) as queries:
        load(*several())
    sent = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]
    counters = [number for number, sql in enumerate(sent) if sql.startswith("INSERT INTO jobs_jobcounts")]
    assert len(counters) == 2
    after = [sql.split(" (")[0] for sql in sent[counters[0] :]]
    assert after == ["INSERT INTO jobs_jobcounts"] * 2 + ["INSERT INTO jobs_jobevent", "DROP TABLE incoming"]


@pytest.mark.postgresql
@committing
def test_other_writers_of_the_tenant_do_not_wait_while_rows_are_copied(acme, job):
    loaded = record(acme, None, "queued", "succeeded")
    loaded["artifacts"] = [RENDER]

    def stop_artifacts():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs_artifact IN SHARE ROW EXCLUSIVE MODE")

    with ThreadPoolExecutor(1) as pool:
        with open_transaction(stop_artifacts):
            loading = in_thread(pool, lambda: load(loaded))
            wait_until(waits_for_a_lock)
            assert ledger.append(job, "stage").position == 1
        assert loading.result().loaded == 1
    assert positions(loaded["public_id"]) == [2, 3]


# --- What readers see ---------------------------------------------------------------------------------------------


class RolledBack(Exception):
    pass


def write(tenants, shared, number, rounds):
    """Appends public and internal events, alone, in transactions that stay open, and together over two tenants.

    Every fifth transaction is rolled back. Returns the number of public events that were committed, by tenant.
    """
    chance = random.Random(number)
    committed = dict.fromkeys(tenants, 0)

    def append(job):
        visibility = chance.choice(["public", "public", "public", "internal"])
        ledger.append(job, "stage", visibility=visibility)
        appended[job.tenant] += visibility == "public"

    for _ in range(rounds):
        appended = dict.fromkeys(tenants, 0)
        try:
            with transaction.atomic():
                if chance.random() < 0.3:
                    with ledger.together(*shared):
                        for job in chance.sample(shared, len(shared)):
                            append(job)
                else:
                    job = (
                        chance.choice(shared)
                        if chance.random() < 0.2
                        else ledger.open_job(tenants[0], "MODEL_GENERATOR")
                    )
                    for _ in range(chance.choice([1, 1, 3])):
                        append(job)
                time.sleep(chance.choice([0, 0, 0.01, 0.03]))
                if chance.random() < 0.2:
                    raise RolledBack
        except RolledBack:
            continue
        for tenant, events in appended.items():
            committed[tenant] += events
    return committed


def follow(tenant, number, written):
    """The ids of the tenant's events, in the order in which a reader by position was given them."""
    chance = random.Random(number)
    given, last = [], 0
    while True:
        last_round = written.is_set()
        rows = JobEvent.objects.for_tenant(tenant).filter(position__gt=last).order_by("position")
        while page := list(rows.filter(position__gt=last).values_list("position", "pk")[: chance.choice([1, 7, 100])]):
            given += [pk for _, pk in page]
            last = page[-1][0]
        if last_round:
            return given
        time.sleep(0.005)


def load_in_batches(tenant, batches):
    for _ in range(batches):
        load(*(record(tenant, None, "queued", "stage", "succeeded") for _ in range(20)))


@committing
@pytest.mark.parametrize(
    ("writers", "rounds"),
    [
        pytest.param(2, 15, marks=pytest.mark.sqlite),
        pytest.param(4, 12, marks=pytest.mark.postgresql),
        pytest.param(8, 20, marks=[pytest.mark.postgresql, pytest.mark.full]),
    ],
)
def test_a_reader_that_continues_after_a_position_misses_no_event(acme, globex, writers, rounds):
    shared = [ledger.open_job(tenant, "MODEL_GENERATOR") for tenant in (acme, globex)]
    written = Event()
    with ThreadPoolExecutor(writers + 5) as pool:
        readers = [
            (tenant, in_thread(pool, lambda tenant=tenant, number=number: follow(tenant, number, written)))
            for number, tenant in enumerate((acme, acme, globex, globex))
        ]
        writing = [
            in_thread(pool, lambda number=number: write((acme, globex), shared, number, rounds))
            for number in range(writers)
        ]
        loading = in_thread(pool, lambda: load_in_batches(acme, 5))
        try:
            committed = [each.result() for each in writing]
            loading.result()
        finally:
            written.set()
        for tenant, reader in readers:
            events = JobEvent.objects.for_tenant(tenant).filter(visibility="public").order_by("position")
            assert reader.result() == list(events.values_list("pk", flat=True))
            number = sum(each[tenant] for each in committed) + (300 if tenant == acme else 0)
            assert events.count() == number == events.filter(position__isnull=False).count()
    assert not JobEvent.all_tenants.filter(visibility="internal", position__isnull=False).exists()
    assert backfill_status(dry_run=True).endswith(" 0 differ\n")


# --- Commands -----------------------------------------------------------------------------------------------------


def test_removed_jobs_leave_the_others_in_order(acme, globex, job):
    other, foreign = ledger.open_job(acme, "MODEL_GENERATOR"), ledger.open_job(globex, "MODEL_GENERATOR")
    for each in (job, other, foreign, job, other):
        ledger.append(each, "stage")
    remove(Job.all_tenants.filter(pk=other.pk))
    assert positions(job) == [1, 3]
    assert ledger.append(job, "stage").position == 6  # the removal took one, which wakes who waits for the job
    erase_tenant(acme)
    assert ledger.append(foreign, "stage").position == 2


def test_an_export_that_is_loaded_again_differs_in_positions_alone(acme, job):
    ledger.append(job, "stage")
    ledger.attach(job, [RENDER])
    ledger.finish(job)
    before = exported()
    remove(Job.all_tenants.order_by("pk"))
    bulk.load_batch([bulk.line_of(interchange.parse(line)) for line in before.splitlines()])
    assert exported() == before
    assert positions(job) == [5, 6]  # the removal took 4


def test_backfill_status_raises_a_counter_below_its_events(acme, job):
    for _ in range(3):
        ledger.append(job, "stage")
    JobCounts.all_tenants.update(last_position=1)
    assert backfill_status(dry_run=True) == (
        "1 job checked, 0 differ\nacme: last position is 1, but an event has 3\n"
        "0 jobs and the counts of 1 tenant differ from the events.\n"
    )
    assert last_position(acme) == 1
    assert backfill_status() == "1 job checked, 0 repaired\nacme: last position is 1, but an event has 3\n"
    assert ledger.append(job, "stage").position == 4
    JobCounts.all_tenants.all().delete()
    backfill_status()
    assert last_position(acme) == 4
    assert counts.drift(acme.pk) == {}


def test_backfill_status_reports_positions_that_it_cannot_repair(acme, globex, job):
    for _ in range(2):
        ledger.append(job, "stage")
    JobEvent.all_tenants.filter(seq=1).update(position=7)
    JobCounts.all_tenants.update(last_position=7)
    wrong = "Positions are wrong in 1 job and 0 tenants. They cannot be repaired: clients"
    for dry_run in (True, False):
        said = backfill_status(dry_run=dry_run)
        assert f"{job.pk}: positions do not ascend with seq\n" in said
        assert wrong in said
    with connection.cursor() as cursor:
        cursor.execute("DROP INDEX event_position")
    JobEvent.all_tenants.update(position=2)
    said = backfill_status()
    assert "acme: position 2 belongs to several events\n" in said
    assert "wrong in 1 job and 1 tenant." in said


# --- The migration ------------------------------------------------------------------------------------------------


def test_events_from_before_positions_have_none_and_the_migration_can_be_repeated(new_store, tmp_path):
    store = new_store("acme")
    source = tmp_path / "jobs.ndjson"
    source.write_bytes(LINE)
    store.run_all(
        ["backfill_jobs", source],
        ["migrate", "jobs", "0010", "--verbosity=0"],
        ["migrate", "jobs", "0011", "--verbosity=0"],
    )
    # Interrupted: the index exists, and on PostgreSQL it is not valid, but the migration is not recorded.
    index, *given = store.python("-c", INTERRUPTED_BUILD + MIGRATE + POSITIONS).stdout.decode().split()
    assert index == ("invalid" if connection.vendor == "postgresql" else "valid")
    assert given == ["None", "None", "1"]


LINE = (
    b'{"public_id": "01JADE5XAMPK9M0Q7RS3T4V5W6", "tenant": "acme", "job_type": "MODEL_GENERATOR", '
    b'"created_at": "2026-04-15T12:00:00Z", "events": ['
    b'{"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z"}, '
    b'{"seq": 2, "event_type": "stage", "created_at": "2026-04-15T12:00:01Z"}]}'
)


INTERRUPTED_BUILD = """
import django
django.setup()
from django.db import IntegrityError, connection
from jobs.models import JobEvent

create = "CREATE UNIQUE INDEX{} event_position ON jobs_jobevent (tenant_id, position) WHERE position IS NOT NULL"
with connection.cursor() as cursor:
    if connection.vendor == "sqlite":
        cursor.execute(create.format(""))
        print("valid")
    else:
        JobEvent.all_tenants.update(position=1)
        try:
            cursor.execute(create.format(" CONCURRENTLY"))
        except IntegrityError:
            cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'event_position'::regclass")
            print("valid" if cursor.fetchone()[0] else "invalid")
        JobEvent.all_tenants.update(position=None)
"""
MIGRATE = """
from django.core.management import call_command

call_command("migrate", verbosity=0)
"""
POSITIONS = """
from jobs.ingest import ledger

ledger.append("01JADE5XAMPK9M0Q7RS3T4V5W6", "stage")
print(*JobEvent.all_tenants.order_by("seq").values_list("position", flat=True))
try:
    JobEvent.all_tenants.update(position=1)
except IntegrityError:
    pass
else:
    raise AssertionError("the index is not unique")
"""
