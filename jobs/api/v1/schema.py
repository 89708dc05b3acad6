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
from jobs.api.following.places import TooManyStreams
from jobs.api.schema import COMMON_HEADERS, SHOPIFY_HMAC, query_parameters, refusal, response_header
from jobs.api.v1 import examples
from jobs.api.v1.feed import CursorGone
from jobs.api.v1.params import EventsParams, FeedParams, ListParams
from jobs.api.v1.serializers import (
    FeedResponseSerializer,
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
PREFER = OpenApiParameter(
    "Prefer",
    {"type": "string"},
    OpenApiParameter.HEADER,
    description="`wait=N`: answer as soon as there is something new, after N seconds at the latest (1 to 60). The "
    "answer says with `Preference-Applied` that it was honoured.",
)
PREFERENCE_APPLIED = response_header(
    "Preference-Applied", "`wait=N`, where the request was one that waits; N as it counted.", 200, 304
)
LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID",
    {"type": "string"},
    OpenApiParameter.HEADER,
    description="Of a stream: where to continue, the `id` of the last event that arrived. It overrides the query "
    "parameter.",
)
POLL_HINT = response_header(
    "Retry-After",
    "Of an unfinished job: seconds until it pays to ask again. Of an error: until the next try.",
    200,
    304,
    429,
    503,
    kind=int,
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


def v1_responses(
    shape: Any, of_success: str, example: OpenApiExample, *, of_one_job: bool = True, streamed: bool = False
) -> dict[Any, Any]:
    def error(description: str, *errors: Exception) -> OpenApiResponse:
        return refusal(V1, ErrorResponseSerializer, description, *errors)

    responses: dict[Any, Any] = {
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
    if streamed:
        del responses[200]
        responses[200, "application/json"] = OpenApiResponse(shape, of_success, [example])
        responses[200, "text/event-stream"] = OpenApiResponse({"type": "string"}, of_success)
        responses[429] = error(
            "Too many requests, or too many streams of this tenant",
            RateLimited("More than 600 requests of this tenant in a minute.", 21),
            TooManyStreams(),
        )
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
    parameters=[PUBLIC_ID, PREFER, JOB_STATUS, POLL_HINT, PREFERENCE_APPLIED, *POLLING],
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
        "agents has many `completed` and `failed` events, so the type of an event does not end a job.\n\n"
        "With `Accept: text/event-stream` the answer is a stream: each event as it is recorded, then `event: end` when "
        "the job is over. Where nothing follows at all, the answer is `204`."
    ),
    parameters=[
        PUBLIC_ID,
        *query_parameters(EventsParams),
        PREFER,
        LAST_EVENT_ID,
        JOB_STATUS,
        POLL_HINT,
        PREFERENCE_APPLIED,
        *POLLING,
    ],
    responses={
        **v1_responses(
            JobEventsResponseSerializer,
            "Events after the cursor, as a page or as a stream",
            examples.EVENTS,
            streamed=True,
        ),
        204: OpenApiResponse(None, "As a stream; the job is over and nothing follows"),
    },
)
_FEED_RESPONSES = v1_responses(
    FeedResponseSerializer,
    "Events after the cursor, as a page or as a stream",
    examples.FEED,
    of_one_job=False,
    streamed=True,
)
del _FEED_RESPONSES[304]
list_events = extend_schema(
    operation_id="listEvents",
    tags=["jobs"],
    summary="Follow everything that happens to this tenant's jobs",
    description=(
        "The public events of all the tenant's jobs, in the order in which they were recorded, each with its job's "
        "header. Send `cursor` as the next `after`: a client that does so sees every event exactly once, whatever "
        "writers do. Send the same filters with it.\n\n"
        "With `Accept: text/event-stream` the answer is a stream, from now on or from a cursor. With `Prefer: wait=N` "
        "a request waits for the next event. `410` says that the store was restored and the cursor is of no use: start "
        "again, and drop the events that you have by their `id`."
    ),
    parameters=[
        *query_parameters(FeedParams),
        PREFER,
        LAST_EVENT_ID,
        PREFERENCE_APPLIED,
        SHOPIFY_HMAC,
        *COMMON_HEADERS,
    ],
    responses={
        **_FEED_RESPONSES,
        410: refusal(V1, ErrorResponseSerializer, "The cursor is of a later state than the store", CursorGone()),
    },
)
