"""The OpenAPI description of ``/job``."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import exceptions, serializers

from jobs.api.errors import FLEET, Invalid, Unavailable
from jobs.api.fleet.params import FleetListParams
from jobs.api.fleet.serializers import FleetJobListResponseSerializer
from jobs.api.schema import COMMON_HEADERS, SHOPIFY_HMAC, query_parameters, refusal
from tenants.authentication import InvalidHmac, Unauthenticated
from tenants.throttling import RateLimited


class FleetErrorResponseSerializer(serializers.Serializer[Any]):
    error = serializers.CharField(help_text="What is wrong and what to do.")
    code = serializers.IntegerField(help_text="The status of the response.")


def error(description: str, *errors: Exception) -> OpenApiResponse:
    return refusal(FLEET, FleetErrorResponseSerializer, description, *errors)


def line(timestamp: str, event: str, hostname: str, message: str) -> dict[str, Any]:
    return {"timestamp": timestamp, "event": event, "hostname": hostname, "message": message}


# The problem of limit=500.
INVALID = Invalid([{"loc": ["query", "limit"], "msg": "Input should be less than or equal to 100"}])
A_PAGE = OpenApiExample(
    "An operation on two agents",
    description="The answer to `GET /job?limit=1&status=partial_failure`.",
    value={
        "total_items": 1,
        "status_counts": {"submitted": 2, "processing": 1, "completed": 30, "failed": 3, "partial_failure": 1},
        "items": [
            {
                "id": "019d9103-3600-7c3a-9e41-5b8f0a6d2c17",
                "status": "partial_failure",
                "created": "2026-04-15T12:00:00Z",
                "operation": {"type": "node.hostname.update", "data": {"domain": "example.net"}},
                "result": {"hostname": "web-01.example.net"},
                "changed": True,
                "error": "permission denied",
                "hostname": "web-01",
                "updated_at": "2026-04-15T12:00:04.512000Z",
                "responses": {
                    "web-01": {
                        "status": "completed",
                        "data": {"hostname": "web-01.example.net"},
                        "changed": True,
                        "hostname": "web-01",
                    },
                    "web-02": {
                        "status": "failed",
                        "data": None,
                        "changed": None,
                        "error": "permission denied",
                        "hostname": "web-02",
                    },
                },
                "agent_states": {
                    "web-01": {"status": "completed", "duration": "3.512s"},
                    "web-02": {"status": "failed", "error": "permission denied", "duration": "250ms"},
                },
                "timeline": [
                    line("2026-04-15T12:00:00Z", "submitted", "web-01", "Sent"),
                    line("2026-04-15T12:00:00Z", "submitted", "web-02", "Sent"),
                    line("2026-04-15T12:00:01Z", "started", "web-01", "Started"),
                    line("2026-04-15T12:00:01Z", "started", "web-02", "Started"),
                    line("2026-04-15T12:00:01.250000Z", "failed", "web-02", "Failed") | {"error": "permission denied"},
                    line("2026-04-15T12:00:04.512000Z", "completed", "web-01", "Done"),
                ],
            }
        ],
    },
)

list_jobs = extend_schema(
    operation_id="listFleetJobs",
    tags=["fleet"],
    summary="List jobs",
    description=(
        "All the tenant's jobs of every type, newest first, with the number of jobs in each status. A job whose events "
        "name hosts is an operation; its status is computed from the events of its agents. Every other job is shown as "
        "a workflow. `responses` and `agent_states` have members only where a job has more than one agent. `timeline` "
        "holds the last 500 public events of a job; the last 50 where a page would hold more than 5,000 of them."
    ),
    parameters=[
        *query_parameters(FleetListParams),
        SHOPIFY_HMAC,
        *COMMON_HEADERS,
    ],
    responses={
        200: OpenApiResponse(FleetJobListResponseSerializer, "A page of jobs with counts", [A_PAGE]),
        400: error("A parameter is invalid", INVALID),
        401: error("No valid credential", Unauthenticated(), InvalidHmac()),
        406: error("JSON is not accepted", exceptions.NotAcceptable()),
        429: error("Too many requests", RateLimited("More than 600 requests of this tenant in a minute.", 21)),
        503: error("The job store is away for the moment", Unavailable()),
    },
)
