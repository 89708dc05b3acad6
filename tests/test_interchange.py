"""The interchange record: what one line may hold, and that it leaves the store as it came."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from jobs.ingest import bulk, interchange
from jobs.ingest.interchange import Reason, Rejected
from jobs.ingest.stored import records
from jobs.models import Job

EXAMPLE = {
    "public_id": "01JADE5XAMPK9M0Q7RS3T4V5W6",
    "tenant": "acme",
    "job_type": "MODEL_GENERATOR",
    "status": "SUCCESS",
    "created_at": "2026-04-15T12:00:00Z",
    "request": {"prompt": "studio, soft light"},
    "events": [
        {
            "seq": 1,
            "event_type": "queued",
            "visibility": "public",
            "stage": None,
            "message": "Queued",
            "hostname": None,
            "extra": {},
            "created_at": "2026-04-15T12:00:00Z",
            "artifacts": [],
        },
        {
            "seq": 2,
            "event_type": "succeeded",
            "visibility": "public",
            "stage": None,
            "message": "Done",
            "hostname": None,
            "extra": {"cost": 0.04},
            "created_at": "2026-04-15T12:00:09Z",
            "artifacts": [
                {
                    "storage_key": "tenants/acme/01JADE/front.png",
                    "kind": "on_model_render",
                    "role": "final",
                    "label": "front",
                    "meta": {"width": 1024},
                }
            ],
        },
    ],
    "artifacts": [],
}


def test_the_contracts_example_comes_out_as_it_went_in(acme):
    bulk.load_record(EXAMPLE)
    [record] = records(Job.all_tenants.all())
    assert json.loads(interchange.dump(record)) == EXAMPLE
