"""Rate limits: exactly as many requests pass as the setting says, and none while they cannot be counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network

import pytest
from django.core import checks
from django.core.cache import cache
from django.db import connections
from django.http import HttpRequest

from jobs_gateway.settings import cache as cache_settings
from tenants import proxies, throttling, tokens
from tenants.callers import Caller
from tenants.models import Tenant
from tenants.shared_cache import SharedCache
from tests import servers
from tests.client import Client
from tests.gateway import database_of_this_test, serving

pytestmark = pytest.mark.full_on_postgresql

LOCAL_MEMORY = ""  # CACHE_URL is not set
NOON = 1_776_254_400.0  # the clock stands still, so that no window ends in the middle of a test


class Clock:
    now = NOON

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    stopped = Clock()
    monkeypatch.setattr(throttling, "time", stopped)
    monkeypatch.setattr(throttling, "_counter", CounterOfManyLoops())
    return stopped


class CounterOfManyLoops(throttling._Counter):
    """The gateway's, for the test client, whose requests have an event loop each."""

    async def increment(self, key):
        cache_of_this_loop = SharedCache()
        counter = throttling._Counter(cache_of_this_loop)
        counter._paused_until = self._paused_until
        try:
            return await counter.increment(key)
        finally:
            self._paused_until = counter._paused_until
            await close(cache_of_this_loop)


async def close(cache_of_this_loop):
    await cache_of_this_loop.close()
    for _ in range(3):  # until the loop has closed the sockets
        await asyncio.sleep(0)


@pytest.fixture
def count_in(settings):
    """Makes the limits count in the cache at a URL, from zero."""

    def use(url):
        settings.CACHES = {"default": cache_settings(url)}
        cache.clear()

    return use


# For tests of the count: a question that is not answered in time is asked again, and counted twice.
PATIENT = "?socket_timeout=30&socket_connect_timeout=30"


@pytest.fixture(params=["valkey", "local memory"])
def shared_cache(request, count_in):
    count_in(request.getfixturevalue("valkey_server").url + PATIENT if request.param == "valkey" else LOCAL_MEMORY)


def statuses(client, requests, path="/v1/jobs", **headers):
    return [client.get(path, **headers).status_code for _ in range(requests)]


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.full)])
def test_of_200_parallel_requests_exactly_the_limit_passes(
    rounds, shared_cache, clock, settings, record_property, monkeypatch
):
    settings.RATE_LIMIT_PER_TENANT = 50
    # It is about the count: on a busy machine 200 may wait longer for a connection than requests do.
    monkeypatch.setattr("tenants.shared_cache.WAIT_SECONDS", 60.0)
    acme = Caller(1, "acme", "tenants/acme/", None)

    async def ask_together():
        asked = (throttling.count_request(HttpRequest(), acme) for _ in range(200))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        await close(cache_of_this_loop)
        return outcomes

    for _ in range(rounds):
        clock.now += 60
        cache_of_this_loop = SharedCache()
        counter = throttling._Counter(cache_of_this_loop)
        monkeypatch.setattr(throttling, "_counter", counter)
        outcomes = asyncio.run(ask_together())
        assert outcomes.count(None) == 50
        assert sum(isinstance(each, throttling.RateLimited) for each in outcomes) == 150
    record_property("cases", rounds)


def test_the_api_lets_exactly_the_limit_through(shared_cache, settings, transactional_db, acme_client):
    settings.RATE_LIMIT_PER_TENANT = 51
    settings.TOKEN_CACHE_SECONDS = 5
    assert acme_client.get("/v1/jobs").status_code == 200  # the token is cached: a look-up is shared within one loop

    def ask(_):
        try:
            return acme_client.get("/v1/jobs").status_code
        finally:
            connections.close_all()  # as a server does after a request; the test client leaves it to the test

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(200)))

    assert (answers.count(200), answers.count(429)) == (50, 150)


def seconds_left(who, secret_key):
    """In the present window of ``who``, a tenant's id or an address, in a gateway that runs."""
    return throttling.WINDOW_SECONDS - (time.time() + throttling._phase(secret_key, who)) % throttling.WINDOW_SECONDS


def new_tenant_with_time_left(seconds, secret_key):
    """A tenant whose present window lasts that long: when windows begin depends on the tenant's id."""
    for number in range(1000):
        tenant = Tenant.objects.create(slug=f"tenant-{time.monotonic_ns()}-{number}")
        if seconds_left(str(tenant.pk), secret_key) > seconds:
            return tenant
    raise AssertionError("No tenant has a window that lasts so long.")


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.full)])
def test_of_200_parallel_requests_to_two_processes_exactly_the_limit_passes(
    rounds, transactional_db, own_valkey, record_property, settings
):
    with (
        serving(database_of_this_test(), 2, RATE_LIMIT_PER_TENANT="50", CACHE_URL=own_valkey.url + PATIENT) as gateway,
        ThreadPoolExecutor(200) as pool,
    ):
        for _ in range(rounds):
            token = tokens.issue(new_tenant_with_time_left(20, settings.SECRET_KEY))
            answers = list(pool.map(lambda _, token=token: gateway.get("/v1/jobs", token), range(200)))
            assert Counter(answer.status for answer in answers) == {200: 50, 429: 150}
            left = sorted(int(answer.headers["RateLimit"].split("r=")[1].split(";")[0]) for answer in answers)
            assert left == [0] * 150 + list(range(50))
            refused = [answer for answer in answers if answer.status == 429]
            assert all(1 <= int(answer.headers["Retry-After"]) <= throttling.WINDOW_SECONDS for answer in refused)
            assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"tenant";q=50;w=60'}
    record_property("cases", rounds)


def in_seconds(number):
    return "1 second" if int(number) == 1 else f"{number} seconds"


def test_one_second_is_one_second():
    assert throttling.RateLimited("Too many.", 1).detail == "Too many. Try again in 1 second."
    assert throttling.RateLimited("Too many.", 2).detail == "Too many. Try again in 2 seconds."


def test_when_windows_begin_says_nothing_about_the_number_of_a_tenant():
    """It depends on the secret key. Otherwise a tenant could compute its number, and so that there are others."""
    keys = [f"{number:050}" for number in range(20)]
    assert len({throttling._phase(key, "7") for key in keys}) > 5
    assert len({throttling._phase(keys[0], str(number)) for number in range(20)}) > 5


def test_an_answer_says_how_many_requests_are_left(shared_cache, settings, acme, acme_client):
    settings.RATE_LIMIT_PER_TENANT = 2
    first, second, third = (acme_client.get("/v1/jobs") for _ in range(3))
    seconds_left = int(third.headers["Retry-After"])

    assert [answer.status_code for answer in (first, second, third)] == [200, 200, 429]
    assert {answer.headers["RateLimit-Policy"] for answer in (first, second, third)} == {'"tenant";q=2;w=60'}
    assert [answer.headers["RateLimit"] for answer in (first, second, third)] == [
        f'"tenant";r=1;t={seconds_left}',
        f'"tenant";r=0;t={seconds_left}',
        f'"tenant";r=0;t={seconds_left}',
    ]
    assert third.json() == {
        "code": "RATE_LIMITED",
        "detail": f"This tenant has used up its requests of this minute, 2. Try again in {in_seconds(seconds_left)}.",
    }
    assert 1 <= seconds_left <= 60


def test_the_fleet_dialect_shares_the_limit_and_says_it_its_own_way(shared_cache, settings, acme_client):
    settings.RATE_LIMIT_PER_TENANT = 1
    assert acme_client.get("/v1/jobs").status_code == 200
    refused = acme_client.get("/job")
    wait = refused.headers["Retry-After"]
    assert refused.status_code == 429
    assert refused.json() == {
        "error": f"This tenant has used up its requests of this minute, 1. Try again in {in_seconds(wait)}.",
        "code": 429,
    }


def test_after_retry_after_the_tenant_is_welcome_again(shared_cache, settings, clock, acme_client):
    settings.RATE_LIMIT_PER_TENANT = 1
    assert statuses(acme_client, 2) == [200, 429]
    wait = int(acme_client.get("/v1/jobs").headers["Retry-After"])

    clock.now += wait - 1
    assert statuses(acme_client, 1) == [429]
    clock.now += 1
    assert statuses(acme_client, 2) == [200, 429]


def test_all_tokens_of_a_tenant_share_its_limit_and_no_other_tenants(
    shared_cache, settings, acme, acme_client, globex_client
):
    settings.RATE_LIMIT_PER_TENANT = 2
    other_token = Client(headers={"Authorization": f"Bearer {tokens.issue(acme)}"})
    assert statuses(acme_client, 1) + statuses(other_token, 2) == [200, 200, 429]
    assert statuses(globex_client, 3) == [200, 200, 429]


def test_every_request_with_a_good_credential_counts_whatever_its_answer(shared_cache, settings, acme_client):
    settings.RATE_LIMIT_PER_TENANT = 100
    answers = [
        acme_client.get("/v1/jobs?limit=0"),
        acme_client.get("/v1/jobs/nothing"),
        acme_client.head("/v1/jobs"),
        acme_client.options("/v1/jobs"),
        acme_client.get("/v1/jobs", headers={"X-Shopify-Hmac-Sha256": ""}),
        acme_client.get("/job"),
    ]
    assert [answer.status_code for answer in answers] == [422, 404, 200, 200, 401, 200]
    left = [answer.headers["RateLimit"].split(";")[1] for answer in answers]
    assert left == ["r=99", "r=98", "r=97", "r=96", "r=95", "r=94"]


def test_failed_credentials_are_limited_by_address_and_good_ones_still_open(shared_cache, settings, acme_client):
    settings.RATE_LIMIT_FAILED_PER_ADDRESS = 3
    here, elsewhere = Client(REMOTE_ADDR="192.0.2.1"), Client(REMOTE_ADDR="192.0.2.2")
    guess = {"Authorization": "Bearer jgw_guess"}

    assert statuses(here, 1) + statuses(here, 4, headers=guess) == [401, 401, 401, 429, 429]
    refused = here.get("/v1/jobs", headers=guess)
    wait = refused.headers["Retry-After"]
    assert refused.json() == {
        "code": "RATE_LIMITED",
        "detail": f"Too many credentials from here failed in this minute, over 3. Try again in {in_seconds(wait)}.",
    }
    assert refused.headers["RateLimit-Policy"] == '"failed";q=3;w=60'
    assert statuses(acme_client, 5, REMOTE_ADDR="192.0.2.1") == [200] * 5
    assert statuses(elsewhere, 4, headers=guess) == [401, 401, 401, 429]


def test_a_wrong_hmac_is_a_failed_credential_too(shared_cache, settings, acme_client):
    settings.RATE_LIMIT_FAILED_PER_ADDRESS = 2
    assert statuses(acme_client, 3, headers={"X-Shopify-Hmac-Sha256": "guess"}) == [401, 401, 429]
    assert statuses(acme_client, 1) == [200]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # No proxy is trusted, so the header does not count.
        ("192.0.2.7", None, "192.0.2.7"),
        ("192.0.2.7", "10.0.0.1", "192.0.2.7"),
        ("192.0.2.7", "203.0.113.9, 10.0.0.1", "192.0.2.7"),
        # Behind trusted proxies: the last hop that is not one of them. Entries before it do not count.
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3, 203.0.113.9,10.9.9.9 , 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        # What is no address vouches for nothing before it.
        ("10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, , 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "\0\xff", "10.0.0.1"),
        ("10.0.0.1", ",".join(["203.0.113.9"] + ["10.0.0.2"] * 4000), "10.0.0.2"),
        # Ports, which some proxies write.
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8:1:2::9]:4711", "2001:db8:1:2::"),
        ("10.0.0.1", "203.0.113.9:x", "10.0.0.1"),
        # IPv6: a customer has a whole /64; and IPv4 written as IPv6 is IPv4.
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", None, "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", None, "192.0.2.7"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("fd00::1", "203.0.113.9", "203.0.113.9"),
        # A server on a Unix socket has no client address.
        ("", "203.0.113.9", "None"),
    ],
)
def test_the_address_that_counts_is_the_one_our_own_proxies_saw(peer, forwarded, client, settings):
    settings.TRUSTED_PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    request = HttpRequest()
    request.META = {"REMOTE_ADDR": peer} | ({} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded})
    assert proxies.client_address(request) == client


def test_without_trusted_proxies_a_forwarded_address_escapes_no_limit(shared_cache, settings):
    settings.RATE_LIMIT_FAILED_PER_ADDRESS = 2
    answers = [Client().get("/v1/jobs", headers={"X-Forwarded-For": f"203.0.113.{n}"}).status_code for n in range(4)]
    assert answers == [401, 401, 429, 429]


@pytest.fixture
def own_valkey(count_in):
    with servers.valkey() as server:
        count_in(server.url)
        yield server


@pytest.fixture
def short_pause(monkeypatch):
    """Makes the gateway try a failed cache again after 0.1 seconds."""
    monkeypatch.setattr(throttling, "PAUSE_SECONDS", 0.1)
    return 0.1


@pytest.mark.parametrize("outage", ["stopped", "hanging"])
@pytest.mark.parametrize("credential", ["good", "bad"])
def test_while_the_cache_is_down_no_request_passes(
    outage, credential, own_valkey, short_pause, settings, acme_client, anonymous_client
):
    settings.RATE_LIMIT_PER_TENANT = settings.RATE_LIMIT_FAILED_PER_ADDRESS = 1000
    client, usual = (acme_client, 200) if credential == "good" else (anonymous_client, 401)
    assert statuses(client, 2) == [usual, usual]

    own_valkey.stop() if outage == "stopped" else own_valkey.hang()
    for _ in range(2):
        asked = time.monotonic()
        refused = client.get("/v1/jobs")
        assert time.monotonic() - asked < 2
        assert refused.status_code == 503
        assert refused.json() == {
            "code": "UNAVAILABLE",
            "detail": "The gateway cannot count requests right now. Try again in a few seconds.",
        }
        assert int(refused.headers["Retry-After"]) >= 1
        time.sleep(short_pause)  # so that the cache is tried again

    own_valkey.start() if outage == "stopped" else own_valkey.go_on()
    time.sleep(short_pause)
    assert statuses(client, 1) == [usual]


def test_a_cache_that_failed_is_left_alone_for_a_second(own_valkey, settings, acme_client):
    settings.RATE_LIMIT_PER_TENANT = 1000
    statuses(acme_client, 1)
    own_valkey.hang()
    assert statuses(acme_client, 1) == [503]
    asked = time.monotonic()
    assert statuses(acme_client, 10) == [503] * 10
    assert time.monotonic() - asked < throttling.PAUSE_SECONDS / 2
    own_valkey.go_on()


def test_no_limit_costs_nothing_and_says_nothing(own_valkey, acme_client, anonymous_client):
    own_valkey.stop()
    for client, usual in ((acme_client, 200), (anonymous_client, 401)):
        answer = client.get("/v1/jobs")
        assert answer.status_code == usual
        assert not {"RateLimit", "RateLimit-Policy", "Retry-After"} & set(answer.headers)


@pytest.mark.parametrize(
    ("url", "limit", "ids"),
    [
        (LOCAL_MEMORY, 0, []),
        (LOCAL_MEMORY, 50, ["tenants.W002"]),
        (LOCAL_MEMORY, -1, ["tenants.E003"]),
        ("valkey://localhost:6379/0", 50, []),
        ("redis://localhost:6379/0", 50, []),
        ("rediss://localhost:6379/0", 50, []),
    ],
)
@pytest.mark.parametrize("setting", ["RATE_LIMIT_PER_TENANT", "RATE_LIMIT_FAILED_PER_ADDRESS"])
def test_a_limit_needs_a_cache_that_all_processes_share(url, limit, ids, setting, settings):
    settings.CACHES = {"default": cache_settings(url)}
    setattr(settings, setting, limit)
    ours = {"tenants.E003", "tenants.W002"}
    assert [message.id for message in checks.run_checks() if message.id in ours] == ids
