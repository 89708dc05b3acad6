"""Constraints of the database: they reject wrong rows from any program."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from jobs.models import Artifact, Job, JobEvent

ARTIFACT = {"storage_key": "tenants/acme/a.png", "kind": "render", "role": "final"}
EVENT = {"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z", "artifacts": [ARTIFACT]}


def rejection(write) -> str:
    """What the database says against ``write``, now or when the transaction ends."""

    def attempt():
        with transaction.atomic():
            write()
            connection.check_constraints()

    with pytest.raises(IntegrityError) as caught:
        attempt()
    return str(caught.value)


@pytest.mark.parametrize("model", [JobEvent, Artifact])
def test_a_child_row_names_the_tenant_of_its_job(acme, globex, job_of, model):
    job = job_of(acme, events=[EVENT])
    assert "of_tenants_job" in rejection(lambda: model.all_tenants.filter(job=job).update(tenant=globex))


@pytest.mark.parametrize("model", [JobEvent, Artifact])
def test_a_child_row_is_not_written_for_another_tenants_job(acme, globex, job_of, model):
    row = model.all_tenants.get(job=job_of(acme, events=[EVENT]))
    row.pk, row.tenant = None, globex
    if model is JobEvent:
        row.seq = 2
    else:
        row.position = 2
    assert "of_tenants_job" in rejection(row.save)


@pytest.mark.parametrize(
    ("model", "change", "constraint"),
    [
        (Job, {"status": "DONE"}, "job_status_known"),
        (Job, {"job_type": ""}, "job_type_given"),
        (Job, {"last_public_seq": 9}, "job_public_seq_within"),
        (JobEvent, {"seq": 0}, "event_seq_positive"),
        (JobEvent, {"visibility": "secret"}, "event_visibility_known"),
        (Artifact, {"role": "draft"}, "artifact_role_known"),
        (Artifact, {"storage_key": ""}, "artifact_key_given"),
    ],
)
def test_a_value_outside_the_rules_is_refused(acme, job_of, model, change, constraint):
    job_of(acme, events=[EVENT])
    assert constraint in rejection(lambda: model.all_tenants.update(**change))


def test_a_seq_is_given_once_in_a_job(acme, job_of):
    job = job_of(acme, events=[EVENT, EVENT | {"seq": 2, "event_type": "stage", "artifacts": []}])
    assert rejection(lambda: JobEvent.all_tenants.filter(job=job, seq=2).update(seq=1))
