"""The protocol without I/O: a generator of steps says what to do next, and a client of either kind does it.

A generator yields an ``Action`` and receives its outcome; httpx's errors are thrown into it. ``Emit`` hands values to
the caller. What the generator returns is the result.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, TypeAlias, TypeVar

import httpx

# Of pictures, at a time.
CHUNK_BYTES = 256 * 1024

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Send:
    """Send a request. Outcome: the response, read. Redirects are not followed: they would carry the token along."""

    request: httpx.Request


@dataclass(frozen=True)
class OpenStream:
    """Send a request. Outcome: the response, which stays open if it is an event stream, and is read if not."""

    request: httpx.Request


@dataclass(frozen=True)
class NextServerSentEvent:
    """Outcome: the next ``ServerSentEvent`` of the open stream, or None at its end. Any other action closes it."""


@dataclass(frozen=True)
class Download:
    """Send a request, and write the body of a 200 into ``file``. Outcome: the response. Redirects are followed."""

    request: httpx.Request
    file: BinaryIO


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Emit(Generic[T_co]):
    """Hand the values to the caller one by one, and go on when the next one is wanted."""

    values: Sequence[T_co]


@dataclass(frozen=True)
class Finished(Generic[T_co]):
    """The steps have ended with this result."""

    result: T_co


Action: TypeAlias = Send | OpenStream | NextServerSentEvent | Download | Sleep
Steps: TypeAlias = Generator[Action, Any, T]
# Steps that also emit values of one type, before they return one of another.
EmittingSteps: TypeAlias = Generator[Action | Emit[T], Any, R]


class Run(Generic[T, R]):
    """One run of steps. Ask for the next action, do it, and set its outcome."""

    def __init__(self, steps: EmittingSteps[T, R]) -> None:
        self._steps = steps
        self._outcome: Any = None
        self._error: httpx.RequestError | None = None

    def next_action(self) -> Action | Emit[T] | Finished[R]:
        """Raises what the steps raise."""
        outcome, error = self._outcome, self._error
        self._outcome = self._error = None
        try:
            return self._steps.throw(error) if error else self._steps.send(outcome)
        except StopIteration as end:
            return Finished(end.value)

    def set_outcome(self, outcome: Any) -> None:
        self._outcome = outcome

    def set_error(self, error: httpx.RequestError) -> None:
        self._error = error

    def close(self) -> None:
        self._steps.close()


# Each gives the outcome of its action a type.


def send(request: httpx.Request) -> Steps[httpx.Response]:
    response: httpx.Response = yield Send(request)
    return response


def open_stream(request: httpx.Request) -> Steps[httpx.Response]:
    response: httpx.Response = yield OpenStream(request)
    return response


def download(request: httpx.Request, file: BinaryIO) -> Steps[httpx.Response]:
    response: httpx.Response = yield Download(request, file)
    return response


def is_event_stream(response: httpx.Response) -> bool:
    content_type: str = response.headers.get("Content-Type", "")
    return response.status_code == 200 and content_type.partition(";")[0].strip().lower() == "text/event-stream"
