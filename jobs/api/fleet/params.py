"""The names of a job's status in the fleet dialect, and the query parameters of ``/job``."""

from __future__ import annotations

from typing import Annotated

from django.db.models import TextChoices
from pydantic import Field

from jobs.api.parameters import Integer, Offset, Params
from jobs.models import JobStatus


class FleetStatus(TextChoices):
    SUBMITTED = "submitted"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    PARTIAL_FAILURE = "partial_failure"


# In the order of the counts' columns.
FLEET_STATUS = {
    JobStatus.NOT_STARTED.value: FleetStatus.SUBMITTED.value,
    JobStatus.IN_PROGRESS.value: FleetStatus.PROCESSING.value,
    JobStatus.SUCCESS.value: FleetStatus.COMPLETED.value,
    JobStatus.FAILURE.value: FleetStatus.FAILED.value,
    JobStatus.PARTIAL_FAILURE.value: FleetStatus.PARTIAL_FAILURE.value,
}
STORED_STATUS = {fleet: stored for stored, fleet in FLEET_STATUS.items()}


class FleetListParams(Params):
    status: FleetStatus | None = Field(None, description="Only jobs with this status.")
    limit: Annotated[int, Integer] = Field(10, ge=1, le=100, description="The most jobs in one page.")
    offset: Offset = 0
