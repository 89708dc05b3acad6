"""What the OpenAPI descriptions of both dialects have in common."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse

from jobs.api.errors import Dialect, problem_of


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that clients may model as null, which they write by leaving the parameter out."""
    return {"anyOf": [schema, {"type": "null"}]}


def query(name: str, schema: dict[str, Any], description: str, **style: Any) -> OpenApiParameter:
    return OpenApiParameter(name, schema, OpenApiParameter.QUERY, description=description, **style)


def response_header(name: str, description: str, *statuses: int, kind: type = str) -> OpenApiParameter:
    """A header of the responses with ``statuses``; of every response where none is named."""
    return OpenApiParameter(
        name, kind, OpenApiParameter.HEADER, description=description, response=list(statuses) or True
    )


def refusal(dialect: Dialect, shape: Any, description: str, *errors: Exception) -> OpenApiResponse:
    """An error response, with what is really answered to each of ``errors`` as its examples."""
    return OpenApiResponse(
        shape,
        description,
        [OpenApiExample(type(error).__name__, value=dialect.body(problem_of(error))) for error in errors],
    )


SHOPIFY_HMAC = OpenApiParameter(
    "X-Shopify-Hmac-Sha256",
    nullable({"type": "string"}),
    OpenApiParameter.HEADER,
    description=(
        "Base64 of the HMAC-SHA256 of the raw request body, keyed with the app secret. Optional; when it is sent it "
        "must verify, or the answer is 401 `INVALID_HMAC`. It never stands in for the bearer token."
    ),
)
COMMON_HEADERS = [
    response_header("X-Request-ID", "Names this answer in the gateway's log; your own, if you sent one."),
    response_header(
        "RateLimit-Policy", "The tenant's limit and its window in seconds, where the operator set one.", 200, 429
    ),
    response_header("RateLimit", "What is left of it (`r`), and seconds until it is renewed (`t`).", 200, 429),
    response_header("WWW-Authenticate", "`Bearer`: the one scheme there is.", 401),
    response_header("Retry-After", "Seconds to wait before the next try.", 429, 503, kind=int),
]
