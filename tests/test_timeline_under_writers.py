"""While several writers append to one job, a reader that keeps its cursor gets every public event once and in order.

A ``seq`` is handed out under the lock of the job's row and becomes visible with its transaction, so that none appears
below one that a reader has passed. Readers here ask the store as the events route does: what is beyond the cursor, page
by page; some are killed and start again from the cursor they saved.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from django.db import connection, transaction

from jobs.ingest import ledger
from jobs.models import JobEvent

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]
WRITERS, READERS = 8, 4
# Public events: with the internal ones the long form comes close to the 10,000 that a job may have.
SIZES = [pytest.param(400, id="short"), pytest.param(7_000, id="7000", marks=pytest.mark.full)]


class RolledBack(Exception):
    pass


def write(job, number, events):
    """The messages of the public events that were committed, by seq."""
    chance = random.Random(number)
    committed = {}
    while len(committed) < events:
        appended = {}
        try:
            with transaction.atomic():
                for _ in range(chance.choice([1, 1, 1, 5])):
                    visibility = chance.choice(["public", "public", "public", "internal"])
                    event = ledger.append(job, "stage", f"{number}:{chance.random()}", visibility=visibility)
                    if visibility == "public":
                        appended[event.seq] = event.message
                if chance.random() < 0.02:
                    time.sleep(0.02)  # a slow one holds the others up: they cannot overtake it
                if chance.random() < 0.1:
                    raise RolledBack
        except RolledBack:
            continue
        committed |= appended
    connection.close()
    return committed


def follow(job, number, written):
    """What one reader was given, in the order in which it was."""
    chance = random.Random(number)
    delivered, saved = [], 0
    while True:
        last_round = written.is_set()
        since = saved  # where a killed reader starts again
        while page := events_beyond(job, since, chance.choice([1, 7, 100, 500])):
            delivered += page
            since = saved = page[-1][0]
            if chance.random() < 0.05:
                break  # killed, with its cursor saved
        else:
            if last_round:
                connection.close()
                return delivered
            time.sleep(0.005)  # readers that never pause leave the writers no time


def events_beyond(job, since, limit):
    return list(
        JobEvent.objects.for_tenant(job.tenant_id)
        .filter(job=job, visibility="public", seq__gt=since)
        .order_by("seq")
        .values_list("seq", "message")[:limit]
    )


@pytest.mark.parametrize("events", SIZES)
def test_every_public_event_is_delivered_once_and_in_order(acme, events, record_property):
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    written = Event()
    with ThreadPoolExecutor(WRITERS + READERS) as pool:
        readers = [pool.submit(follow, job, number, written) for number in range(READERS)]
        writers = [pool.submit(write, job, number, events // WRITERS) for number in range(WRITERS)]
        try:
            committed = {seq: message for writer in writers for seq, message in writer.result().items()}
        finally:
            written.set()
        for reader in readers:
            assert reader.result() == sorted(committed.items())
    job.refresh_from_db()
    assert job.last_public_seq == max(committed)
    assert list(job.events.order_by("seq").values_list("seq", flat=True)) == list(range(1, job.last_seq + 1))
    record_property("cases", len(committed) * READERS)
