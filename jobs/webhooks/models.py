"""Endpoints of webhooks, and what their delivery has to remember.

No row is written when an event is recorded. An endpoint has a position in its tenant's feed, and a row for each job
whose next event could not be delivered yet.
"""

from __future__ import annotations

from typing import Self

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from jobs.ulid import ULIDField
from tenants.models import Tenant


class EndpointQuerySet(models.QuerySet["Endpoint"]):
    def deliverable(self) -> Self:
        """Those that events are delivered to."""
        return self.filter(is_enabled=True, tenant__is_active=True)


class Endpoint(models.Model):
    """A URL of a tenant that its public events are posted to."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="webhook_endpoints")
    url = models.CharField("URL", max_length=2000)
    event_types = models.JSONField(default=list, blank=True, help_text="The types that are delivered; empty for all.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    is_enabled = models.BooleanField("enabled", default=True)
    disabled_reason = models.CharField(max_length=200, blank=True, default="")
    paused_until = models.DateTimeField(null=True, blank=True, help_text="The receiver asked for a pause until then.")

    position = models.BigIntegerField(
        default=0,
        help_text="Each event up to this position of the tenant was delivered, was given up, or is of a waiting job.",
    )
    last_success_at = models.DateTimeField(null=True, blank=True)
    last_failure_at = models.DateTimeField(null=True, blank=True)
    failing_since = models.DateTimeField(
        null=True, blank=True, help_text="The first failure after the last success; none while deliveries succeed."
    )

    # The worker that delivers to it, until when. A worker that dies does not renew its lease.
    lease_owner = models.CharField(max_length=64, blank=True, default="", editable=False)
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)

    objects = EndpointQuerySet.as_manager()

    class Meta:
        verbose_name = "webhook endpoint"
        ordering = ["tenant__slug", "pk"]

    def __str__(self) -> str:
        return f"webhook endpoint {self.pk}"

    @property
    def state(self) -> str:
        """``enabled``, ``failing`` (the last attempt failed) or ``disabled``."""
        if not self.is_enabled:
            return "disabled"
        return "failing" if self.failing_since else "enabled"


class EndpointSecret(models.Model):
    """A secret that payloads are signed with, encrypted. After a rotation two are in force for a while."""

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="secrets")
    encrypted = models.TextField(editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"secret of endpoint {self.endpoint_id}"


class BlockedJob(models.Model):
    """A job whose next event waits: for the next attempt after a failure, or for an answer that takes long.

    The job's later events wait too. They are read from the store when their turn comes.
    """

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="blocked_jobs", db_index=False)
    job = ULIDField()  # no foreign key: a job that is pruned takes its events with it
    next_seq = models.PositiveIntegerField()
    attempts = models.PositiveSmallIntegerField(default=0, help_text="Failed attempts at the event next_seq.")
    next_attempt_at = models.DateTimeField()
    since = models.DateTimeField(help_text="When the event next_seq was first tried.")

    class Meta:
        constraints = [
            # Also the index behind the blocked jobs of an endpoint.
            models.UniqueConstraint(fields=["endpoint", "job"], name="blocked_job_once"),
        ]

    def __str__(self) -> str:
        return f"{self.job}-{self.next_seq}"


class Outcome(models.TextChoices):
    DELIVERED = "delivered"
    FAILED = "failed"
    GIVEN_UP = "given up"


class Attempt(models.Model):
    """One request to an endpoint. The last 1,000 of an endpoint are kept, for 7 days."""

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    at = models.DateTimeField()
    job = ULIDField(null=True, blank=True, help_text="None for a test event.")
    seq = models.PositiveIntegerField(null=True, blank=True)
    event_type = models.CharField(max_length=54, help_text="Such as job.succeeded.")
    number = models.PositiveSmallIntegerField(help_text="1 for the first attempt; 0 for a redelivery or a test.")
    outcome = models.CharField(max_length=9, choices=Outcome)
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="HTTP status; none without an answer.")
    error = models.CharField(max_length=200, blank=True, default="")
    duration_ms = models.PositiveIntegerField()
    answer = models.TextField(blank=True, default="", help_text="The first 1,024 bytes of the body.")

    class Meta:
        verbose_name = "webhook attempt"
        indexes = [
            # The console's list of an endpoint, newest first; the removal of all but the last 1,000.
            models.Index("endpoint", F("id").desc(), name="attempt_newest"),
            # Redelivery of what failed since a time.
            models.Index("endpoint", "at", name="attempt_failed", condition=~Q(outcome="delivered")),
        ]

    def __str__(self) -> str:
        return self.event_id

    @property
    def event_id(self) -> str:
        """The ``webhook-id``, the same at each attempt; empty for a test."""
        return f"{self.job}-{self.seq}" if self.job else ""


class Redelivery(models.Model):
    """An event that is to be sent to an endpoint again, as somebody asked in the console."""

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="redeliveries", db_index=False)
    job = ULIDField()
    seq = models.PositiveIntegerField()
    requested_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "job", "seq"], name="redelivery_once"),
        ]

    def __str__(self) -> str:
        return f"{self.job}-{self.seq}"


class DeliveryWorker(models.Model):
    """A process of ``deliver_webhooks``. Each takes its share of the endpoints, so it has to count the others."""

    name = models.CharField(max_length=64, primary_key=True)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
