"""Every error of the API: its status, its code, and its body in each dialect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from django.core.exceptions import DisallowedHost, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions

from jobs.api.response import ApiResponse
from jobs.artifacts.signing import CannotSign

logger = logging.getLogger("jobs.errors")

# Retry-After in seconds while the database or the artifact store is not available.
RETRY_AFTER_SECONDS = 5


class Invalid(Exception):
    """Bad parameters, all of them at once: dicts of ``loc``, ``msg`` and ``type`` as pydantic names them."""

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        super().__init__(problems)
        self.problems = problems


class JobNotFound(exceptions.NotFound):
    default_code = "JOB_NOT_FOUND"
    default_detail = "No job with this id. Check the public_id, and that the credential is of the tenant that owns it."


class Unavailable(exceptions.APIException):
    """The database or another service that the response needs is not available."""

    status_code = 503
    default_code = "UNAVAILABLE"
    default_detail = "The job store cannot be reached right now. Try again in a few seconds."


class Problem(NamedTuple):
    """One error, independent of the dialect."""

    status: int
    code: str
    detail: str
    headers: dict[str, str]
    invalid: list[dict[str, Any]] | None = None


# The first class that matches counts, because some are subclasses of others.
_DJANGOS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (Http404, 404, "NOT_FOUND", "There is nothing at this address. See /v1/openapi.json for what there is."),
    (DisallowedHost, 400, "INVALID_HOST", "This gateway does not answer to that Host header."),
    (RequestDataTooBig, 413, "TOO_LARGE", "The request body is larger than the gateway reads."),
    (SuspiciousOperation, 400, "BAD_REQUEST", "The gateway does not read requests like this one."),
)
_FIXED = {
    exceptions.MethodNotAllowed: ("METHOD_NOT_ALLOWED", "This address only answers GET, HEAD and OPTIONS."),
    exceptions.NotAcceptable: ("NOT_ACCEPTABLE", "Answers are application/json only; send Accept: application/json."),
}


def problem_of(error: Exception, request_id: str = "") -> Problem:
    """The response to ``error``. An unexpected error is logged with its traceback and becomes a 500."""
    headers: dict[str, str] = {}
    if isinstance(error, Invalid):
        return Problem(422, "INVALID", "One or more parameters are invalid.", headers, error.problems)
    for kind, status, code, detail in _DJANGOS:
        if isinstance(error, kind):
            return Problem(status, code, detail, headers)
    if isinstance(error, (OperationalError, InterfaceError, CannotSign)):
        logger.error("Request %s: neither rows nor links: %s: %s", request_id, type(error).__name__, error)
        error = Unavailable()
    if isinstance(error, exceptions.APIException):
        if isinstance(error, Unavailable):
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        if isinstance(error, exceptions.MethodNotAllowed):
            headers["Allow"] = "GET, HEAD, OPTIONS"
        if challenge := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = challenge
        if wait := getattr(error, "wait", None):
            headers["Retry-After"] = str(int(wait))
        headers.update(getattr(error, "headers", None) or {})
        code, detail = _FIXED.get(type(error)) or (str(error.get_codes()), str(error.detail))
        return Problem(error.status_code, code, detail, headers)
    logger.error("Request %s met an unforeseen error", request_id, exc_info=error)
    return Problem(
        500, "INTERNAL", "The gateway met an error of its own; it has been logged under this request id.", {}
    )


class Dialect(NamedTuple):
    """How errors are written in one of the two dialects."""

    body: Callable[[Problem], dict[str, Any]]
    status: Callable[[Problem], int]

    def response(self, error: Exception, request_id: str) -> ApiResponse:
        problem = problem_of(error, request_id)
        return ApiResponse(orjson.dumps(self.body(problem)), problem.headers, self.status(problem))


def _v1_body(problem: Problem) -> dict[str, Any]:
    if problem.invalid is not None:
        return {"detail": problem.invalid}
    return {"code": problem.code, "detail": problem.detail}


def _fleet_status(problem: Problem) -> int:
    return 400 if problem.status == 422 else problem.status


def _fleet_body(problem: Problem) -> dict[str, Any]:
    detail = problem.detail
    if problem.invalid is not None:
        detail = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in problem.invalid)
    return {"error": detail, "code": _fleet_status(problem)}


V1 = Dialect(_v1_body, lambda problem: problem.status)
FLEET = Dialect(_fleet_body, _fleet_status)
