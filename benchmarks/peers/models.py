# ruff: noqa: DJ008 - nothing prints these models
"""The tables of the job store, as far as the DRF peer reads them. Nothing here creates or changes a table."""

from __future__ import annotations

from django.db import models


class Tenant(models.Model):
    is_active = models.BooleanField()

    class Meta:
        managed = False
        db_table = "tenants_tenant"


class ApiToken(models.Model):
    tenant = models.ForeignKey(Tenant, on_delete=models.DO_NOTHING)
    prefix = models.TextField()
    token_hash = models.TextField()
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "tenants_apitoken"


class Job(models.Model):
    public_id = models.UUIDField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.DO_NOTHING)
    job_type = models.TextField()
    status = models.TextField()
    v1_status = models.TextField()
    is_workflow = models.BooleanField()
    created_at = models.DateTimeField()
    request = models.JSONField(null=True)
    last_public_seq = models.IntegerField()

    class Meta:
        managed = False
        db_table = "jobs_job"


class JobEvent(models.Model):
    job = models.ForeignKey(Job, on_delete=models.DO_NOTHING, related_name="events")
    seq = models.IntegerField()
    event_type = models.TextField()
    visibility = models.TextField()
    stage = models.TextField(null=True)
    message = models.TextField()
    hostname = models.TextField(null=True)
    extra = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "jobs_jobevent"


class Artifact(models.Model):
    job = models.ForeignKey(Job, on_delete=models.DO_NOTHING, related_name="artifacts")
    event = models.ForeignKey(JobEvent, on_delete=models.DO_NOTHING, related_name="artifacts", null=True)
    position = models.IntegerField()
    storage_key = models.TextField()
    kind = models.TextField()
    role = models.TextField()
    label = models.TextField(null=True)
    meta = models.JSONField()

    class Meta:
        managed = False
        db_table = "jobs_artifact"


class JobCounts(models.Model):
    tenant = models.OneToOneField(Tenant, on_delete=models.DO_NOTHING, primary_key=True)
    not_started = models.BigIntegerField()
    in_progress = models.BigIntegerField()
    success = models.BigIntegerField()
    failure = models.BigIntegerField()
    partial_failure = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = "jobs_jobcounts"
