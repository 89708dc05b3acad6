"""Shared parts of the OpenAPI descriptions of both dialects."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse

from jobs.api.errors import Dialect, problem_of
from jobs.api.parameters import Params

# Enumerations that are components of the document, by the name of their class; others are written where they are used.
ENUM_COMPONENTS = {"JobType": "CtmJobType", "V1Status": "JobStatus"}


def query_parameters(params: type[Params]) -> list[OpenApiParameter]:
    """The parameters that ``params`` reads, with the types, bounds and defaults that it checks.

    No parameter may be ``null``: a client that has no value does not send the parameter.
    """
    described = params.model_json_schema()
    found = []
    for name, schema in described["properties"].items():
        description = schema.pop("description")
        parameter = OpenApiParameter(name, _plain(schema, described.get("$defs", {})), description=description)
        if name in params.repeatable:
            parameter.style, parameter.explode = "form", True
        found.append(parameter)
    return found


def _plain(schema: dict[str, Any], enums: dict[str, Any]) -> dict[str, Any]:
    """pydantic's schema without titles, null and empty defaults, with references to the document's components."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in ENUM_COMPONENTS:
            return {"$ref": f"#/components/schemas/{ENUM_COMPONENTS[name]}"}
        return {"type": "string", "enum": enums[name]["enum"]}
    if "anyOf" in schema:
        (schema,) = [each for each in schema["anyOf"] if each != {"type": "null"}]
        return _plain(schema, enums)
    kept = {
        key: value for key, value in schema.items() if key != "title" and not (key == "default" and value in ([], None))
    }
    if "items" in kept:
        kept["items"] = _plain(kept["items"], enums)
    return kept


def response_header(name: str, description: str, *statuses: int, kind: type = str) -> OpenApiParameter:
    """A header of the responses with ``statuses``, or of every response without them."""
    return OpenApiParameter(
        name, kind, OpenApiParameter.HEADER, description=description, response=list(statuses) or True
    )


def refusal(dialect: Dialect, shape: Any, description: str, *errors: Exception) -> OpenApiResponse:
    """An error response. Its examples are the real bodies of ``errors``."""
    return OpenApiResponse(
        shape,
        description,
        [OpenApiExample(type(error).__name__, value=dialect.body(problem_of(error))) for error in errors],
    )


SHOPIFY_HMAC = OpenApiParameter(
    "X-Shopify-Hmac-Sha256",
    {"type": "string"},
    OpenApiParameter.HEADER,
    description=(
        "Base64 of the HMAC-SHA256 of the raw request body, keyed with the app secret. Optional; when it is sent it "
        "must verify, or the answer is 401 `INVALID_HMAC`. It never stands in for the bearer token."
    ),
)
COMMON_HEADERS = [
    response_header("X-Request-ID", "The id of this request in the gateway's log; your own, if you sent one."),
    response_header(
        "RateLimit-Policy", "The tenant's limit and its window in seconds, where the operator set one.", 200, 429
    ),
    response_header("RateLimit", "Requests that are left (`r`), and seconds until they are renewed (`t`).", 200, 429),
    response_header("WWW-Authenticate", "`Bearer`, the only scheme.", 401),
    response_header("Retry-After", "Seconds to wait before the next try.", 429, 503, kind=int),
]
