"""``/livez`` and ``/readyz``: whether this process answers, and whether what it answers from does.

For load balancers and supervisors: for anyone, under any host name, outside the rate limits and without a redirect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import cache
from time import monotonic

from django.conf import settings
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from jobs.api.request import Receive, Scope, Send
from jobs.artifacts.signing import artifact_store
from jobs.database import readers
from jobs.database.replica import primary_first

logger = logging.getLogger(__name__)

# How long /readyz waits for an answer, all dependencies together.
TIMEOUT_SECONDS = 1.0
# How long an answer is reused: frequent checks cost the dependencies nothing.
CACHE_SECONDS = 1.0


class NotReady(Exception):
    """What is missing, in words that anyone may read."""


async def database() -> None:
    """The primary, or while that is down its replica, which most reads are answered from."""
    await primary_first(readers.ping)


async def migrations() -> None:
    if missing := await primary_first(_missing_migrations):
        raise NotReady(f"{len(missing)} to apply")


async def _missing_migrations(alias: str) -> frozenset[tuple[str, str]]:
    if alias == settings.API_REPLICA:  # it has what its primary had; the API's role may not read what that was
        return frozenset()
    return await asyncio.to_thread(_unapplied)


def _unapplied() -> frozenset[tuple[str, str]]:
    try:
        return _migrations_of_this_code() - MigrationRecorder(connections["default"]).applied_migrations().keys()
    finally:
        connections["default"].close()


@cache
def _migrations_of_this_code() -> frozenset[tuple[str, str]]:
    return frozenset(MigrationLoader(None).disk_migrations)


async def artifacts() -> None:
    await asyncio.to_thread(artifact_store().probe)


class Probe:
    """One dependency, asked in a task of its own, so that one that hangs delays neither the others nor the response.

    Never asked twice at the same time: while it hangs, one task waits for it, however many ask.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self.name = ask.__name__
        self._ask = ask
        self._task: asyncio.Task[str] | None = None
        self._asked_at = 0.0

    def start(self) -> asyncio.Task[str]:
        """ "ok" or what is wrong; asked anew where the last answer is too old."""
        task = self._task
        if task is None or (task.done() and monotonic() - self._asked_at > CACHE_SECONDS):
            self._asked_at = monotonic()
            self._task = task = asyncio.get_running_loop().create_task(self._run())
        return task

    async def _run(self) -> str:
        try:
            await self._ask()
        except NotReady as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready
            logger.warning("Not ready: %s: %s: %s", self.name, type(error).__name__, error)
            return f"failed ({type(error).__name__})"
        return "ok"


PROBES = [Probe(database), Probe(migrations), Probe(artifacts)]


async def probes(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application of ``/livez`` and ``/readyz``, under any host name."""
    if scope["method"] not in ("GET", "HEAD"):
        await _send(scope, send, "Only GET and HEAD are answered here.\n", 405, [(b"allow", b"GET, HEAD")])
    elif scope["path"] == "/livez":
        await _send(scope, send, "ok\n")
    else:
        outcomes = await readiness()
        text = "".join(f"{name}: {outcome}\n" for name, outcome in outcomes.items())
        await _send(scope, send, text, 200 if set(outcomes.values()) == {"ok"} else 503)


async def readiness() -> dict[str, str]:
    """Each dependency with "ok" or what is wrong. Takes ``TIMEOUT_SECONDS`` at most."""
    tasks = {probe.name: probe.start() for probe in PROBES}
    await asyncio.wait(tasks.values(), timeout=TIMEOUT_SECONDS)
    late = f"no answer within {TIMEOUT_SECONDS:g} s"
    return {name: task.result() if task.done() else late for name, task in tasks.items()}


async def _send(
    scope: Scope, send: Send, text: str, status: int = 200, more_headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
        *(more_headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
