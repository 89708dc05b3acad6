"""Many threads that write through the ledger all get a connection from the pool."""

from __future__ import annotations

import dataclasses

import pytest

WRITE = """
import django
django.setup()
from concurrent.futures import ThreadPoolExecutor
from django.db import connections
from jobs.ingest import ledger
from tenants.models import Tenant

acme = Tenant.objects.get(slug="acme")

def write(number):
    try:
        job = ledger.open_job(acme, "MODEL_GENERATOR")
        for step in range(3):
            ledger.append(job, "stage", f"step {step}")
        ledger.finish(job)
        return True
    finally:
        connections.close_all()

with ThreadPoolExecutor(THREADS) as pool:
    print(sum(pool.map(write, range(THREADS))))
"""


@pytest.mark.postgresql
@pytest.mark.parametrize("threads", [pytest.param(8, marks=pytest.mark.full), 40])
def test_as_many_threads_write_as_a_backend_has(new_store, threads):
    made = new_store("acme")
    environment = {"DATABASE_POOL_SIZE": "0", "DJANGO_SETTINGS_MODULE": "jobs_gateway.settings"}
    store = dataclasses.replace(made, environment=environment)
    written = store.python("-c", WRITE.replace("THREADS", str(threads))).stdout
    assert written.decode().strip() == str(threads)
    assert store.jobs() == threads
