"""``/livez`` and ``/readyz``: whether this process answers, and whether what it answers from does.

For load balancers and supervisors: for anyone, under any host name, outside the rate limits and without a redirect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from threading import Lock, Thread
from time import monotonic

from django.conf import settings
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import resolve
from django.views.decorators.http import require_safe

from jobs.artifacts.signing import artifact_store
from tenants.replica import primary_first

logger = logging.getLogger(__name__)

# How long /readyz waits for an answer, all dependencies together.
TIMEOUT_SECONDS = 1.0
# How long an answer is believed: whoever asks more often than that costs the dependencies nothing.
BELIEVED_SECONDS = 1.0


class NotReady(Exception):
    """What is missing, in words that anyone may read."""


def database() -> None:
    """The primary, or while that is away its replica, which most reads are answered from."""
    primary_first(_answers)


def _answers(alias: str) -> bool:
    for each in {alias, alias if alias == settings.API_REPLICA else "default"}:
        with connections[each].cursor() as cursor:
            cursor.execute("SELECT 1")
    return True


def migrations() -> None:
    missing = primary_first(_missing_migrations)
    if missing:
        raise NotReady(f"{len(missing)} to apply")


def _missing_migrations(alias: str) -> frozenset[tuple[str, str]]:
    if alias == settings.API_REPLICA:  # it has what its primary had; the API's role may not read what that was
        return frozenset()
    return _migrations_of_this_code() - MigrationRecorder(connections["default"]).applied_migrations().keys()


@cache
def _migrations_of_this_code() -> frozenset[tuple[str, str]]:
    return frozenset(MigrationLoader(None).disk_migrations)


def artifacts() -> None:
    artifact_store().probe()


class Probe:
    """One dependency, asked in a thread of its own, so that one that hangs holds up neither the others nor the answer.

    Never asked twice at the same time: while it hangs, one thread waits for it, however many ask.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self.name = ask.__name__
        self._ask = ask
        self._lock = Lock()
        self._answer: Future[str] = Future()
        self._asked_at: float | None = None

    def start(self) -> Future[str]:
        """What is known of it: "ok" or what is wrong; asked anew where the last answer is too old."""
        with self._lock:
            is_old = self._asked_at is None or monotonic() - self._asked_at > BELIEVED_SECONDS
            if self._asked_at is None or (is_old and self._answer.done()):
                self._answer, self._asked_at = Future(), monotonic()
                Thread(target=self._run, args=(self._answer,), name=f"readyz-{self.name}", daemon=True).start()
            return self._answer

    def _run(self, answer: Future[str]) -> None:
        try:
            self._ask()
            outcome = "ok"
        except NotReady as error:
            outcome = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready
            logger.warning("Not ready: %s: %s: %s", self.name, type(error).__name__, error)
            outcome = f"failed ({type(error).__name__})"
        finally:
            connections.close_all()
        answer.set_result(outcome)


PROBES = [Probe(database), Probe(migrations), Probe(artifacts)]


@require_safe
def livez(request: HttpRequest) -> HttpResponse:
    """200 as long as the process answers at all; asks nobody."""
    return _text("ok\n")


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """A line for each dependency, "name: ok" or what is wrong; 503 unless all are ok. Takes a second at most."""
    deadline = monotonic() + TIMEOUT_SECONDS
    answers = [probe.start() for probe in PROBES]
    outcomes = [_outcome(answer, deadline) for answer in answers]
    text = "".join(f"{probe.name}: {outcome}\n" for probe, outcome in zip(PROBES, outcomes, strict=True))
    return _text(text, 200 if set(outcomes) == {"ok"} else 503)


def _outcome(answer: Future[str], deadline: float) -> str:
    try:
        return answer.result(max(0.0, deadline - monotonic()))
    except TimeoutError:
        return f"no answer within {TIMEOUT_SECONDS:g} s"


def _text(text: str, status: int = 200) -> HttpResponse:
    headers = {"Cache-Control": "no-store", "Content-Length": str(len(text))}
    return HttpResponse(text, "text/plain; charset=utf-8", status, headers=headers)


class ProbeLane:
    """Answers both before any middleware that looks at the host, redirects or opens a session."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info not in ("/livez", "/readyz"):
            return self.get_response(request)
        request.resolver_match = resolve(request.path_info)
        response: HttpResponse = request.resolver_match.func(request)
        return response
