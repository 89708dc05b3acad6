"""Requests to the gateway, and what its responses mean."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, cast

import httpx

from jobs_gateway_client.errors import (
    ApiError,
    AuthenticationError,
    ConnectionFailedError,
    CursorGoneError,
    InvalidParameterError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    UnexpectedResponseError,
)
from jobs_gateway_client.policy import Policy, Retries
from jobs_gateway_client.steps import Sleep, Steps, send

Params: TypeAlias = Mapping[str, "str | int | Sequence[str] | None"]

USER_AGENT = "jobs-gateway-client-python"
# What decoding raises for JSON of another shape.
SHAPE_ERRORS = (AttributeError, KeyError, TypeError, ValueError)
# Of an unfinished job where no response says so.
POLL_SECONDS = 5.0
ERRORS: Mapping[int, type[ApiError]] = {
    400: InvalidParameterError,
    401: AuthenticationError,
    404: NotFoundError,
    410: CursorGoneError,
    422: InvalidParameterError,
    429: RateLimitedError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


class Requests:
    """Makes the requests of one client."""

    def __init__(self, base_url: str, token: str, policy: Policy) -> None:
        parsed = httpx.URL(base_url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"The address of a gateway begins with https:// or http://, not as {base_url!r}.")
        self._base_url = base_url.rstrip("/")
        self._token = token
        self.policy = policy

    def get(
        self, path: str, params: Params | None = None, read_seconds: float = 0, headers: Mapping[str, str] | None = None
    ) -> httpx.Request:
        """A request to the gateway. ``read_seconds`` replaces the policy's."""
        standard = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate", "User-Agent": USER_AGENT}
        return httpx.Request(
            "GET",
            f"{self._base_url}{path}",
            params={name: value for name, value in (params or {}).items() if value is not None},
            headers={**standard, "Authorization": f"Bearer {self._token}", **(headers or {})},
            extensions={"timeout": self._timeout(read_seconds or self.policy.read_seconds)},
        )

    def get_from_store(self, url: str) -> httpx.Request:
        """A request for a signed link, without the token."""
        extensions = {"timeout": self._timeout(self.policy.read_seconds)}
        return httpx.Request("GET", url, headers={"User-Agent": USER_AGENT}, extensions=extensions)

    def _timeout(self, read_seconds: float) -> dict[str, float | None]:
        return httpx.Timeout(self.policy.connect_seconds, read=read_seconds).as_dict()

    def ask(self, request: httpx.Request) -> Steps[httpx.Response]:
        """The response to a request, which is repeated where that may help. Raises a JobsGatewayError."""
        retries = Retries(self.policy)
        while True:
            try:
                return (yield from attempt(request))
            except (ApiError, ConnectionFailedError) as error:
                yield Sleep(retries.delay(error))


def attempt(request: httpx.Request) -> Steps[httpx.Response]:
    """The response to a request that is sent once. Raises ApiError or ConnectionFailedError."""
    try:
        response = yield from send(request)
    except httpx.RequestError as error:
        raise connection_failed(error) from error
    raise_for_status(response)
    return response


def connection_failed(error: httpx.RequestError) -> ConnectionFailedError:
    address = error.request.url.copy_with(query=None)
    return ConnectionFailedError(f"{address} gave no complete response: {type(error).__name__}: {error}")


def raise_for_status(response: httpx.Response) -> None:
    """Raises the ApiError that the response is, if it is one. The response has been read."""
    status = response.status_code
    if status in (200, 204):
        return
    body = json_object(response) if response.headers.get("Content-Type", "").startswith("application/json") else {}
    problems: list[dict[str, Any]] = []
    code, detail = body.get("code"), body.get("detail", body.get("error"))
    if isinstance(detail, list):
        problems = cast("list[dict[str, Any]]", detail)
        detail = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in problems)
    if response.has_redirect_location:
        detail = f"Redirects are not followed: use the address {response.headers['Location']}"
    error = ERRORS.get(status, ApiError)(
        status,
        code if isinstance(code, str) else f"HTTP_{status}",  # the fleet dialect has the status there
        str(detail or response.reason_phrase),
        response.headers.get("X-Request-ID"),
        retry_after_seconds(response),
    )
    if isinstance(error, InvalidParameterError):
        error.problems = problems
    raise error


@contextmanager
def expected_shape(response: httpx.Response) -> Generator[None, None, None]:
    """Raises UnexpectedResponseError where the block does not find what it reads in the body of the response."""
    try:
        yield
    except SHAPE_ERRORS as error:
        raise unexpected_shape(response, error) from error


def unexpected_shape(response: httpx.Response, error: Exception) -> UnexpectedResponseError:
    return UnexpectedResponseError(f"{place_of(response)} answered with JSON of another shape: {error!r}")


def place_of(response: httpx.Response) -> str:
    return str(response.request.url.copy_with(query=None))


def json_object(response: httpx.Response) -> dict[str, Any]:
    """The body. Raises UnexpectedResponseError where it is no JSON object."""
    try:
        body = json.loads(response.content)
    except ValueError as error:
        raise UnexpectedResponseError(f"{place_of(response)} did not answer with JSON") from error
    if not isinstance(body, dict):
        raise UnexpectedResponseError(f"{place_of(response)} did not answer with a JSON object")
    return cast("dict[str, Any]", body)


def retry_after_seconds(response: httpx.Response) -> float | None:
    """``Retry-After`` in seconds, from either of its forms; None without it."""
    value: str = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
