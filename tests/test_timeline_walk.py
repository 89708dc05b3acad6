"""A client that walks a timeline over HTTP by ``since``, while several writers append, sees each event once, in order.

``test_timeline_under_writers`` reads the store; this test reads pages from a served gateway.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from jobs.ingest import ledger
from jobs.models import Visibility
from tests.gateway import database_of_this_test, serving
from tests.test_timeline_under_writers import write

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]
READERS = 3
SIZES = [
    pytest.param(4, 400, id="four writers"),
    # With the internal events it comes close to the 10,000 that a job may have.
    pytest.param(8, 7_000, id="eight writers", marks=pytest.mark.full),
]


def walk(port, token, path, number, written):
    """What one client was given, in the order in which it was. Now and then it is killed in the middle of a page."""
    chance = random.Random(number)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    delivered, since = [], 0
    while True:
        last_round = written.is_set()
        client.request("GET", f"{path}?since={since}", headers={"Authorization": f"Bearer {token}"})
        response = client.getresponse()
        body = json.load(response)
        assert response.status == 200, body
        page = [(event["seq"], event["message"]) for event in body["events"]]
        assert all(event["visibility"] == "public" for event in body["events"])
        assert len(page) <= 500
        assert all(seq > since for seq, _ in page), "or it would go on for ever"
        if page and chance.random() < 0.1:
            page = page[: chance.randrange(len(page))]  # what it had dealt with, and whose seq it had saved
            client.close()
            since = page[-1][0] if page else since
        else:
            since = body["latest_seq"] or since
        delivered += page
        if not body["events"]:
            if last_round:
                client.close()
                return delivered
            time.sleep(0.05)


@pytest.mark.parametrize(("writers", "events"), SIZES)
def test_a_walk_delivers_every_public_event_once_and_in_order(acme, acme_token, writers, events, record_property):
    job, written = ledger.open_job(acme, "MODEL_GENERATOR"), Event()
    path = f"/v1/jobs/{job.public_id}/events"
    with serving(database_of_this_test()) as gateway, ThreadPoolExecutor(writers + READERS) as pool:
        walks = [pool.submit(walk, gateway.port, acme_token, path, number, written) for number in range(READERS)]
        writing = [pool.submit(write, job, number, events // writers) for number in range(writers)]
        try:
            committed = dict(sorted(pair for writer in writing for pair in writer.result().items()))
        finally:
            written.set()
        for walked in walks:
            assert walked.result() == list(committed.items())
        # And once more from the start, when all is quiet: pages of 500.
        assert walk(gateway.port, acme_token, path, 0, written) == list(committed.items())
    public = job.events.filter(visibility=Visibility.PUBLIC).order_by("seq").values_list("seq", "message")
    assert list(public) == list(committed.items()), "every acknowledged write is committed, and nothing else"
    record_property("cases", len(committed) * (READERS + 1))
