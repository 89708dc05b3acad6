"""Examples for the OpenAPI document: one job in each operation of ``/v1``. A test validates them."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample

from jobs.api.errors import Invalid

_SUMMARY = {
    "public_id": "01JADE5XAMPK9M0Q7RS3T4V5W6",
    "job_type": "MODEL_GENERATOR",
    "status": "SUCCESS",
    "created_at": "2026-04-15T12:00:00Z",
}
_PICTURE = {
    "image_url": (
        "https://pictures.example.com/tenants/acme/01JADE5XAMPK9M0Q7RS3T4V5W6/front.png"
        "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260415%2Fus-east-1%2Fs3"
        "%2Faws4_request&X-Amz-Date=20260415T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=3b1f0c1de9a54f2c8d0d5b1a6f7e8c9d0a1b2c3d4e5f60718293a4b5c6d7e8f9"
    ),
    "kind": "on_model_render",
    "role": "final",
    "label": "front",
    "meta": {"width": 1024, "height": 1536},
}
_RENDERING = {
    "seq": 2,
    "event_type": "stage",
    "visibility": "public",
    "stage": "render",
    "message": "Rendering the front view",
    "artifacts": [],
    "extra": {},
    "created_at": "2026-04-15T12:00:02.417000Z",
}
_SUCCEEDED = {
    "seq": 4,
    "event_type": "succeeded",
    "visibility": "public",
    "stage": None,
    "message": "Done",
    "artifacts": [_PICTURE],
    "extra": {"cost": 0.04},
    "created_at": "2026-04-15T12:00:09Z",
}

LIST = OpenApiExample(
    "The two newest jobs",
    description="The answer to `GET /v1/jobs?limit=2`.",
    value={
        "jobs": [
            {
                "public_id": "01JADEA9Q2ZB4T6M8CXW0D3F5H",
                "job_type": "BACKGROUND_SWAP_WITH_IMAGE",
                "status": "IN_PROGRESS",
                "created_at": "2026-04-15T12:01:30.250000Z",
            },
            _SUMMARY,
        ],
        "limit": 2,
        "offset": 0,
        "count": 2,
    },
)
DETAIL = OpenApiExample(
    "A finished job",
    value=_SUMMARY | {"request": {"prompt": "studio, soft light"}, "result": [_PICTURE], "latest_event": _SUCCEEDED},
)
EVENTS = OpenApiExample(
    "The rest of a timeline",
    description="The answer to `since=1`. Event 3 was internal; the next request sends `since=4`.",
    value={"public_id": _SUMMARY["public_id"], "events": [_RENDERING, _SUCCEEDED], "latest_seq": 4},
)
FEED = OpenApiExample(
    "What happened since",
    value={
        "events": [
            {
                "id": "01JADE5XAMPK9M0Q7RS3T4V5W6-4",
                "type": "job.succeeded",
                "job": _SUMMARY,
                "event": _SUCCEEDED,
            }
        ],
        "cursor": "nXw3kq0h2c9mVb1s8a7tYp5RzLd4eGfUQjKxTnWvB2yHcMoE",
        "has_more": False,
    },
)
# The problems of job_type=MODEL_GENERATOR&job_type=SHIRT&limit=500.
INVALID = Invalid(
    [
        {
            "loc": ["query", "job_type", 1],
            "msg": "Input should be 'MODEL_GENERATOR', 'BACKGROUND_GENERATOR', 'COMPLEMENTARY_GARMENT_GENERATOR', "
            "'PRODUCT_TO_MODEL_DIRECT', 'PRODUCT_TO_MODEL_PHASED', 'BACKGROUND_SWAP_WITH_IMAGE', "
            "'BACKGROUND_SWAP_WITH_SPEC' or 'MODEL_SWAP_WITH_IMAGE'",
            "type": "enum",
        },
        {"loc": ["query", "limit"], "msg": "Input should be less than or equal to 200", "type": "less_than_equal"},
    ]
)
