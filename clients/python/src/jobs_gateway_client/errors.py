"""What can go wrong. Every error of this package is a :class:`JobsGatewayError`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class JobsGatewayError(Exception):
    """The base of all errors of this package."""

    is_retryable = False
    """Whether the same request may succeed later. The client has then repeated it already."""
    retry_after_seconds: float | None = None
    """How long to wait before the next request, where a response says so."""


class ConnectionFailedError(JobsGatewayError):
    """No complete response arrived: no connection, a time-out, or a connection that was cut off. See ``__cause__``."""

    is_retryable = True


class UnexpectedResponseError(JobsGatewayError):
    """The response is not one of a gateway: a proxy's page, or JSON of another shape."""

    is_retryable = True


class ApiError(JobsGatewayError):
    """The gateway answered with an error."""

    def __init__(
        self, status: int, code: str, detail: str, request_id: str | None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {detail}" + (f" (request {request_id})" if request_id else ""))
        self.status = status
        self.code = code
        """For programs, such as ``JOB_NOT_FOUND``; ``HTTP_<status>`` where the body names none."""
        self.detail = detail
        """For people: what is wrong and what to do."""
        self.request_id = request_id
        """The id of the request in the gateway's log. Give it to support."""
        self.retry_after_seconds = retry_after_seconds
        self.is_retryable = status in (429, 502, 503, 504)


class AuthenticationError(ApiError):
    """401: no valid token."""


class NotFoundError(ApiError):
    """404: no such job, or another tenant's."""


class CursorGoneError(ApiError):
    """410: the store does not have the position of this cursor, after a restore from a backup."""


class InvalidParameterError(ApiError):
    """400 or 422: ``problems`` has every invalid parameter, with ``loc``, ``msg`` and ``type``."""

    problems: Sequence[dict[str, Any]] = ()


class RateLimitedError(ApiError):
    """429: too many requests, or too many streams."""


class UnavailableError(ApiError):
    """502, 503 or 504: the gateway, or its store, cannot answer now."""


class JobNotFinishedError(JobsGatewayError, TimeoutError):
    """The time was over before the job was.

    ``job`` is its last state, a :class:`~jobs_gateway_client.Job`; None if none arrived in that time, which
    ``__cause__`` then explains.
    """

    def __init__(self, public_id: str, timeout_seconds: float, job: Any) -> None:
        state = f"it is {job.status}" if job else "its state did not arrive"
        super().__init__(f"Job {public_id} was not over after {timeout_seconds:g} seconds: {state}.")
        self.job = job


class DownloadError(JobsGatewayError):
    """The store did not deliver a picture. ``status`` is that of its response."""

    def __init__(self, status: int, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"The store answered {status}: {detail}")
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.is_retryable = status in (429, 500, 502, 503, 504)
