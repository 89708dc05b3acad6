"""Connections go from one tenant's request to the next one's: no row goes with them, and no setting."""

from __future__ import annotations

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections
from django.test import RequestFactory
from ulid import ULID

from jobs.database.prepared import PreparedQuery
from jobs_gateway.handler import GatewayHandler
from tenants import tokens

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True, databases=["default", "api"])]
THREADS, POOL = 16, 4
SIZES = [pytest.param(500, id="500"), pytest.param(10_000, id="10000", marks=pytest.mark.full)]
SETTINGS = "SELECT coalesce(current_setting('app.tenant', true), ''), current_setting('statement_timeout')"


class Deliberate(Exception):
    pass


@pytest.fixture
def small_pool(api_role, monkeypatch):
    """The API's connections, of which there are four."""
    api_role.close()
    api_role.close_pool()
    options = connections.settings["api"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", options["pool"] | {"max_size": POOL, "timeout": 60})
    return api_role


@pytest.fixture
def at_checkout(monkeypatch):
    """What each connection had set when a request was given it; five requests in a hundred raise, each in its way."""
    seen, fetch = Counter(), PreparedQuery._fetch

    def watched(self, values, alias):
        with connections[alias].cursor() as cursor:
            cursor.execute(SETTINGS)
            seen[cursor.fetchone()] += 1
        match random.randrange(80):
            case 0:
                raise Deliberate("before the read")
            case 1:
                fetch(self, values, alias)
                raise Deliberate("after the read")
            case 2:  # in the database, by a setting that is none
                fetch(self, values | {"tenant": "nobody"}, alias)
            case 3:  # in the database, by the statement itself
                fetch(self, values | {"public_id": "no id", "limit": "no number", "offset": "no number"}, alias)
                raise Deliberate("no statement failed: this one had no such parameter")
        return fetch(self, values, alias)

    monkeypatch.setattr(PreparedQuery, "_fetch", watched)
    return seen


@pytest.mark.parametrize("requests", SIZES)
def test_no_row_and_no_setting_goes_from_one_request_to_the_next(
    small_pool, at_checkout, acme, globex, job_of, requests, record_property, settings
):
    application = GatewayHandler()  # as a server calls it: a connection goes back after each answer

    settings.TOKEN_CACHE_SECONDS = 5
    settings.DATABASE_PATIENCE_SECONDS = 60  # sixteen at four connections, on a machine with other things to do
    own, credentials = {}, {}
    for tenant in (acme, globex):
        event = {"seq": 1, "event_type": "succeeded", "message": tenant.slug, "created_at": "2026-04-15T12:00:00Z"}
        own[tenant.slug] = [str(job_of(tenant, public_id=str(ULID()), events=[event]).public_id) for _ in range(5)]
        credentials[tenant.slug] = f"Bearer {tokens.issue(tenant)}"

    def ask(number):
        chance = random.Random(number)
        asker, other = chance.sample(sorted(own), 2)
        path, foreign = chance.choice(
            [
                ("/v1/jobs", False),
                ("/job", False),
                (f"/v1/jobs/{chance.choice(own[asker])}", False),
                (f"/v1/jobs/{chance.choice(own[asker])}/events", False),
                (f"/v1/jobs/{chance.choice(own[other])}", True),
                (f"/v1/jobs/{chance.choice(own[other])}/events", True),
            ]
        )
        environ = RequestFactory().get(path).environ | {"HTTP_AUTHORIZATION": credentials[asker]}
        answered = {}
        answer = application(environ, lambda status, headers: answered.update(status=int(status[:3])))
        body = b"".join(answer).decode()
        told = json.loads(body)
        if answered["status"] == 500:
            assert told.get("code") in ("INTERNAL", 500)
        else:
            assert answered["status"] == (404 if foreign else 200), body
            assert foreign or asker in body or path == "/v1/jobs"
        assert other not in body
        assert not [public_id for public_id in own[other] if public_id in body]
        if path == "/v1/jobs" and answered["status"] == 200:
            assert {job["public_id"] for job in told["jobs"]} == set(own[asker])
        return answered["status"]

    with ThreadPoolExecutor(THREADS) as pool:
        statuses = Counter(pool.map(ask, range(requests)))
    assert 0.01 < statuses[500] / requests < 0.15, statuses
    assert list(at_checkout) == [("", "0")], "a setting outlived its request"
    assert sum(at_checkout.values()) >= requests
    pooled = small_pool.pool.get_stats()
    assert pooled["pool_max"] == POOL
    assert pooled["pool_size"] <= POOL
    record_property("cases", requests)
