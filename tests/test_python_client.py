"""The Python client against a real gateway, behind a proxy that fails: every event once and in order."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing, closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import jobs_gateway_client as sdk
import pytest
from django.db import transaction
from httpx_sse import ServerSentEvent
from jobs_gateway_client.cli import plain
from jobs_gateway_client.following import Following, JobSource
from jobs_gateway_client.policy import Retries
from jobs_gateway_client.requests import Requests
from ulid import ULID

from jobs.ingest import ledger, removal
from jobs.models import Job, JobCounts, JobEvent
from tests.faulty_proxy import PASS, Fault, FaultyProxy, ProxiedRequest, faulty_proxy
from tests.gateway import Gateway, database_of_this_test, serving
from tests.servers import free_ports, temporary_folder
from tests.signed_webhooks import signed_webhook

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.full_on_postgresql]

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "clients" / "python"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400
# Short pauses, so that a test of many failures is quick. What a slow machine needs is long.
QUICK = sdk.Policy(backoff_seconds=0.05, max_backoff_seconds=0.2, fallback_seconds=0.5, wait_seconds=1, retries=20)
LONGEST_SECONDS = 120


class Blocking:
    """Runs operations with ``Client``."""

    @staticmethod
    def items(url: str, token: str, call: Callable[..., Any], number: int | None = None, **options: Any) -> list[Any]:
        with sdk.Client(url, token, **options) as client, closing(call(client)) as found:
            return list(itertools.islice(found, number))

    @staticmethod
    def result(url: str, token: str, call: Callable[..., Any], **options: Any) -> Any:
        with sdk.Client(url, token, **options) as client:
            return call(client)

    @staticmethod
    def download(url: str, token: str, public_id: str, folder: Path, before: Any = None, **options: Any) -> list[Path]:
        with sdk.Client(url, token, **options) as client:
            shown = pictures_of(client.jobs.get(public_id), before)
            return [picture.download(folder / f"{n}.png") for n, picture in enumerate(shown)]


class Asynchronous:
    """Runs operations with ``AsyncClient``."""

    @staticmethod
    def items(url: str, token: str, call: Callable[..., Any], number: int | None = None, **options: Any) -> list[Any]:
        async def run() -> list[Any]:
            found: list[Any] = []
            async with sdk.AsyncClient(url, token, **options) as client, aclosing(call(client)) as items:
                async for item in items:
                    found.append(item)
                    if len(found) == number:
                        break
            return found

        return asyncio.run(run())

    @staticmethod
    def result(url: str, token: str, call: Callable[..., Any], **options: Any) -> Any:
        async def run() -> Any:
            async with sdk.AsyncClient(url, token, **options) as client:
                return await call(client)

        return asyncio.run(run())

    @staticmethod
    def download(url: str, token: str, public_id: str, folder: Path, before: Any = None, **options: Any) -> list[Path]:
        async def run() -> list[Path]:
            async with sdk.AsyncClient(url, token, **options) as client:
                shown = pictures_of(await client.jobs.get(public_id), before)
                return [await picture.download(folder / f"{n}.png") for n, picture in enumerate(shown)]

        return asyncio.run(run())


def pictures_of(job: Any, before: Callable[[Any], Any] | None) -> Any:
    """The pictures of a job; ``before`` chooses them, and does what is to happen before they are downloaded."""
    return before(job) if before else job.result


@pytest.fixture(scope="module")
def artifacts() -> Iterator[Path]:
    with temporary_folder("jgw-artifacts-") as folder:
        yield folder


@pytest.fixture(scope="module")
def gateway(django_db_setup: None, artifacts: Path) -> Iterator[Gateway]:
    """One for all tests: it reads what each of them has committed. Its links expire in 6 seconds."""
    environment = {"STREAMS_PER_TENANT": "6", "PRESIGN_TTL_SECONDS": "6", "ARTIFACTS_DIR": str(artifacts)}
    with serving(database_of_this_test(), 1, **environment) as served:
        yield served


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[FaultyProxy]:
    with faulty_proxy(gateway.port) as started:
        yield started


@pytest.fixture(params=[Blocking, Asynchronous])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def job(acme):
    return ledger.open_job(acme, "MODEL_GENERATOR")


@contextmanager
def beside() -> Iterator[Callable[..., Future[Any]]]:
    """Runs functions in threads, while the test writes. A test that fails does not wait for them."""

    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - as an executor does it
                future.set_exception(error)

        Thread(target=work, daemon=True).start()
        return future

    yield run


def done(future: Future[Any]) -> Any:
    return future.result(LONGEST_SECONDS)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_status(gateway: Gateway, target: str, status: int) -> bool:
    return gateway.get(target).status == status


def finished_with_pictures(artifacts: Path, acme: Any, number: int = 2) -> Any:
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    keys = [f"{acme.storage_prefix}{job.pk}/{n}.png" for n in range(number)]
    for key in keys:
        path = artifacts / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)
    drawn: Any = [{"storage_key": key, "kind": "on_model_render", "role": "final", "label": "front"} for key in keys]
    ledger.finish(job, "Done", artifacts=drawn)
    return job


# --- Lists and single jobs --------------------------------------------------------------------------------------------


def test_the_models_are_those_of_the_gateways_document():
    command = [Path(sys.executable).with_name("datamodel-codegen"), "--check"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # for ruff, which formats what is compared
    checked = subprocess.run(command, cwd=CLIENT, env={"PATH": path}, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, f"make client-models writes them anew.\n{checked.stdout}{checked.stderr}"


def test_a_list_has_the_jobs_of_all_pages(kind, proxy, acme, acme_token, job_of):
    jobs = [str(job_of(acme).public_id) for _ in range(5)]
    job_of(acme, job_type="BACKGROUND_GENERATOR")
    call = lambda client: client.jobs.list(job_type="MODEL_GENERATOR", page_size=2)  # noqa: E731
    found = kind.items(proxy.url, acme_token, call)
    assert [each.public_id for each in found] == jobs[::-1]
    assert len(proxy.requests) == 3
    body = httpx.get(f"{proxy.url}/v1/jobs?job_type=MODEL_GENERATOR", headers=bearer(acme_token)).json()
    assert plain(found) == body["jobs"]


def test_every_filter_of_a_list_is_sent(kind, proxy, acme, acme_token, job_of):
    kinds = ["MODEL_GENERATOR", "BACKGROUND_GENERATOR"]
    jobs = [job_of(acme, job_type=name) for name in (*kinds, "MODEL_SWAP_WITH_IMAGE")]
    filters = {"job_type": kinds, "status": "NOT_STARTED", "created_after": jobs[0].created_at}
    found = kind.items(proxy.url, acme_token, lambda client: client.jobs.list(**filters))
    assert [each.public_id for each in found] == [str(jobs[1].public_id)]
    assert (
        kind.items(proxy.url, acme_token, lambda client: client.jobs.list(updated_after="2100-01-01T00:00:00Z")) == []
    )


def test_a_time_without_offset_is_refused(kind, proxy, acme_token, job):
    with pytest.raises(ValueError, match="no time zone"):
        kind.items(
            proxy.url, acme_token, lambda client: client.jobs.list(created_after=job.created_at.replace(tzinfo=None))
        )


def test_a_job_is_as_the_gateway_shows_it(kind, proxy, artifacts, acme, acme_token):
    job = finished_with_pictures(artifacts, acme)
    found = kind.result(proxy.url, acme_token, lambda client: client.jobs.get(str(job.pk)))
    body = httpx.get(f"{proxy.url}/v1/jobs/{job.pk}", headers=bearer(acme_token)).json()
    assert without_signatures(plain(found)) == without_signatures(body)
    assert found.is_over


def test_the_fleet_list_has_the_jobs_of_all_pages(kind, proxy, acme, acme_token, job_of):
    jobs = [job_of(acme).public_id for _ in range(101)]
    found = kind.items(proxy.url, acme_token, lambda client: client.fleet.list())
    assert [each.id for each in found] == [str(job.to_uuid()) for job in jobs[::-1]]
    body = httpx.get(f"{proxy.url}/job?limit=1", headers=bearer(acme_token)).json()
    shown = plain(found[0])
    assert {name: shown[name] for name in body["items"][0]} == body["items"][0]
    assert kind.items(proxy.url, acme_token, lambda client: client.fleet.list(status="failed")) == []


def test_no_job_of_the_fleet_is_left_out_when_others_enter_and_leave_the_list(proxy, acme, acme_token, job_of):
    jobs = [job_of(acme) for _ in range(250)][::-1]
    with sdk.Client(proxy.url, acme_token) as client:
        items = client.fleet.list(status="submitted")
        found = [next(items).id]
        for job in jobs[:150]:
            ledger.finish(job, "Done")
        found += [next(items).id for _ in range(120)]
        new = [job_of(acme) for _ in range(101)]
        found += [item.id for item in items]
    assert len(found) == len(set(found))
    assert {str(job.pk.to_uuid()) for job in jobs[150:]} <= set(found)
    assert not {str(job.pk.to_uuid()) for job in new} & set(found)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def without_signatures(value: Any) -> Any:
    return json.loads(json.dumps(value), object_hook=lambda each: each | {k: "" for k in each if k == "image_url"})


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_errors_have_a_type_a_code_a_detail_and_the_request_id(kind, proxy, acme_token):
    with pytest.raises(sdk.NotFoundError) as missing:
        kind.result(proxy.url, acme_token, lambda client: client.jobs.get(str(ULID())))
    assert (missing.value.status, missing.value.code) == (404, "JOB_NOT_FOUND")
    assert missing.value.detail.startswith("No job with this id")
    assert missing.value.request_id
    with pytest.raises(sdk.AuthenticationError, match="UNAUTHENTICATED"):
        kind.result(proxy.url, "jgw_wrong", lambda client: client.jobs.get(str(ULID())))
    with pytest.raises(sdk.InvalidParameterError, match="limit: Input should be") as invalid:
        kind.items(proxy.url, acme_token, lambda client: client.jobs.list(page_size=1000, status="x"))
    assert [each["loc"] for each in invalid.value.problems] == [["query", "status"], ["query", "limit"]]
    with pytest.raises(sdk.InvalidParameterError, match="status"):
        kind.items(proxy.url, acme_token, lambda client: client.fleet.list(status="x"))
    assert len(proxy.requests) == 4, "none of them is repeated"


def test_429_503_and_lost_connections_are_repeated_not_before_retry_after(kind, proxy, acme_token, job):
    faults = [Fault(429, {"Retry-After": "1"}), Fault(503), Fault(cut_after_bytes=0), Fault(cut_after_bytes=300), PASS]
    proxy.plan = lambda request: faults[len(proxy.requests) - 1]
    found = kind.result(proxy.url, acme_token, lambda client: client.jobs.get(str(job.pk)), policy=QUICK)
    assert found.public_id == str(job.pk)
    assert len(proxy.requests) == len(faults)
    assert proxy.requests[1].at - proxy.requests[0].at >= 1


def test_what_goes_on_failing_is_raised(kind, proxy, acme_token, job):
    policy = sdk.Policy(retries=2, backoff_seconds=0.01)
    get = lambda client: client.jobs.get(str(job.pk))  # noqa: E731
    proxy.plan = lambda request: Fault(503)
    with pytest.raises(sdk.UnavailableError, match="HTTP_503"):
        kind.result(proxy.url, acme_token, get, policy=policy)
    assert len(proxy.requests) == 3
    proxy.plan = lambda request: Fault(429, {"Retry-After": "3600"})
    with pytest.raises(sdk.RateLimitedError) as limited:
        kind.result(proxy.url, acme_token, get, policy=policy)
    assert limited.value.retry_after_seconds == 3600
    assert len(proxy.requests) == 4
    (closed,) = free_ports(1)
    with pytest.raises(sdk.ConnectionFailedError, match="ConnectError"):
        kind.result(f"http://127.0.0.1:{closed}", acme_token, get, policy=policy)


def test_a_redirect_is_not_followed_with_the_token(kind, proxy, acme_token, job):
    with faulty_proxy(proxy.upstream_port) as elsewhere:
        proxy.plan = lambda request: Fault(307, {"Location": f"{elsewhere.url}{request.target}"})
        with pytest.raises(sdk.ApiError, match="Redirects are not followed"):
            kind.result(proxy.url, acme_token, lambda client: client.jobs.get(str(job.pk)))
        assert elsewhere.requests == []


def test_the_token_comes_from_the_environment_unless_given(gateway, acme_token, job, monkeypatch):
    url = f"http://127.0.0.1:{gateway.port}"
    monkeypatch.setenv("JOBS_GATEWAY_TOKEN", acme_token)
    assert Blocking.result(url, None, lambda client: client.jobs.get(str(job.pk))).status == "NOT_STARTED"
    monkeypatch.delenv("JOBS_GATEWAY_TOKEN")
    for client in (sdk.Client, sdk.AsyncClient):
        with pytest.raises(ValueError, match="JOBS_GATEWAY_TOKEN"):
            client(url)
        with pytest.raises(ValueError, match="https://"):
            client("jobs.example.com", "token")


def test_a_client_of_the_caller_is_used_and_stays_open(gateway, acme_token, job):
    url = f"http://127.0.0.1:{gateway.port}"
    sent: list[str] = []
    hooks = {"request": [lambda request: sent.append(request.url.path)]}
    with httpx.Client(event_hooks=hooks) as http:
        for _ in range(2):
            Blocking.result(url, acme_token, lambda client: client.jobs.get(str(job.pk)), http=http)
    assert sent == [f"/v1/jobs/{job.pk}"] * 2


def test_pauses_grow_at_random_up_to_their_limit():
    retries = Retries(sdk.Policy(retries=100, backoff_seconds=1, max_backoff_seconds=8))
    delays = [retries.delay(sdk.ConnectionFailedError()) for _ in range(100)]
    assert all(0 <= delay <= min(8, 2**number) for number, delay in enumerate(delays))
    assert max(delays) > 4
    assert len(set(delays)) > 90


# --- Following --------------------------------------------------------------------------------------------------------


@pytest.fixture
def followed():
    """Of no gateway in particular: its steps are taken by the test."""
    requests = Requests("http://127.0.0.1:1", "jgw_a_b", sdk.Policy(follow_retry_seconds=0.05))
    return Following(requests, JobSource("01KP8E2NH03CBABD5WQDK6ZHC2", 0, lambda artifact: artifact))


def opened(followed):
    """The steps of a stream that has opened, at the question for its first event."""
    steps = followed._read_stream("0")
    request = next(steps).request
    steps.send(httpx.Response(200, headers={"Content-Type": "text/event-stream"}, request=request))
    return steps


def test_a_stream_without_an_event_ends_a_run_of_failures(followed):
    followed._retries.delay(sdk.ConnectionFailedError())
    time.sleep(0.1)  # longer than it goes on without a response
    steps = opened(followed)
    with pytest.raises(StopIteration):
        steps.send(None)
    assert followed._retries.delay(sdk.ConnectionFailedError()) >= 0


def test_an_event_that_cannot_be_read_is_asked_for_no_longer_than_any_failure_lasts(followed):
    followed._retries.delay(sdk.ConnectionFailedError())
    time.sleep(0.1)
    steps = opened(followed)
    with pytest.raises(sdk.UnexpectedResponseError) as failure:
        steps.send(ServerSentEvent(data='{"seq": "one"}', id="1"))
    with pytest.raises(sdk.UnexpectedResponseError):
        followed._retries.delay(failure.value)


@pytest.mark.parametrize(("failure", "streams_again"), [(httpx.ConnectError, True), (httpx.ReadTimeout, False)])
def test_after_a_connection_that_was_refused_a_stream_is_tried_again_at_once(followed, failure, streams_again):
    steps = followed._open_stream("0")
    request = next(steps).request
    with pytest.raises(sdk.ConnectionFailedError):
        steps.throw(failure("no", request=request))
    assert followed._modes.may_stream == streams_again


def messages(events: list[Any]) -> list[str]:
    return [each.message for each in events]


def write_events(job: Any, number: int, pause: Callable[[int], None] = lambda n: None) -> list[str]:
    """Appends so many events, the last of which ends the job, and returns their messages."""
    for n in range(1, number):
        ledger.append(job, "stage", f"event {n}", extra={"progress": n / number})
        pause(n)
    ledger.finish(job, "Done")
    return [*(f"event {n}" for n in range(1, number)), "Done"]


@pytest.mark.parametrize("number", [30, pytest.param(60, marks=pytest.mark.full)])
def test_a_job_and_the_feed_are_followed_through_cut_streams_refusals_and_a_reload(
    gateway, proxy, acme, acme_token, job, number
):
    chance = random.Random(16)
    faults = [
        *(Fault(cut_after_bytes=size) for size in (0, 100, 500, 800, 1500, 3000)),
        *(Fault(cut_after_bytes=size, cut_in_order=True) for size in (400, 900, 2000)),
        Fault(503, {"Retry-After": "0"}),
        Fault(429, {"Retry-After": "1"}),
        Fault(502),
        PASS,
    ]
    proxy.plan = lambda request: chance.choice(faults)
    public_id = str(job.pk)

    def pause(n: int) -> None:
        time.sleep(0.02)
        if n == number // 2:
            gateway.reload()

    with beside() as run:
        of_job = [
            run(kind.items, proxy.url, acme_token, lambda client: client.jobs.events(public_id), policy=QUICK)
            for kind in (Blocking, Asynchronous)
        ]
        of_feed = [
            run(kind.items, proxy.url, acme_token, lambda client: client.events(), number, policy=QUICK)
            for kind in (Blocking, Asynchronous)
        ]
        written = write_events(job, number, pause)
        assert [messages(done(each)) for each in of_job] == [written] * 2
        assert [messages([event.event for event in done(each)]) for each in of_feed] == [written] * 2
    assert proxy.streams > 8


def test_a_job_is_followed_from_an_event_on(kind, proxy, acme_token, job):
    written = write_events(job, 5)
    found = kind.items(proxy.url, acme_token, lambda client: client.jobs.events(str(job.pk), since=3))
    assert messages(found) == written[3:]
    assert kind.items(proxy.url, acme_token, lambda client: client.jobs.events(str(job.pk), since=5)) == []
    assert len(proxy.requests) == 2


OLD_PROXIES = {
    "removes Accept: pages that wait": lambda request: Fault(without=("accept",)),
    "removes Accept and Prefer: polling": lambda request: Fault(without=("accept", "prefer")),
    "holds streams back until they end": lambda request: Fault(whole_only=request.is_stream),
    "ends streams at once": lambda request: Fault(cut_after_bytes=0, cut_in_order=True) if request.is_stream else PASS,
    "refuses streams": lambda request: Fault(406) if request.is_stream else PASS,
    "ends what waits": lambda request: Fault(504) if request.is_stream or "prefer" in request.headers else PASS,
}


@pytest.mark.parametrize("old_proxy", OLD_PROXIES)
def test_following_works_through_old_proxies(proxy, acme_token, job, old_proxy):
    proxy.plan = OLD_PROXIES[old_proxy]
    policy = sdk.Policy(backoff_seconds=0.05, fallback_seconds=LONGEST_SECONDS, silence_seconds=1, wait_seconds=5)
    events = lambda client: client.jobs.events(str(job.pk))  # noqa: E731
    with beside() as run:
        followers = [run(kind.items, proxy.url, acme_token, events, policy=policy) for kind in (Blocking, Asynchronous)]
        until(lambda: proxy.streams >= 2)
        written = write_events(job, 6, lambda n: time.sleep(0.1))
        assert [messages(done(each)) for each in followers] == [written] * 2
    assert proxy.streams == 2, "it is not tried again at once"


def test_a_tenant_without_a_stream_left_is_followed_by_polling_and_then_by_a_stream(
    kind, gateway, proxy, acme_token, job
):
    url, events = f"{proxy.url}/v1/jobs/{job.pk}/events", lambda client: client.jobs.events(str(job.pk))
    headers = bearer(acme_token) | {"Accept": "text/event-stream"}
    with beside() as run, httpx.Client() as others:
        taken: list[httpx.Response] = []

        def all_are_taken() -> bool:
            response = others.send(others.build_request("GET", url, headers=headers), stream=True)
            taken.append(response)
            return response.status_code == 429

        until(all_are_taken)
        before = proxy.streams
        follower = run(kind.items, proxy.url, acme_token, events, policy=QUICK)
        until(lambda: proxy.streams > before + 1)  # it was refused, and tried again
        ledger.append(job, "stage", "one")
        for each in taken:
            each.close()
        ledger.finish(job, "Done")
        assert messages(done(follower)) == ["one", "Done"]
    assert any(not request.is_stream for request in proxy.requests)


def test_a_silent_stream_is_dropped_and_continued(kind, proxy, acme_token, job):
    ledger.append(job, "stage", "event 1")
    # The first stream sends its first event, and then nothing any more.
    proxy.plan = lambda request: Fault(stall_after=b"event 1") if len(proxy.requests) == 1 else PASS
    policy = sdk.Policy(silence_seconds=3, fallback_seconds=LONGEST_SECONDS)  # for the start of an answer too
    events = lambda client: client.jobs.events(str(job.pk))  # noqa: E731
    with beside() as run:
        follower = run(kind.items, proxy.url, acme_token, events, policy=policy)
        until(lambda: proxy.stalled >= 1)
        ledger.finish(job, "Done")
        assert messages(done(follower)) == ["event 1", "Done"]
    assert proxy.streams == len(proxy.requests) == 2


def test_a_job_that_is_deleted_meanwhile_is_not_found(kind, proxy, acme_token, job):
    ledger.append(job, "stage", "event 1")
    with beside() as run:
        events = lambda client: client.jobs.events(str(job.pk))  # noqa: E731
        follower = run(kind.items, proxy.url, acme_token, events, policy=QUICK)
        until(lambda: proxy.streams >= 1)
        removal.remove(Job.all_tenants.filter(pk=job.pk))
        with pytest.raises(sdk.NotFoundError):
            done(follower)


# --- The feed ---------------------------------------------------------------------------------------------------------


def test_the_cursor_of_an_event_continues_behind_it(kind, proxy, acme, acme_token):
    jobs = [ledger.open_job(acme, "MODEL_GENERATOR") for _ in range(2)]
    written = [message for job in jobs for message in write_events(job, 3)]
    first = kind.items(proxy.url, acme_token, lambda client: client.events(), 2)
    rest = kind.items(proxy.url, acme_token, lambda client: client.events(first[-1].cursor), 4)
    assert messages([each.event for each in first + rest]) == written
    assert [each.id for each in first] == [f"{jobs[0].pk}-1", f"{jobs[0].pk}-2"]


def test_the_feed_from_now_on_with_filters(kind, proxy, acme, acme_token, job):
    write_events(job, 2)
    news = ledger.open_job(acme, "BACKGROUND_GENERATOR")
    filters = {"job_type": "BACKGROUND_GENERATOR", "event_type": ["stage", "succeeded"]}
    with beside() as run:
        follower = run(
            kind.items, proxy.url, acme_token, lambda client: client.events("latest", **filters), 2, policy=QUICK
        )
        until(lambda: proxy.answered >= 1)  # with the place that it starts from
        ledger.append(news, "queued", "left out")
        ledger.append(news, "stage", "one")
        ledger.finish(news, "Done")
        assert messages([each.event for each in done(follower)]) == ["one", "Done"]


def test_a_page_of_the_feed_is_repeated_after_a_cursor_in_it_and_no_event_is_lost(kind, proxy, acme_token, job):
    written = write_events(job, 5)
    proxy.plan = lambda request: Fault(406) if request.is_stream else PASS
    found = kind.items(proxy.url, acme_token, lambda client: client.events(), 3)
    again = kind.items(proxy.url, acme_token, lambda client: client.events(found[-1].cursor), 4)
    assert messages([each.event for each in found]) == written[:3]
    assert messages([each.event for each in again]) == written[1:], "from the cursor of the page before"


def test_a_store_that_was_restored_is_read_again_without_doubles(kind, proxy, acme, acme_token, job):
    for n in range(1, 4):
        ledger.append(job, "stage", f"event {n}")
    proxy.plan = lambda request: (
        Fault(cut_after=b"event 3", cut_in_order=True) if request.is_stream and proxy.streams == 1 else PASS
    )
    with beside() as run:
        follower = run(kind.items, proxy.url, acme_token, lambda client: client.events(), 5, policy=QUICK)
        until(lambda: proxy.streams >= 2)
        # The backup did not have the last event; another one takes its position.
        last = JobEvent.objects.for_tenant(acme).order_by("position").last()
        with transaction.atomic():
            JobEvent.all_tenants.filter(pk=last.pk).delete()
            JobCounts.objects.for_tenant(acme).update(last_position=last.position - 1)
        write_events(ledger.open_job(acme, "MODEL_GENERATOR"), 2)
        proxy.plan = lambda request: PASS
        found = messages([each.event for each in done(follower)])
    assert found == ["event 1", "event 2", "event 3", "event 1", "Done"]


# --- Waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE"])
def test_wait_returns_the_job_once_it_is_over(kind, proxy, acme_token, job, status):
    faults = [Fault(503), Fault(cut_after_bytes=0), Fault(429, {"Retry-After": "0"}), PASS]
    proxy.plan = lambda request: faults[min(len(proxy.requests), len(faults)) - 1]
    with beside() as run:
        waiting = run(
            kind.result,
            proxy.url,
            acme_token,
            lambda client: client.jobs.wait(str(job.pk), LONGEST_SECONDS),
            policy=QUICK,
        )
        until(lambda: len(proxy.requests) >= len(faults))
        (ledger.finish if status == "SUCCESS" else ledger.fail)(job, "over")
        found = done(waiting)
    assert found.status == status
    assert found.latest_event.message == "over"


@pytest.mark.parametrize("timeout", [0, 1.5])
def test_wait_raises_with_the_last_state_when_the_time_is_over(kind, proxy, acme_token, job, timeout):
    ledger.append(job, "stage", "event 1")
    began = time.monotonic()
    with pytest.raises(sdk.JobNotFinishedError, match="it is IN_PROGRESS") as raised:
        kind.result(proxy.url, acme_token, lambda client: client.jobs.wait(str(job.pk), timeout))
    assert time.monotonic() - began >= timeout
    assert raised.value.job.latest_event.message == "event 1"
    assert isinstance(raised.value, TimeoutError)


def test_wait_says_what_failed_where_no_state_arrived(kind, proxy, acme_token, job):
    proxy.plan = lambda request: Fault(503, {"Retry-After": "60"})
    with pytest.raises(sdk.JobNotFinishedError, match="did not arrive") as raised:
        kind.result(proxy.url, acme_token, lambda client: client.jobs.wait(str(job.pk), 1))
    assert raised.value.job is None
    assert isinstance(raised.value.__cause__, sdk.UnavailableError)
    assert len(proxy.requests) == 1, "it asked for a pause"


def test_wait_for_a_job_that_is_unknown_or_deleted_meanwhile(kind, proxy, acme_token, job):
    with pytest.raises(sdk.NotFoundError):
        kind.result(proxy.url, acme_token, lambda client: client.jobs.wait(str(ULID()), 10))
    with beside() as run:
        waiting = run(kind.result, proxy.url, acme_token, lambda client: client.jobs.wait(str(job.pk)))
        until(lambda: len(proxy.requests) >= 2)
        removal.remove(Job.all_tenants.filter(pk=job.pk))
        with pytest.raises(sdk.NotFoundError):
            done(waiting)


def test_wait_through_a_proxy_that_does_not_let_requests_wait(kind, proxy, acme_token, job):
    proxy.plan = lambda request: Fault(without=("prefer",))
    with beside() as run:
        waiting = run(kind.result, proxy.url, acme_token, lambda client: client.jobs.wait(str(job.pk)))
        until(lambda: proxy.answered >= 1)
        ledger.finish(job, "Done")
        assert done(waiting).status == "SUCCESS"
    assert proxy.requests[1].at - proxy.requests[0].at >= 2, "the poll hint of a new job"


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_a_link_that_has_expired_is_renewed_and_the_store_never_gets_the_token(
    gateway, proxy, artifacts, acme, acme_token, tmp_path
):
    job = finished_with_pictures(artifacts, acme)

    def expired(pictures: Any) -> Any:
        for picture in pictures:
            target = picture.image_url.removeprefix(proxy.url)
            until(partial(has_status, gateway, target, 403))
        return pictures

    choices = [lambda job: expired(job.result), lambda job: expired(job.latest_event.artifacts)]
    with beside() as run:
        downloads = []
        for number, (kind, choice) in enumerate(itertools.product((Blocking, Asynchronous), choices)):
            folder = tmp_path / str(number)
            folder.mkdir()
            downloads.append(run(kind.download, proxy.url, acme_token, str(job.pk), folder, choice))
        saved = [path for each in downloads for path in done(each)]
    assert [path.read_bytes() for path in saved] == [PICTURE] * 8
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(saved)
    of_store = [request for request in proxy.requests if request.path.startswith("/artifacts/")]
    assert len(of_store) == 16, "each with its old link, and then with a new one"
    assert not any("authorization" in request.headers for request in of_store)


def test_a_redirect_of_the_store_is_followed_without_the_token(kind, proxy, artifacts, acme, acme_token, tmp_path):
    job = finished_with_pictures(artifacts, acme, number=1)
    with faulty_proxy(proxy.upstream_port) as elsewhere:

        def redirect(request: ProxiedRequest) -> Fault:
            is_picture = request.path.startswith("/artifacts/")
            return Fault(302, {"Location": f"{elsewhere.url}{request.target}"}) if is_picture else PASS

        proxy.plan = redirect
        [saved] = kind.download(proxy.url, acme_token, str(job.pk), tmp_path)
        assert saved.read_bytes() == PICTURE
        assert [("authorization" in request.headers) for request in elsewhere.requests] == [False]


def test_a_download_is_whole_or_nothing(kind, proxy, artifacts, acme, acme_token, tmp_path):
    job = finished_with_pictures(artifacts, acme, number=1)
    downloads = iter([Fault(cut_after_bytes=50_000), Fault(503), PASS])
    proxy.plan = lambda request: next(downloads) if request.path.startswith("/artifacts/") else PASS
    [saved] = kind.download(proxy.url, acme_token, str(job.pk), tmp_path, policy=QUICK)
    assert saved.read_bytes() == PICTURE
    saved.write_bytes(b"as before")
    proxy.plan = lambda request: Fault(cut_after_bytes=50_000) if request.path.startswith("/artifacts/") else PASS
    with pytest.raises(sdk.ConnectionFailedError):
        kind.download(proxy.url, acme_token, str(job.pk), tmp_path, policy=sdk.Policy(retries=1, backoff_seconds=0.01))
    (artifacts / f"{acme.storage_prefix}{job.pk}/0.png").unlink()
    proxy.plan = lambda request: PASS
    with pytest.raises(sdk.DownloadError, match="404"):
        kind.download(proxy.url, acme_token, str(job.pk), tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as before"]


# --- The command line, the example, the README ------------------------------------------------------------------------


def run_cli(url: str, token: str, *arguments: str, script: list[str] | None = None, **options: Any) -> Any:
    environment = os.environ | {
        "JOBS_GATEWAY_URL": url,
        "JOBS_GATEWAY_TOKEN": token,
        "PYTHONPATH": str(CLIENT / "src"),
        "TERM": "xterm",
    }
    command = [sys.executable, *(script or ["-m", "jobs_gateway_client.cli"]), *arguments]
    given = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": LONGEST_SECONDS} | options
    return subprocess.run(command, env=environment, check=False, **given)


def test_the_command_line_prints_json_lines(proxy, artifacts, acme, acme_token, tmp_path):
    job = finished_with_pictures(artifacts, acme)
    failed = ledger.open_job(acme, "MODEL_GENERATOR")
    ledger.fail(failed, "broken")

    def lines(*arguments: str, status: int = 0) -> list[Any]:
        ran = run_cli(proxy.url, acme_token, *arguments)
        assert ran.returncode == status, ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines()]

    assert [each["public_id"] for each in lines("list", "--limit", "1")] == [str(failed.pk)]
    assert [each["public_id"] for each in lines("list", "--status", "SUCCESS")] == [str(job.pk)]
    [shown] = lines("get", str(job.pk))
    body = httpx.get(f"{proxy.url}/v1/jobs/{job.pk}", headers=bearer(acme_token)).json()
    assert without_signatures(shown) == without_signatures(body)
    assert [each["event_type"] for each in lines("follow", str(job.pk))] == ["succeeded"]
    assert [each["event_type"] for each in lines("follow", str(failed.pk), status=1)] == ["failed"]
    saved = lines("download", str(job.pk), "--to", str(tmp_path / "new"))
    assert [Path(each["path"]).read_bytes() for each in saved] == [PICTURE] * 2
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["01-0.png", "02-1.png"]
    assert lines("download", str(failed.pk), status=1) == []


def test_the_exit_codes_of_the_command_line(proxy, acme_token, job):
    wrong = run_cli(proxy.url, acme_token, "list", "--limit", "0")
    assert (wrong.returncode, "must be 1 or more" in wrong.stderr) == (2, True)
    assert run_cli("", acme_token, "list").returncode == 2
    assert run_cli(proxy.url, "", "list").returncode == 2
    missing = run_cli(proxy.url, acme_token, "get", str(ULID()))
    assert (missing.returncode, "JOB_NOT_FOUND" in missing.stderr) == (3, True)
    late = run_cli(proxy.url, acme_token, "download", str(job.pk), "--timeout", "0")
    assert (late.returncode, "it is NOT_STARTED" in late.stderr) == (4, True)
    shown = run_cli(proxy.url, acme_token, "--help").stdout
    assert "examples:" in shown
    listed = shown.partition("exit codes:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == ["0", "1", "2", "3", "4", "130"]


def test_the_command_line_shows_progress_on_a_terminal(proxy, artifacts, acme, acme_token, tmp_path):
    job = finished_with_pictures(artifacts, acme, number=1)
    for arguments, shown in [
        (("follow", str(job.pk)), "1  succeeded  Done"),
        (("download", str(job.pk), "--to", str(tmp_path)), "01-0.png"),
    ]:
        terminal, end = pty.openpty()
        ran = run_cli(proxy.url, acme_token, *arguments, stdout=end, stderr=end, capture_output=False)
        os.close(end)
        written = b""
        try:
            while chunk := os.read(terminal, 65536):
                written += chunk
        except OSError:  # all is read of a terminal that nobody writes to any more
            os.close(terminal)
        assert ran.returncode == 0, written
        assert shown in written.decode()
        assert b"\x1b[" in written
        assert b"{" not in written


def test_the_example_follows_a_job_and_saves_its_pictures(proxy, artifacts, acme, acme_token, tmp_path):
    example = ROOT / "examples" / "follow_job.py"
    assert len(example.read_text().splitlines()) < 40
    job = finished_with_pictures(artifacts, acme, number=1)
    ran = run_cli(proxy.url, acme_token, proxy.url, str(job.pk), str(tmp_path), script=[str(example)])
    assert ran.stdout == f"1 succeeded Done\nsaved {tmp_path}/1-on_model_render.png\n", ran.stderr
    assert (tmp_path / "1-on_model_render.png").read_bytes() == PICTURE


def test_the_start_in_the_clients_readme_runs(proxy, artifacts, acme, acme_token, tmp_path):
    job = finished_with_pictures(artifacts, acme, number=1)
    start = (CLIENT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert len(start.splitlines()) <= 10
    script = start.replace("http://127.0.0.1:8000", proxy.url).replace("01KP8E2NH03CBABD5WQDK6ZHC2", str(job.pk))
    ran = run_cli(proxy.url, acme_token, script=["-W", "error", "-c", script], cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "succeeded Done" in ran.stdout
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [PICTURE]


# --- The package ------------------------------------------------------------------------------------------------------

TYPED_PROGRAM = """
from pathlib import Path

from jobs_gateway_client import Artifact, AsyncArtifact, AsyncClient, Client, Event, JobNotFinishedError, Policy
from jobs_gateway_client.models import FleetJobResponse, JobSummaryResponse


def blocking(client: Client) -> Path:
    jobs: list[JobSummaryResponse] = list(client.jobs.list(job_type=["MODEL_GENERATOR"], status="SUCCESS"))
    fleet: list[FleetJobResponse] = list(client.fleet.list())
    for event in client.jobs.events(jobs[0].public_id, since=1):
        received: Event[Artifact] = event
    for feed_event in client.events("latest"):
        cursor: str = feed_event.cursor
    try:
        job = client.jobs.wait(fleet[0].id, timeout=1.5)
    except JobNotFinishedError as error:
        print(error.job)
        raise
    job.reslt  # type: ignore
    job.status = "SUCCESS"  # type: ignore
    client.jobs.list(status="DONE")  # type: ignore
    return job.result[0].download("one.png")


async def asynchronous() -> Path:
    async with AsyncClient("http://localhost", policy=Policy(retries=1)) as client:
        async for event in client.jobs.events("x"):
            received: Event[AsyncArtifact] = event
        job = await client.jobs.get("x")
        wrong: Path = job.result[0].download("one.png")  # type: ignore
        return await job.result[0].download(Path("one.png"))
"""


@pytest.mark.sqlite  # no database is used: once is enough
@pytest.mark.parametrize("checker", ["pyright", pytest.param("mypy", marks=pytest.mark.full)])
def test_the_wheel_works_and_is_typed_strictly_in_an_empty_project(tmp_path, checker):
    scripts = Path(sys.executable).parent
    project = tmp_path / "project"
    project.mkdir()
    environment = {"PATH": f"{scripts}:{os.environ['PATH']}", "HOME": os.environ.get("HOME", "/")}

    def run(*command: str | Path) -> str:
        ran = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    pip = [scripts / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, CLIENT)
    [wheel] = tmp_path.glob("*.whl")
    run(scripts / "python", "-m", "venv", "--without-pip", project / "empty")
    python = project / "empty" / "bin" / "python"
    run(*pip, "--python", python, "install", wheel)
    assert "exit codes:" in run(python.with_name("jobs-gateway"), "--help")
    (project / "program.py").write_text(TYPED_PROGRAM)
    (project / "follow_job.py").write_text((ROOT / "examples" / "follow_job.py").read_text())
    strict = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": True, "reportUnusedVariable": False}
    (project / "pyrightconfig.json").write_text(json.dumps(strict | {"exclude": ["empty"], "pythonVersion": "3.10"}))
    files = ["program.py", "follow_job.py"]
    if checker == "mypy":
        run("mypy", "--strict", "--python-version", "3.10", "--python-executable", python, *files)
    else:
        run("pyright", "--pythonpath", python, *files)


# --- Webhooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.sqlite
class TestWebhooks:
    def test_a_webhook_of_the_gateway_is_read(self):
        signed = signed_webhook()
        mixed_case = {name.title(): value for name, value in signed["headers"].items()}
        for body in (signed["body"], signed["body"].encode()):
            for headers in (signed["headers"], mixed_case):
                webhook = sdk.webhooks.unwrap(body, headers, signed["secret"])
                assert (webhook.id, webhook.type) == ("01JADE5XAMPK9M0Q7RS3T4V5W6-4", "job.succeeded")
                assert webhook.event is not None
                assert webhook.event.event.message == "Done ✓"
                assert webhook.event.job.public_id == "01JADE5XAMPK9M0Q7RS3T4V5W6"
                assert (webhook.result, webhook.timestamp.isoformat()) == ([], "2026-04-15T12:00:09+00:00")

    def test_a_test_event_is_about_no_job(self):
        signed = signed_webhook({}, "webhook.test")
        webhook = sdk.webhooks.unwrap(signed["body"], signed["headers"], signed["secret"])
        assert (webhook.type, webhook.event, webhook.result) == ("webhook.test", None, None)

    def test_after_a_rotation_either_secret_verifies_it(self):
        signed = signed_webhook()
        both = signed["headers"] | {"webhook-signature": f"v1,bm8= {signed['headers']['webhook-signature']}"}
        assert sdk.webhooks.unwrap(signed["body"], both, signed["secret"]).type == "job.succeeded"

    @pytest.mark.parametrize(
        "change",
        [
            {"webhook-id": "x"},
            {"webhook-timestamp": "1776254409"},
            {"webhook-timestamp": "now"},
            {"webhook-timestamp": "1" + "0" * 400},
            {"webhook-timestamp": "1" + "0" * 5_000},
            {"webhook-timestamp": "٣"},
            {"webhook-signature": ""},
            {"webhook-signature": "v1,é"},
        ],
    )
    def test_changed_headers_are_refused(self, change):
        signed = signed_webhook()
        with pytest.raises(sdk.webhooks.WebhookVerificationError):
            sdk.webhooks.unwrap(signed["body"], signed["headers"] | change, signed["secret"])

    def test_another_body_another_secret_and_a_missing_header_are_refused(self):
        signed = signed_webhook()
        for body, headers, secret in (
            (signed["body"] + " ", signed["headers"], signed["secret"]),
            (signed["body"], signed["headers"], signed["other"]),
            (signed["body"], {"webhook-id": "x"}, signed["secret"]),
        ):
            with pytest.raises(sdk.webhooks.WebhookVerificationError):
                sdk.webhooks.unwrap(body, headers, secret)
        with pytest.raises(ValueError, match="whsec_"):
            sdk.webhooks.unwrap(signed["body"], signed["headers"], "whsec_")
