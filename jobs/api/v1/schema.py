"""The OpenAPI description of ``/v1``."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_field,
)
from rest_framework import exceptions, serializers

from jobs.api.errors import V1, JobNotFound, Unavailable
from jobs.api.schema import COMMON_HEADERS, SHOPIFY_HMAC, query_parameters, refusal, response_header
from jobs.api.v1 import examples
from jobs.api.v1.params import EventsParams, ListParams
from jobs.api.v1.serializers import (
    JobDetailResponseSerializer,
    JobEventsResponseSerializer,
    JobListResponseSerializer,
)
from tenants.authentication import InvalidHmac, Unauthenticated
from tenants.throttling import RateLimited


class ErrorResponseSerializer(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="For programs, such as JOB_NOT_FOUND.")
    detail = serializers.CharField(help_text="For people: what is wrong and what to do.")


@extend_schema_field({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}})
class Location(serializers.ListField):
    pass


class ValidationErrorSerializer(serializers.Serializer[Any]):
    loc = Location(help_text='The place: "query", the name of the parameter, and the index of an item in a list.')
    msg = serializers.CharField(help_text="What is wrong, for people.")
    type = serializers.CharField(help_text="What is wrong, for programs, such as int_parsing or less_than_equal.")


class HTTPValidationErrorSerializer(serializers.Serializer[Any]):
    detail = ValidationErrorSerializer(many=True, help_text="Every bad parameter.")


PUBLIC_ID = OpenApiParameter(
    "public_id",
    {"type": "string"},
    OpenApiParameter.PATH,
    description="The job's ULID: 26 characters, such as `01JADE5XAMPK9M0Q7RS3T4V5W6`, in upper or lower case.",
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    {"type": "string"},
    OpenApiParameter.HEADER,
    description="The `ETag` of an earlier answer to the same request; `304` if it still holds.",
)
JOB_STATUS = response_header(
    "Job-Status",
    "The job's status. The job is over when it is `SUCCESS` or `FAILURE`, whatever the types of its events are.",
    200,
    304,
)
POLLING = [
    SHOPIFY_HMAC,
    IF_NONE_MATCH,
    *COMMON_HEADERS,
    response_header(
        "ETag",
        "Stands for this answer. It changes with the job, and when its links are renewed; it does not depend on the "
        "token.",
        200,
        304,
    ),
    response_header(
        "Cache-Control", "`private, no-cache`: keep it, and ask with `If-None-Match` before using it.", 200
    ),
]


def v1_responses(shape: Any, of_success: str, example: OpenApiExample, *, of_one_job: bool = True) -> dict[int, Any]:
    def error(description: str, *errors: Exception) -> OpenApiResponse:
        return refusal(V1, ErrorResponseSerializer, description, *errors)

    responses = {
        200: OpenApiResponse(shape, of_success, [example]),
        304: OpenApiResponse(None, "Nothing changed since the answer that `If-None-Match` names"),
        401: error("No valid credential", Unauthenticated(), InvalidHmac()),
        404: error("Unknown job or another tenant's", JobNotFound()),
        406: error("JSON is not accepted", exceptions.NotAcceptable()),
        422: refusal(V1, HTTPValidationErrorSerializer, "A parameter is invalid", examples.INVALID),
        429: error("Too many requests", RateLimited("More than 600 requests of this tenant in a minute.", 21)),
        503: error("The job store is away for the moment", Unavailable()),
    }
    if not of_one_job:
        del responses[404]
    return responses


list_jobs = extend_schema(
    operation_id="listJobs",
    tags=["jobs"],
    summary="List this tenant's jobs",
    description=(
        "Headers of the tenant's workflow jobs, the newest first: by `created_at`, then by `public_id`, both "
        "descending. Without `job_type` these are jobs of all eight workflow types; jobs of other types are never "
        "listed here.\n\n"
        "A full page carries a `Link` header with the address of the next page. That page starts after the last job of "
        "this one, costs the same at any depth, and is not shifted by new jobs. `offset` is for small jumps."
    ),
    parameters=[
        *query_parameters(ListParams),
        *POLLING,
        response_header("Link", 'On a full page: `<address of the next page>; rel="next"`.', 200),
    ],
    responses=v1_responses(JobListResponseSerializer, "One page of job headers", examples.LIST, of_one_job=False),
)
get_job = extend_schema(
    operation_id="getJob",
    tags=["jobs"],
    summary="Get one job's detail",
    description=(
        "A job of any type: its header, its request, its final pictures and its latest public event. `result` is "
        "empty until `status` is `SUCCESS`. The job is over when `status` is `SUCCESS` or `FAILURE`."
    ),
    parameters=[PUBLIC_ID, JOB_STATUS, *POLLING],
    responses=v1_responses(JobDetailResponseSerializer, "The job", examples.DETAIL),
)
list_job_events = extend_schema(
    operation_id="listJobEvents",
    tags=["jobs"],
    summary="Get a job's public event timeline",
    description=(
        "The job's public events after `since`, in order, each with its pictures. A page holds at most 500 events, "
        "ends before the event that would exceed 1,000 pictures or 1 MiB of JSON, and holds at least one event.\n\n"
        "Send `latest_seq` as the next `since`. A client that does so from the start sees every public event exactly "
        "once and in order, also while events are being added. Numbers may be missing in between.\n\n"
        "Stop when the `Job-Status` header is `SUCCESS` or `FAILURE` and the page is empty. An operation on several "
        "agents has many `completed` and `failed` events, so the type of an event does not end a job."
    ),
    parameters=[
        PUBLIC_ID,
        *query_parameters(EventsParams),
        JOB_STATUS,
        *POLLING,
    ],
    responses=v1_responses(JobEventsResponseSerializer, "Events after the cursor", examples.EVENTS),
)
