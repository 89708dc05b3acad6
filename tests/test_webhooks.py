"""Webhooks: each event is delivered, signed, in order within its job, through whatever receivers do."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from aiohttp import web
from django.db import OperationalError, connections, transaction
from django.utils import timezone
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from jobs.database import readers
from jobs.ingest import bulk, ledger
from jobs.models import JobCounts, JobEvent
from jobs.webhooks import delivery, endpoints, leases, sender, worker
from jobs.webhooks.models import Attempt, BlockedJob, DeliveryWorker, Endpoint, Redelivery
from jobs.webhooks.worker import Worker
from tests.receivers import (
    accepting,
    answering,
    closing_early,
    dripping,
    failing_first,
    hanging,
    receiving,
    until,
)

pytestmark = pytest.mark.django_db(transaction=True)

PICTURE: ledger.NewArtifact = {"storage_key": "tenants/acme/front.png", "kind": "on_model_render", "role": "final"}
NO_TIME = (0.05,) * 9  # between attempts


@pytest.fixture(autouse=True)
def trial(monkeypatch, settings):
    """The workers of these tests read on connections of their own, may send to this machine, and retry soon."""
    settings.WEBHOOK_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8")]
    monkeypatch.setattr(readers, "readers", {})
    monkeypatch.setattr(delivery, "RETRY_SECONDS", NO_TIME)
    monkeypatch.setattr(worker, "REFRESH_SECONDS", 0.05)


@pytest.fixture
def job(acme):
    return ledger.open_job(acme, "MODEL_GENERATOR")


@asynccontextmanager
async def working(number=1):
    """``number`` workers, which end with the block."""
    workers = [Worker() for _ in range(number)]
    tasks = [asyncio.create_task(each.run()) for each in workers]
    try:
        yield workers
    finally:
        for each in workers:
            each.stop()
        await asyncio.gather(*tasks)


def closing(function):
    """``function``, whose thread has no connection afterwards."""

    def call(*args, **options):
        try:
            return function(*args, **options)
        finally:
            connections.close_all()

    return call


async def write(function, *args, **options):
    """Runs what writes to the store in a thread of its own."""
    return await asyncio.to_thread(closing(function), *args, **options)


def public_ids(tenant):
    rows = JobEvent.objects.for_tenant(tenant).filter(position__isnull=False).order_by("position")
    return [f"{job}-{seq}" for job, seq in rows.values_list("job_id", "seq")]


def seqs(receiver):
    return [each.seq for each in receiver.accepted]


def deliver(scenario, **receivers):
    """Runs ``scenario(*receivers)`` on an event loop, with a receiver for each behaviour."""

    async def main():
        async with receiving_all(list(receivers.values())) as found:
            await scenario(*found)

    asyncio.run(main())


@asynccontextmanager
async def receiving_all(behaviours):
    if not behaviours:
        yield []
        return
    async with receiving(behaviours[0]) as first, receiving_all(behaviours[1:]) as others:
        yield [first, *others]


# --- What is delivered ---


def test_an_event_is_delivered_as_the_feed_has_it_and_signed(acme, acme_client, local_store):
    async def scenario(receiver):
        _, secret = await write(endpoints.create, acme, receiver.url)
        job = await write(ledger.open_job, acme, "MODEL_GENERATOR")
        await write(ledger.append, job, "stage", "at s3://bucket/key", stage="render")
        await write(ledger.note, job, "billed")
        await write(ledger.finish, job, "Done", artifacts=[PICTURE])
        async with working():
            await until(lambda: len(receiver.accepted) == 2)
        first, last = receiver.accepted
        assert (first.id, last.id) == (f"{job}-1", f"{job}-3")
        for each in (first, last):
            assert Webhook(secret).verify(each.body, each.headers) == each.json
            assert each.headers["content-type"] == "application/json"
            with pytest.raises(WebhookVerificationError):
                Webhook(secret).verify(each.body + b" ", each.headers)
        assert first.json["data"]["event"]["message"] == "at [redacted]"
        assert first.json["timestamp"] == first.json["data"]["event"]["created_at"]
        assert "result" not in first.json["data"]
        assert last.json["type"] == "job.succeeded"
        [picture] = last.json["data"]["result"]
        assert picture == last.json["data"]["event"]["artifacts"][0]
        assert "signature=" in picture["image_url"]
        received.extend(receiver.accepted)
        assert await write(lambda: Endpoint.objects.get().position) == 2, "an internal event has no position"
        assert not await write(BlockedJob.objects.exists)

    received = []
    deliver(scenario, receiver=accepting)
    feed = acme_client.get("/v1/events").json()["events"]
    told = [each.json["data"] for each in received]
    for event, pushed in zip(feed, told, strict=True):
        pushed.pop("result", None)
        links = [artifact.pop("image_url") for each in (event, pushed) for artifact in each["event"]["artifacts"]]
        assert len(links) in (0, 2)
        event.pop("job"), pushed.pop("job")
        assert pushed == event


def test_only_the_types_that_an_endpoint_chose_are_delivered(acme, job):
    async def scenario(all_types, some):
        await write(endpoints.create, acme, all_types.url)
        await write(endpoints.create, acme, some.url, ["succeeded", "queued"])
        for event_type in ("queued", "stage", "stage", "succeeded"):
            await write(ledger.append, job, event_type)
        async with working():
            await until(lambda: (len(all_types.accepted), len(some.accepted)) == (4, 2))
        assert seqs(some) == [1, 4]
        positions = await write(lambda: set(Endpoint.objects.values_list("position", flat=True)))
        assert positions == {4}

    deliver(scenario, all_types=accepting, some=accepting)


def test_nothing_of_another_tenant_is_delivered_and_nothing_internal(acme, globex, job):
    async def scenario(ours, theirs):
        await write(endpoints.create, acme, ours.url)
        await write(endpoints.create, globex, theirs.url)
        foreign = await write(ledger.open_job, globex, "MODEL_GENERATOR")
        for each in (job, foreign, job):
            await write(ledger.append, each, "stage")
            await write(ledger.note, each, "internal")
        async with working():
            await until(lambda: (len(ours.accepted), len(theirs.accepted)) == (2, 1))
        assert {each.job for each in ours.accepted} == {str(job.pk)}
        assert {each.job for each in theirs.accepted} == {str(foreign.pk)}

    deliver(scenario, ours=accepting, theirs=accepting)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True, databases=["default", "api"])
def test_events_are_read_by_the_role_that_row_security_binds(api_role, acme, globex, local_store):
    async def scenario(ours, theirs):
        jobs = {}
        for tenant, receiver in ((acme, ours), (globex, theirs)):
            await write(endpoints.create, tenant, receiver.url)
            jobs[tenant] = await write(ledger.open_job, tenant, "MODEL_GENERATOR")
            picture = PICTURE | {"storage_key": f"tenants/{tenant.slug}/front.png"}
            await write(ledger.finish, jobs[tenant], "Done", artifacts=[picture])
        async with working():
            await until(lambda: ours.accepted and theirs.accepted)
        for tenant, receiver in ((acme, ours), (globex, theirs)):
            [received] = receiver.accepted
            assert received.job == str(jobs[tenant].pk)
            assert len(received.json["data"]["result"]) == 1

    deliver(scenario, ours=accepting, theirs=accepting)


@pytest.mark.parametrize("how", ["ledger", "loader"])
def test_events_from_more_than_a_day_ago_are_not_pushed(acme, job, how):
    """That is decided when they are recorded, not when they are delivered."""
    now = datetime.now(UTC)
    times = [now - timedelta(hours=hours) for hours in (25, 23, 0)]

    def record():
        if how == "ledger":
            for at in times:
                ledger.append(job, "stage", created_at=at)
        else:
            members = [
                {"seq": seq, "event_type": "stage", "created_at": at.isoformat()} for seq, at in enumerate(times, 1)
            ]
            bulk.load_record(
                {
                    "public_id": "01KP8E2NH03CBABD5WQDK6ZHC2",
                    "tenant": "acme",
                    "job_type": "MODEL_GENERATOR",
                    "created_at": times[0].isoformat(),
                    "events": members,
                }
            )

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        await write(record)
        # The worker was down meanwhile: what was recent when it was recorded is delivered however late.
        await write(lambda: JobEvent.all_tenants.filter(seq=2).update(created_at=now - timedelta(days=9)))
        async with working():
            await until(lambda: len(receiver.accepted) == 2)
            assert seqs(receiver) == [2, 3]

    deliver(scenario, receiver=accepting)


def test_an_endpoint_begins_with_what_happens_after_it_was_made(acme, job):
    async def scenario(receiver):
        await write(ledger.append, job, "queued")
        await write(endpoints.create, acme, receiver.url)
        async with working():
            await write(ledger.append, job, "stage")
            await until(lambda: receiver.accepted)
        assert seqs(receiver) == [2]

    deliver(scenario, receiver=accepting)


# --- Order, retries, giving up ---


@pytest.mark.parametrize("behaviour", [answering(500), answering(302, Location="/other"), closing_early])
def test_a_job_waits_for_its_failed_event_and_other_jobs_do_not(acme, job, behaviour):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        other = await write(ledger.open_job, acme, "MODEL_GENERATOR")
        for each in (job, job, job, other, other):
            await write(ledger.append, each, "stage")
        async with working():
            await until(lambda: len(receiver.accepted) == 5)
            # A worker that stops before it has the answer rightly leaves a row.
            await until_async(lambda: not BlockedJob.objects.exists())
        assert receiver.order() == {str(job.pk): [1, 2, 3], str(other.pk): [1, 2]}
        assert receiver.doubles() == 0
        tried = [each.id for each in receiver.received]
        assert tried.count(f"{job}-2") == 4
        assert tried.index(f"{other}-2") < max(n for n, each in enumerate(tried) if each == f"{job}-2")
        assert not await write(BlockedJob.objects.exists)
        assert await write(lambda: Endpoint.objects.get().position) == 5

    deliver(scenario, receiver=failing_first(3, behaviour, only="-2"))


def test_events_that_come_while_a_job_waits_follow_in_order(acme, job, monkeypatch):
    monkeypatch.setattr(delivery, "RETRY_SECONDS", (0.5,) * 9)

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        async with working():
            await write(ledger.append, job, "queued")
            await until(lambda: receiver.received)
            for _ in range(20):
                await write(ledger.append, job, "stage")
            await until(lambda: len(receiver.accepted) == 21)
        assert receiver.order() == {str(job.pk): list(range(1, 22))}

    deliver(scenario, receiver=failing_first(2, only="-1"))


def test_an_event_is_given_up_after_ten_attempts_and_the_next_one_goes(acme, job, caplog):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        for _ in range(3):
            await write(ledger.append, job, "stage")
        async with working():
            await until(lambda: len(receiver.accepted) == 2)
        assert seqs(receiver) == [1, 3]
        assert [each.seq for each in receiver.received].count(2) == 10
        outcomes = await write(lambda: list(Attempt.objects.order_by("pk").values_list("seq", "number", "outcome")))
        assert outcomes == [
            (1, 1, "delivered"),
            *((2, number, "failed") for number in range(1, 10)),
            (2, 10, "given up"),
            (3, 1, "delivered"),
        ]

    deliver(scenario, receiver=failing_first(99, only="-2"))
    assert f"Event {job}-2 of tenant acme was given up after 10 attempts" in caplog.text


def test_the_times_between_attempts_are_those_of_the_contract():
    from importlib import reload

    hours = [seconds / 3600 for seconds in reload(delivery).RETRY_SECONDS]
    assert [hours[0] * 3600, hours[1] * 60, hours[2] * 60, *hours[3:]] == [5, 5, 30, 2, 5, 10, 14, 20, 24]
    assert delivery.RETRY_JITTER == 0.2
    assert (leases.LEASE_SECONDS, sender.ATTEMPT_SECONDS, delivery.DISABLED_AFTER_SECONDS) == (20, 15, 5 * 86_400)


def test_retry_after_holds_the_whole_endpoint(acme, job):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        await write(ledger.append, job, "queued")
        async with working():
            await until(lambda: receiver.received)
            began = asyncio.get_running_loop().time()
            other = await write(ledger.open_job, acme, "MODEL_GENERATOR")
            await write(ledger.append, other, "queued")
            await until(lambda: len(receiver.accepted) == 2)
            assert asyncio.get_running_loop().time() - began > 1.5
        assert len(receiver.received) == 3

    deliver(scenario, receiver=failing_first(1, answering(429, Retry_After="2"), only=f"{job}-1"))


def test_410_disables_and_what_waits_is_delivered_when_it_is_enabled_again(acme, job, caplog):
    async def scenario(receiver):
        endpoint, _ = await write(endpoints.create, acme, receiver.url)
        for _ in range(3):
            await write(ledger.append, job, "stage")
        async with working():
            await until(lambda: "is disabled" in caplog.text)
            await until_async(lambda: not Endpoint.objects.get().is_enabled)
            assert len(receiver.received) == 1
            row = await write(Endpoint.objects.get)
            assert row.disabled_reason == "The receiver answered 410: it wants no more events."
            await write(ledger.append, job, "stage")
            receiver.behaviour = accepting
            await write(endpoints.enable, endpoint, from_now=False)
            await until(lambda: len(receiver.accepted) == 4)
        assert seqs(receiver) == [1, 2, 3, 4]

    deliver(scenario, receiver=answering(410))
    assert f"of tenant {acme.slug} is disabled. The receiver answered 410" in caplog.text


def test_an_endpoint_can_be_enabled_from_now_on(acme, job):
    async def scenario(receiver):
        endpoint, _ = await write(endpoints.create, acme, receiver.url)
        await write(ledger.append, job, "stage")
        async with working():
            await until_async(lambda: not Endpoint.objects.get().is_enabled)
            await write(ledger.append, job, "stage")
            receiver.behaviour = accepting
            await write(endpoints.enable, endpoint, from_now=True)
            await write(ledger.append, job, "stage")
            await until(lambda: receiver.accepted)
        assert seqs(receiver) == [3]

    deliver(scenario, receiver=answering(410))


def test_what_is_under_way_when_it_is_enabled_from_now_on_brings_nothing_back(acme, job, monkeypatch):
    monkeypatch.setattr(worker, "RENEW_SECONDS", 0.0)
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 2.0)
    monkeypatch.setattr(delivery, "SLOW_SECONDS", 0.2)

    async def scenario(receiver):
        endpoint, _ = await write(endpoints.create, acme, receiver.url)
        for _ in range(3):
            await write(ledger.append, job, "stage")
        async with working():
            await until(lambda: receiver.open_requests == 1)
            await write(endpoints.disable, endpoint, "by hand")
            await asyncio.sleep(0.5)  # the worker ends its delivery, and waits for the answer
            receiver.behaviour = accepting
            await write(endpoints.enable, endpoint, from_now=True)
            await asyncio.sleep(2.5)  # the answer has come by now, or its time is over
            await write(ledger.append, job, "stage")
            await until(lambda: receiver.accepted)
            await until_async(lambda: Endpoint.objects.get().position == 4)
        assert seqs(receiver) == [4]
        assert not await write(BlockedJob.objects.exists)

    deliver(scenario, receiver=hanging)


@pytest.mark.parametrize("what", ["the last", "all"])
def test_events_at_positions_that_a_failover_has_lost_are_delivered(acme, job, what):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        await write(ledger.append, job, "stage")
        lost = await write(ledger.open_job, acme, "MODEL_GENERATOR")
        await write(ledger.append, lost, "stage")
        async with working():
            await until_async(lambda: Endpoint.objects.get().position == 2)

            def lose():  # as a standby does that lacks the last commits; the worker may write its position after that
                lost.delete()
                if what == "the last":
                    JobCounts.objects.for_tenant(acme).update(last_position=1)
                else:
                    job.delete()
                    JobCounts.objects.for_tenant(acme).delete()

            await write(lose)
            await asyncio.sleep(1)  # as a promotion takes
            new = await write(ledger.open_job, acme, "MODEL_GENERATOR")
            await write(ledger.append, new, "stage")
            await until(lambda: str(new.pk) in receiver.order())
            newest = 2 if what == "the last" else 1
            await until_async(lambda: Endpoint.objects.get().position == newest)

    deliver(scenario, receiver=accepting)


def test_what_waits_when_the_store_goes_back_is_delivered(acme, job, monkeypatch):
    """An event that failed, one under way, and one that was read and not sent: all from before that place."""
    monkeypatch.setattr(delivery, "RETRY_SECONDS", (3.0,) * 9)
    monkeypatch.setattr(delivery, "SLOW_SECONDS", 3_600.0)
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 2.0)

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        nonlocal held
        held = await write(ledger.open_job, acme, "MODEL_GENERATOR")
        for each in (job, held, held):  # the second of held waits for its first
            await write(ledger.append, each, "stage")
        lost = await write(ledger.open_job, acme, "MODEL_GENERATOR")
        await write(ledger.append, lost, "stage")
        async with working() as [one]:
            await until(lambda: receiver.open_requests == 1 and str(lost.pk) in receiver.order())
            await until_async(BlockedJob.objects.exists)

            def lose():
                lost.delete()
                JobCounts.objects.for_tenant(acme).update(last_position=3)

            await write(lose)
            await until(lambda: not one.deliveries)  # it ends, and waits for the request under way
            receiver.behaviour = accepting
            await until(lambda: receiver.order().get(str(held.pk)) == [1, 2] and receiver.order().get(str(job.pk)))
            await until_async(lambda: Endpoint.objects.get().position == 3 and not BlockedJob.objects.exists())

    async def behaviour(receiver, request, received):
        if received.job == str(job.pk):
            return web.Response(status=500)
        return await (hanging if received.job == str(held.pk) else accepting)(receiver, request, received)

    held = job
    deliver(scenario, receiver=behaviour)


def test_an_endpoint_that_is_added_while_positions_are_read_begins_where_it_was(acme, globex, job, monkeypatch, caplog):
    last_positions = worker.last_positions
    asked = []

    async def slowly(tenants):
        asked.append(set(tenants))
        found = await last_positions(tenants)
        await asyncio.sleep(0.3)  # meanwhile the worker takes the other endpoint
        return found

    monkeypatch.setattr(worker, "last_positions", slowly)
    monkeypatch.setattr(worker, "RENEW_SECONDS", 0.0)

    async def scenario(receiver):
        for _ in range(3):
            await write(ledger.append, job, "stage")
        await write(endpoints.create, globex, receiver.url)
        async with working() as [one]:
            await until(lambda: asked)
            created, _ = await write(endpoints.create, acme, receiver.url)
            await until(lambda: {acme.pk, globex.pk} in asked)
            await asyncio.sleep(1)
            assert created.pk in one.deliveries
            assert (await write(Endpoint.objects.get, pk=created.pk)).position == 3

    deliver(scenario, receiver=accepting)
    assert "lost events" not in caplog.text


def test_a_change_whose_commit_had_no_answer_is_written_once_more(acme, job, monkeypatch):
    record = leases.record

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        await write(ledger.append, job, "stage")

        def without_answer(*args):
            monkeypatch.setattr(leases, "record", record)
            record(*args)
            raise OperationalError("the connection was lost")

        monkeypatch.setattr(leases, "record", without_answer)
        async with working():
            await until_async(Attempt.objects.exists)
            await write(ledger.append, job, "stage")
            await until_async(lambda: Endpoint.objects.get().position == 2)

    deliver(scenario, receiver=accepting)


def test_what_a_failover_has_lost_of_the_workers_own_writes_is_written_again(acme, job, monkeypatch):
    monkeypatch.setattr(delivery, "RETRY_SECONDS", (3_600.0,) * 9)
    refresh = leases.refresh

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        await write(ledger.append, job, "stage")
        async with working():
            await until_async(BlockedJob.objects.exists)
            await write(lambda: BlockedJob.objects.all().delete())

            def fails_once(*args):
                monkeypatch.setattr(leases, "refresh", refresh)
                raise OperationalError("the server is shutting down")

            monkeypatch.setattr(leases, "refresh", fails_once)
            await until_async(BlockedJob.objects.exists)
        assert await write(lambda: BlockedJob.objects.get().attempts) == 1

    deliver(scenario, receiver=answering(500))


@pytest.mark.parametrize(
    "retry_after",
    [
        "Wed, 21 Oct 2026 07:28:00 +99999999999999999999",
        f"Wed, 21 Oct {'9' * 20} 07:28:00 GMT",
        "9" * 5_000,
        "soon",
        "",
    ],
)
def test_a_retry_after_that_is_no_time_is_a_failed_attempt_like_others(acme, job, retry_after):
    async def unavailable_once(receiver, request, received):
        receiver.behaviour = accepting
        return web.Response(status=503, headers={"Retry-After": retry_after})

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        await write(ledger.append, job, "stage")
        async with working():
            await until_async(Attempt.objects.exists)
            await write(lambda: Endpoint.objects.update(paused_until=None))
        outcomes = await write(lambda: list(Attempt.objects.order_by("pk").values_list("status", flat=True)))
        assert outcomes[0] == 503

    deliver(scenario, receiver=unavailable_once)


@pytest.mark.postgresql
def test_an_endpoint_is_deleted_while_a_worker_writes_to_its_log(acme, job):
    async def scenario(receiver):
        endpoint, _ = await write(endpoints.create, acme, receiver.url)
        async with working() as [one]:
            await until(lambda: one.deliveries)

            def delete_while_it_writes():
                attempt = Attempt(endpoint_id=endpoint.pk, at=timezone.now(), number=1, duration_ms=1)
                with ThreadPoolExecutor(1) as threads:
                    with transaction.atomic():
                        leases.record(one.name, [leases.Change(endpoint.pk, attempts=[attempt])])  # it has the row now
                        deleted = threads.submit(closing(endpoints.delete), endpoint)
                        with suppress(FutureTimeout):
                            deleted.result(0.5)
                    deleted.result(30)

            await write(delete_while_it_writes)
        assert not await write(Endpoint.objects.exists)
        assert not await write(Attempt.objects.exists)

    deliver(scenario, receiver=accepting)


def test_redeliveries_of_one_endpoint_keep_none_of_another_from_being_seen(acme, globex, job):
    one, _ = endpoints.create(acme, "https://one.example/")
    other, _ = endpoints.create(globex, "https://other.example/")
    for seq in range(1, 300):
        endpoints.redeliver(one, job.pk, seq)
    endpoints.redeliver(other, job.pk, 1)
    found = leases.refresh("a worker", set(), renew=True).redeliveries
    assert {endpoint for _, endpoint, _, _ in found} == {one.pk, other.pk}
    assert [seq for _, endpoint, _, seq in found if endpoint == one.pk] == [*range(1, 101)]


def test_five_days_of_failures_disable(acme, job):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        long_ago = timezone.now() - timedelta(days=5)
        await write(lambda: Endpoint.objects.update(failing_since=long_ago))
        await write(ledger.append, job, "stage")
        async with working():
            await until_async(lambda: not Endpoint.objects.get().is_enabled)
        row = await write(Endpoint.objects.get)
        assert row.disabled_reason == "Every attempt failed for five days."
        assert row.failing_since == long_ago

    deliver(scenario, receiver=answering(500))


def test_a_success_ends_the_failures(acme, job):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        await write(lambda: Endpoint.objects.update(failing_since=timezone.now() - timedelta(days=4)))
        await write(ledger.append, job, "stage")
        async with working():
            await until(lambda: receiver.accepted)
        row = await write(Endpoint.objects.get)
        assert row.failing_since is None
        assert row.last_success_at is not None

    deliver(scenario, receiver=accepting)


async def until_async(condition):
    """As ``until``, of a condition that reads the database."""
    async with asyncio.timeout(60):
        while not await write(condition):
            await asyncio.sleep(0.02)


# --- Slow receivers ---


def test_a_hanging_event_delays_no_other_job_and_the_position_moves_on(acme, job, monkeypatch):
    monkeypatch.setattr(delivery, "SLOW_SECONDS", 0.2)

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        others = [await write(ledger.open_job, acme, "MODEL_GENERATOR") for _ in range(3)]
        for each in (job, *others, job, *others):
            await write(ledger.append, each, "stage")
        async with working() as [one]:
            await until(lambda: len(receiver.accepted) == 6)
            # On a machine that stalls others have a row for a moment too.
            await until_async(lambda: Endpoint.objects.get().position == 8 and BlockedJob.objects.count() == 1)
            row = await write(BlockedJob.objects.get)
            assert (row.job, row.next_seq, row.attempts) == (job.pk, 1, 0)
            release.set()
            await until(lambda: len(receiver.accepted) == 8)
            await until_async(lambda: not BlockedJob.objects.exists())
            assert one.deliveries
        assert receiver.order()[str(job.pk)] == [1, 2]
        assert receiver.doubles() == 0

    release = asyncio.Event()

    async def hold_one(receiver, request, received):
        if received.id == f"{job}-1":
            await release.wait()
        return await accepting(receiver, request, received)

    deliver(scenario, receiver=hold_one)


def test_what_has_no_answer_when_a_worker_dies_is_sent_again(acme, job, monkeypatch):
    """The position never passes an event without an answer, unless its job has a row."""
    monkeypatch.setattr(delivery, "SLOW_SECONDS", 3_600)

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        other = await write(ledger.open_job, acme, "MODEL_GENERATOR")
        for each in (other, job, other, other):
            await write(ledger.append, each, "stage")
        dying = asyncio.create_task(Worker().run())
        await until(lambda: len(receiver.accepted) == 3 and receiver.open_requests == 1)
        await until_async(lambda: Attempt.objects.count() == 3)
        assert await write(lambda: Endpoint.objects.get().position) == 1
        assert not await write(BlockedJob.objects.exists)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        await write(lambda: Endpoint.objects.update(lease_until=timezone.now() - timedelta(seconds=1)))
        receiver.behaviour = accepting
        async with working():
            await until(lambda: str(job.pk) in receiver.order())
            await until_async(lambda: Endpoint.objects.get().position == 4)
        assert receiver.order() == {str(other.pk): [1, 2, 3, 2, 3], str(job.pk): [1]}

    async def hold_one(receiver, request, received):
        return await (hanging if received.job == str(job.pk) else accepting)(receiver, request, received)

    deliver(scenario, receiver=hold_one)


def test_many_events_of_one_slow_job_delay_no_other(acme, job, monkeypatch):
    monkeypatch.setattr(delivery, "WINDOW", 10)

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        other = await write(ledger.open_job, acme, "MODEL_GENERATOR")
        for each in (*[job] * 30, other):
            await write(ledger.append, each, "stage")
        async with working():
            await until(lambda: str(other.pk) in receiver.order())
            assert len(receiver.order().get(str(job.pk), [])) < 30
            await until(lambda: len(receiver.accepted) == 31)
        assert receiver.order()[str(job.pk)] == list(range(1, 31))

    async def slowly(receiver, request, received):
        await asyncio.sleep(0.03 if received.job == str(job.pk) else 0)
        return await accepting(receiver, request, received)

    deliver(scenario, receiver=slowly)


def test_an_endpoint_has_so_many_requests_at_a_time(acme, settings):
    settings.WEBHOOK_REQUESTS_PER_ENDPOINT = 4

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        for _ in range(12):
            await write(lambda: ledger.append(ledger.open_job(acme, "MODEL_GENERATOR"), "stage"))
        async with working():
            await until(lambda: receiver.open_requests == 4)
            release.set()
            await until(lambda: len(receiver.accepted) == 12)
        assert receiver.most_requests == 4

    release = asyncio.Event()

    async def hold(receiver, request, received):
        await release.wait()
        return await accepting(receiver, request, received)

    deliver(scenario, receiver=hold)


def test_an_attempt_is_over_after_its_time(acme, job, monkeypatch):
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 0.3)

    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        await write(ledger.append, job, "stage")
        async with working():
            await until(lambda: receiver.accepted)
        failed = await write(lambda: Attempt.objects.filter(outcome="failed").values_list("error", flat=True)[0])
        assert failed == "no answer within 0.3 seconds"

    deliver(scenario, receiver=failing_first(1, hanging))


@pytest.mark.filterwarnings("ignore:Sending a large body")  # larger than any real one, for the buffers of this machine
def test_a_receiver_that_never_reads_keeps_no_connection(monkeypatch):
    """What it has not taken when the attempt ends, it never gets."""
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 0.3)
    body = b"x" * 20_000_000

    async def scenario():
        connected = asyncio.get_running_loop().create_future()

        async def hold(reader, writer):
            writer.transport.pause_reading()
            connected.set_result((reader, writer))

        async with await asyncio.start_server(hold, "127.0.0.1", 0) as server, sender.Sender() as sending:
            port = server.sockets[0].getsockname()[1]
            answer = await sending.post(f"http://127.0.0.1:{port}/", body, {})
            assert answer.error == "no answer within 0.3 seconds"
            reader, writer = await connected
            writer.transport.resume_reading()
            received = 0
            with suppress(ConnectionError):
                while chunk := await reader.read(1_000_000):
                    received += len(chunk)
            assert received < len(body)
            writer.close()

    asyncio.run(scenario())


def test_a_body_that_never_ends_is_read_for_a_kilobyte_or_a_second(acme, job, monkeypatch):
    monkeypatch.setattr(sender, "ANSWER_SECONDS", 0.2)

    async def long_answer(receiver, request, received):
        return web.Response(text="é" * 3_000_000)

    async def scenario(drips, long):
        for receiver in (drips, long):
            await write(endpoints.create, acme, receiver.url)
        await write(ledger.append, job, "stage")
        async with working():
            await until_async(lambda: Attempt.objects.count() == 2)
        answers = await write(lambda: {each.endpoint.url: each for each in Attempt.objects.select_related("endpoint")})
        assert {each.outcome for each in answers.values()} == {"delivered"}
        assert set(answers[drips.url].answer) == {"."}
        assert answers[long.url].answer == "é" * 512

    deliver(scenario, drips=dripping, long=long_answer)


# --- Workers ---


def test_two_workers_share_the_endpoints_and_take_over(acme, job, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 0.5)
    monkeypatch.setattr(worker, "MARGIN_SECONDS", 0.1)
    monkeypatch.setattr(worker, "RENEW_SECONDS", 0.1)

    async def scenario(receiver):
        for _ in range(4):
            await write(endpoints.create, acme, receiver.url)
        async with working() as [first]:
            await until(lambda: len(first.deliveries) == 4)
            async with working() as [second]:
                await until(lambda: (len(first.deliveries), len(second.deliveries)) == (2, 2))
                await write(ledger.append, job, "stage")
                await until(lambda: len(receiver.accepted) == 4)
            await until(lambda: len(first.deliveries) == 4)
            await write(ledger.append, job, "stage")
            await until(lambda: len(receiver.accepted) == 8)
            # The worker has written all answers. Without this the next worker would rightly send again.
            await until_async(lambda: Endpoint.objects.filter(position=2).count() == 4)
            # One that died holds its lease for a while.
            later = timezone.now() + timedelta(seconds=1)
            await write(lambda: Endpoint.objects.update(lease_owner="dead", lease_until=later))
            await until(lambda: not first.deliveries)
            await until(lambda: len(first.deliveries) == 4)
        assert receiver.doubles() == 6, "each event four times, once an endpoint"
        assert not await write(DeliveryWorker.objects.exists)
        assert await write(lambda: set(Endpoint.objects.values_list("lease_owner", flat=True))) == {""}

    deliver(scenario, receiver=accepting)


def test_a_worker_that_stops_leaves_nothing_to_be_sent_twice(acme):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        jobs = [await write(ledger.open_job, acme, "MODEL_GENERATOR") for _ in range(4)]
        for job in jobs:
            for _ in range(10):
                await write(ledger.append, job, "stage")
        for expected in (5, 15, 30):
            async with working():
                await until(lambda expected=expected: len(receiver.accepted) >= expected)
        async with working():
            await until(lambda: len(receiver.accepted) == 40)
            await until_async(lambda: not BlockedJob.objects.exists())
        assert receiver.order() == {str(job.pk): list(range(1, 11)) for job in jobs}

    async def slowly(receiver, request, received):
        await asyncio.sleep(0.01)
        return await accepting(receiver, request, received)

    deliver(scenario, receiver=slowly)


def test_a_worker_without_its_lease_sends_nothing_and_writes_nothing(acme, job):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        async with working() as [one]:
            await until(lambda: one.deliveries)
            one._leased_until = 0.0  # as after a halt of the process
            one._renewed_at = float("inf")
            await write(ledger.append, job, "stage")
            await asyncio.sleep(0.5)
            assert receiver.received == []
            taken = timezone.now() + timedelta(hours=1)
            await write(lambda: Endpoint.objects.update(lease_owner="another", lease_until=taken, position=77))
            changed = leases.Change(await write(lambda: Endpoint.objects.get().pk), {"position": 1})
            assert await write(leases.record, one.name, [changed]) == {changed.endpoint}
        row = await write(Endpoint.objects.get)
        assert (row.position, row.lease_owner) == (77, "another")

    deliver(scenario, receiver=accepting)


def test_a_deactivated_tenant_gets_nothing_until_it_is_active_again(acme, job):
    async def scenario(receiver):
        await write(endpoints.create, acme, receiver.url)
        async with working() as [one]:
            await until(lambda: one.deliveries)
            await write(lambda: type(acme).objects.update(is_active=False))
            await until(lambda: not one.deliveries)
            await write(ledger.append, job, "stage")
            await write(lambda: type(acme).objects.update(is_active=True))
            await until(lambda: receiver.accepted)

    deliver(scenario, receiver=accepting)


# --- Secrets ---


def test_after_a_rotation_both_secrets_sign_until_the_old_one_expires(acme, job):
    async def scenario(receiver):
        endpoint, old = await write(endpoints.create, acme, receiver.url)
        new = await write(endpoints.rotate_secret, endpoint)
        await write(ledger.append, job, "stage")
        async with working():
            await until(lambda: receiver.accepted)
            expired = timezone.now() - timedelta(seconds=1)
            await write(lambda: endpoint.secrets.exclude(expires_at=None).update(expires_at=expired))
            await asyncio.sleep(0.5)
            await write(ledger.append, job, "stage")
            await until(lambda: len(receiver.accepted) == 2)
        first, second = receiver.accepted
        for secret in (old, new):
            Webhook(secret).verify(first.body, first.headers)
        Webhook(new).verify(second.body, second.headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(old).verify(second.body, second.headers)

    deliver(scenario, receiver=accepting)


def test_secrets_are_encrypted_and_follow_a_change_of_the_key(acme, job, settings, caplog):
    async def scenario(receiver):
        endpoint, secret = await write(endpoints.create, acme, receiver.url)
        stored = await write(lambda: endpoint.secrets.get().encrypted)
        assert secret not in stored
        before, settings.SECRET_KEY = settings.SECRET_KEY, "another" * 8
        await write(ledger.append, job, "stage")
        async with working():
            await until(lambda: "cannot be decrypted" in caplog.text)
            assert receiver.received == []
        settings.SECRET_KEY_FALLBACKS = [before]
        async with working():
            await until(lambda: receiver.accepted)
        settings.SECRET_KEY_FALLBACKS = []
        await write(ledger.append, job, "stage")
        async with working():
            await until(lambda: len(receiver.accepted) == 2)
        Webhook(secret).verify(receiver.accepted[1].body, receiver.accepted[1].headers)

    deliver(scenario, receiver=accepting)


def test_no_secret_signature_link_or_url_is_logged(acme, job, local_store, caplog, monkeypatch):
    caplog.set_level("DEBUG", "jobs")
    monkeypatch.setattr(delivery, "RETRY_SECONDS", (0.05,) * 2)

    async def scenario(receiver, gone):
        secrets = [(await write(endpoints.create, acme, f"{each.url}?token=mine"))[1] for each in (receiver, gone)]
        await write(ledger.append, job, "stage", artifacts=[PICTURE])
        async with working():
            await until(lambda: "was given up" in caplog.text)
            await until(lambda: "is disabled" in caplog.text)
        signatures = [each.headers["webhook-signature"].removeprefix("v1,") for each in receiver.received]
        links = [each.json["data"]["event"]["artifacts"][0]["image_url"] for each in receiver.received]
        for text in (*secrets, *signatures, *links, "token=mine", "127.0.0.1"):
            assert text.removeprefix("whsec_") not in caplog.text

    deliver(scenario, receiver=answering(500), gone=answering(410))


# --- Redelivery and the log ---


def test_one_event_is_redelivered_and_all_that_failed(acme, job):
    async def scenario(receiver):
        endpoint, _ = await write(endpoints.create, acme, receiver.url)
        for _ in range(4):
            await write(ledger.append, job, "stage")
        async with working():
            await until_async(lambda: Attempt.objects.filter(outcome="given up").count() == 2)
            await until(lambda: len(receiver.accepted) == 2)
            receiver.behaviour = accepting
            await write(endpoints.redeliver, endpoint, job.pk, 1)
            await until(lambda: len(receiver.accepted) == 3)
            hour_ago = timezone.now() - timedelta(hours=1)
            await until_async(lambda: not Redelivery.objects.exists())
            assert await write(endpoints.redeliver_failed, endpoint, hour_ago) == 2
            await until(lambda: len(receiver.accepted) == 5)
            await until_async(lambda: not Redelivery.objects.exists())
            assert await write(endpoints.redeliver_failed, endpoint, hour_ago) == 0
        assert seqs(receiver)[2:3] == [1]
        assert sorted(seqs(receiver)[3:]) == [2, 4]

    async def some(receiver, request, received):
        return await answering(204 if received.seq in (1, 3) else 500)(receiver, request, received)

    deliver(scenario, receiver=some)


def test_redelivery_of_an_event_that_waits_is_its_next_attempt(acme, job, monkeypatch):
    monkeypatch.setattr(delivery, "RETRY_SECONDS", (3_600,) * 9)

    async def scenario(receiver):
        endpoint, _ = await write(endpoints.create, acme, receiver.url)
        for _ in range(2):
            await write(ledger.append, job, "stage")
        async with working():
            await until_async(BlockedJob.objects.filter(attempts=1).exists)
            assert await write(endpoints.redeliver_failed, endpoint, timezone.now() - timedelta(hours=1)) == 1
            await until(lambda: len(receiver.accepted) == 2)
        assert seqs(receiver) == [1, 2]
        assert not await write(Redelivery.objects.exists)

    deliver(scenario, receiver=failing_first(1, only="-1"))


def test_the_log_keeps_the_last_attempts_of_seven_days(acme, monkeypatch):
    monkeypatch.setattr(leases, "KEPT_ATTEMPTS", 3)
    endpoint, _ = endpoints.create(acme, "https://receiver.example/")
    for days in (9, 8, 0, 0, 6, 0):
        Attempt.objects.create(
            endpoint=endpoint,
            at=timezone.now() - timedelta(days=days),
            event_type="job.stage",
            number=1,
            outcome="failed",
            duration_ms=days,
        )
    leases.trim_attempts(endpoint.pk)
    assert list(Attempt.objects.order_by("pk").values_list("duration_ms", flat=True)) == [0, 6, 0]
    monkeypatch.setattr(leases, "KEPT_ATTEMPTS", 1_000)
    Attempt.objects.update(at=timezone.now() - timedelta(days=8))
    leases.trim_attempts(endpoint.pk)
    assert not Attempt.objects.exists()
