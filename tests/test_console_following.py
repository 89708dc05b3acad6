"""Pages of the console that wait for news, over a real server: ``Prefer: wait`` on a timeline and on the failures."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.models import Session
from django.utils import timezone

from jobs.admin.job_detail import JobDetail
from jobs.ingest import ledger
from jobs.models import AuditAction, AuditEntry, Job
from jobs_gateway.page_waits import MAX_WAITS
from tests.gateway import Gateway, database_of_this_test, serving
from tests.streams import LONGEST_SECONDS, Stream, get

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.full_on_postgresql]

FAILURES = "/admin/jobs/job/failures/"
PROMPTLY = 1.5  # seconds, for news that wake the request
ENDED_WITHIN = 5.0  # seconds, for what wakes nobody

append, note, fail = (sync_to_async(each) for each in (ledger.append, ledger.note, ledger.fail))


@pytest.fixture(scope="module")
def gateway(django_db_setup: None) -> Iterator[Gateway]:
    with serving(database_of_this_test()) as served:
        yield served


@pytest.fixture
def session(support_client) -> str:
    """The key of Sam's session."""
    return str(support_client.cookies[settings.SESSION_COOKIE_NAME].value)


@pytest.fixture
def job(acme, sam) -> Job:
    """A job whose page Sam has opened."""
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    AuditEntry.objects.create(
        actor=sam, action=AuditAction.JOB_VIEWED, tenant_slug=acme.slug, subject=str(job.public_id), at=timezone.now()
    )
    return job


def timeline(job: Job) -> str:
    stored = Job.all_tenants.get(pk=job.pk)
    return f"/admin/jobs/job/{job.public_id}/timeline/?version={stored.version}.{stored.last_seq}"


def failures_now(gateway: Gateway, session: str) -> str:
    """The path that asks for failures after those of now."""
    page = gateway.get(FAILURES, Cookie=f"{settings.SESSION_COOKIE_NAME}={session}").body.decode()
    (version,) = re.findall('data-version="([^"]+)"', page)
    return f"{FAILURES}?version={version}"


@asynccontextmanager
async def asked(
    gateway: Gateway, path: str, session: str, wait: int = 20
) -> AsyncIterator[asyncio.Task[tuple[Stream, bytes]]]:
    """The response to a waiting request, which was sent a moment ago."""

    async def ask() -> tuple[Stream, bytes]:
        cookie = f"{settings.SESSION_COOKIE_NAME}={session}"
        async with get(gateway.port, path, "", Cookie=cookie, Prefer=f"wait={wait}") as response:
            body = b"" if response.status == 204 else await response.body()
            return response, body

    task = asyncio.create_task(ask())
    await asyncio.sleep(1.0)
    yield task
    task.cancel()


async def after(task, seconds: float, act=None, *arguments):
    """The response, which comes so many seconds after ``act`` at the latest, and its body and its time in seconds."""
    assert not task.done(), task.result()
    began = time.monotonic()
    if act:
        await act(*arguments)
    response, body = await asyncio.wait_for(task, seconds)
    return response, body.decode(), time.monotonic() - began


def test_the_version_that_a_page_shows_is_that_of_the_tests(job, rf):
    job.refresh_from_db()
    assert timeline(job).endswith(f"?version={JobDetail(job, rf.get('/')).version}")


def test_an_event_and_an_internal_note_reach_a_waiting_page(gateway, session, job):
    async def follow(path: str, seconds: float, act, *arguments):
        async with asked(gateway, path, session) as task:
            return await after(task, seconds, act, *arguments)

    response, body, _ = asyncio.run(follow(timeline(job), PROMPTLY, append, job, "stage", "Rendering the picture"))
    assert response.status == 200
    assert response.headers["preference-applied"] == "wait=20"
    assert "Rendering the picture" in body
    response, body, _ = asyncio.run(follow(timeline(job), 3.0, note, job, "The GPU is slow"))
    assert response.status == 200
    assert "The GPU is slow" in body


def test_a_wait_ends_with_204_when_its_time_is_over(gateway, session, job):
    path = timeline(job)

    async def follow():
        began = time.monotonic()
        async with asked(gateway, path, session, wait=3) as task:
            response, _, _ = await after(task, 3.0)
            return response, time.monotonic() - began

    response, seconds = asyncio.run(follow())
    assert response.status == 204
    assert response.headers["preference-applied"] == "wait=3"
    assert seconds > 2.9


def test_new_failures_of_all_tenants_reach_a_waiting_home_page(gateway, session, job, globex):
    theirs = ledger.open_job(globex, "BACKGROUND_GENERATOR")

    async def follow(path: str, failing: Job):
        async with asked(gateway, path, session) as task:
            return await after(task, 3.5, fail, failing, "No GPU")

    response, body, _ = asyncio.run(follow(failures_now(gateway, session), job))
    assert response.status == 200
    assert "1 failed job of acme, MODEL_GENERATOR" in body
    response, body, _ = asyncio.run(follow(failures_now(gateway, session), theirs))
    assert "1 failed job of globex, BACKGROUND_GENERATOR" in body


@pytest.mark.parametrize(
    "ending",
    [
        "logged out",
        "out of the group",
        *(pytest.param(end, marks=pytest.mark.full) for end in ("deactivated", "no staff")),
    ],
)
def test_a_session_or_permission_that_ends_ends_the_wait(gateway, session, sam, job, ending):
    """Of a timeline and of the failures."""
    job_path, home_path = timeline(job), failures_now(gateway, session)

    def end():
        if ending == "logged out":
            Session.objects.all().delete()
        elif ending == "deactivated":
            type(sam).objects.update(is_active=False)
        elif ending == "no staff":
            type(sam).objects.update(is_staff=False)
        else:
            sam.groups.clear()

    async def follow():
        async with asked(gateway, job_path, session) as on_job, asked(gateway, home_path, session) as on_home:
            assert not on_job.done(), on_job.result()
            assert not on_home.done(), on_home.result()
            await sync_to_async(end)()
            answers = await asyncio.wait_for(asyncio.gather(on_job, on_home), ENDED_WITHIN)
            return [response for response, _ in answers]

    for response in asyncio.run(follow()):
        if ending == "out of the group":
            assert response.status == 403
        else:
            assert response.status == 302
            assert response.headers["location"].startswith("/admin/login/")


def test_a_reload_ends_the_wait_at_once_and_the_next_worker_answers(gateway, session, job):
    job_path, home_path = timeline(job), failures_now(gateway, session)

    async def follow():
        async with asked(gateway, job_path, session) as on_job, asked(gateway, home_path, session) as on_home:
            reload = asyncio.create_task(asyncio.to_thread(gateway.reload))
            ended = [(await task)[0] for task in (on_job, on_home)]
            await reload
        async with asked(gateway, job_path, session) as task:
            return ended, await after(task, PROMPTLY, append, job, "stage", "After the reload")

    ended, (response, body, _) = asyncio.run(follow())
    assert [each.status for each in ended] == [204, 204]
    assert response.status == 200
    assert "After the reload" in body


def threads_of(gateway: Gateway) -> int:
    return sum(len(list(Path(f"/proc/{worker}/task").iterdir())) for worker in gateway.workers())


def test_fifty_waiting_pages_hold_no_threads_and_delay_nobody(gateway, session, job, acme_token):
    """As many wait as may; the others are answered at once. Places of callers that hang up are free again."""
    path = timeline(job)
    cookie = f"{settings.SESSION_COOKIE_NAME}={session}"
    page = f"/admin/jobs/job/{job.public_id}/change/"
    assert gateway.get(page, Cookie=cookie).status == 200
    began = time.monotonic()
    assert gateway.get(page, Cookie=cookie).status == 200
    alone = time.monotonic() - began
    before = threads_of(gateway)

    async def wait_beside_others():
        async with AsyncExitStack() as stack:
            tasks = [await stack.enter_async_context(asked_quickly(gateway, path, session)) for _ in range(50)]
            async with asyncio.timeout(LONGEST_SECONDS):
                while sum(task.done() for task in tasks) < 50 - MAX_WAITS:
                    await asyncio.sleep(0.1)
            waiting = [task for task in tasks if not task.done()]
            refused = [task.result()[0] for task in tasks if task.done()]
            slowest, threads = 0.0, []
            for _ in range(10):
                for asked_path, credential in ((page, {"Cookie": cookie}), ("/v1/jobs", {"token": acme_token})):
                    began = time.monotonic()
                    answer = await asyncio.to_thread(gateway.get, asked_path, **credential)
                    slowest = max(slowest, time.monotonic() - began)
                    assert answer.status == 200
                threads.append(threads_of(gateway))
                await asyncio.sleep(0.1)
            return len(waiting), refused, slowest, min(threads)

    waiting, refused, slowest, threads = asyncio.run(wait_beside_others())
    assert waiting == MAX_WAITS
    assert len(refused) == 50 - MAX_WAITS
    assert {(each.status, each.headers.get("preference-applied")) for each in refused} == {(204, None)}
    assert slowest < max(2.0, 10 * alone)
    assert threads <= before + 8, "of pages that run at that moment, not of those that wait"

    async def after_they_hung_up():
        async with asyncio.timeout(LONGEST_SECONDS):
            while True:  # until the gateway has noticed
                async with asked(gateway, path, session) as task:
                    if not task.done():
                        break
        async with asked(gateway, path, session) as task:
            return await after(task, PROMPTLY, append, job, "stage", "Still here")

    response, _, _ = asyncio.run(after_they_hung_up())
    assert response.headers["preference-applied"] == "wait=20"


@asynccontextmanager
async def asked_quickly(gateway, path, session):
    async def ask():
        cookie = f"{settings.SESSION_COOKIE_NAME}={session}"
        async with get(gateway.port, path, "", Cookie=cookie, Prefer="wait=60") as response:
            return response, b""

    task = asyncio.create_task(ask())
    yield task
    task.cancel()


def test_a_busy_tenant_does_not_run_the_view_all_the_time(gateway, session, job, acme):
    """Other jobs change; this one does not: its request waits on."""
    others = [ledger.open_job(acme, "MODEL_GENERATOR") for _ in range(3)]
    path = timeline(job)

    async def follow():
        async with asked(gateway, path, session, wait=3) as task:
            while not task.done():
                for other in others:
                    await append(other, "stage", "Something")
                await asyncio.sleep(0.02)  # busy enough, and the gateway has to run beside it
            return task.result()[0]

    assert asyncio.run(follow()).status == 204
