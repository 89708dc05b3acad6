"""The Python client of Jobs Gateway.

    from jobs_gateway_client import Client

    with Client("https://jobs.example.com") as client:  # the token comes from JOBS_GATEWAY_TOKEN
        for job in client.jobs.list(status="SUCCESS"):
            print(job.public_id, job.job_type)

``AsyncClient`` has the same methods for asyncio. The models are in :mod:`jobs_gateway_client.models`.
"""

from jobs_gateway_client import webhooks
from jobs_gateway_client.async_client import AsyncArtifact, AsyncClient
from jobs_gateway_client.client import Artifact, Client
from jobs_gateway_client.errors import (
    ApiError,
    AuthenticationError,
    ConnectionFailedError,
    CursorGoneError,
    DownloadError,
    InvalidParameterError,
    JobNotFinishedError,
    JobsGatewayError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    UnexpectedResponseError,
)
from jobs_gateway_client.policy import Policy
from jobs_gateway_client.results import Event, FeedEvent, Job

__all__ = [
    "ApiError",
    "Artifact",
    "AsyncArtifact",
    "AsyncClient",
    "AuthenticationError",
    "Client",
    "ConnectionFailedError",
    "CursorGoneError",
    "DownloadError",
    "Event",
    "FeedEvent",
    "InvalidParameterError",
    "Job",
    "JobNotFinishedError",
    "JobsGatewayError",
    "NotFoundError",
    "Policy",
    "RateLimitedError",
    "UnavailableError",
    "UnexpectedResponseError",
    "webhooks",
]
