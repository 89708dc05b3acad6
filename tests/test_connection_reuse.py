"""Connections are shared between tenants: no row and no setting passes from one request to the next."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import closing, suppress

import psycopg
import pytest
from django.db import OperationalError, connections
from psycopg_pool.pool_async import WaitingClient
from ulid import ULID

from jobs.database import pipeline, readers
from jobs.database.pipeline import Statement
from jobs.database.readers import WAL_POSITION, PostgreSQLReader, WatchedConnection
from jobs_gateway import application
from jobs_gateway.pages import PageHandler
from tenants import tokens
from tests.client import ask

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True, databases=["default", "api"])]
CONCURRENT, POOL = 16, 4
SIZES = [pytest.param(500, id="500"), pytest.param(10_000, id="10000", marks=pytest.mark.full)]
SETTINGS = "SELECT coalesce(current_setting('app.tenant', true), ''), current_setting('statement_timeout')"


class Deliberate(Exception):
    pass


class WatchedReader(PostgreSQLReader):
    """Notes what each connection had set when a read was given it; five reads in a hundred fail, each in its way."""

    def __init__(self, alias):
        super().__init__(alias)
        self.seen = Counter()

    async def _connection(self):
        watched = await super()._connection()
        result = watched.connection.pgconn.exec_(SETTINGS.encode())
        self.seen[tuple(result.get_value(0, column).decode() for column in (0, 1))] += 1
        return watched

    async def read(self, statement, values):
        match random.randrange(80):
            case 0:
                raise Deliberate("before the read")
            case 1:
                await super().read(statement, values)
                raise Deliberate("after the read")
            case 2:  # in the database, by a setting that is none
                await super().read(statement, values | {"tenant": "nobody"})
            case 3:  # in the database, by the statement itself
                bad = dict.fromkeys(("public_id", "offset", "prefix"), "no id")
                await super().read(statement, values | bad)
                raise Deliberate("no statement failed: this one had no such parameter")
            case 4:  # the caller's deadline passes
                async with asyncio.timeout(0.0001):
                    await super().read(statement, values)
        return await super().read(statement, values)


@pytest.mark.parametrize("requests", SIZES)
def test_no_row_and_no_setting_goes_from_one_request_to_the_next(
    api_role, acme, globex, job_of, requests, record_property, settings, monkeypatch
):
    options = connections.settings["api"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", options["pool"] | {"max_size": POOL})
    monkeypatch.setattr(readers, "POOL_WAIT_SECONDS", 60)

    settings.TOKEN_CACHE_SECONDS = 5
    settings.DATABASE_DEADLINE_SECONDS = 60  # sixteen at four connections, on a machine with other things to do
    own, credentials = {}, {}
    for tenant in (acme, globex):
        event = {"seq": 1, "event_type": "succeeded", "message": tenant.slug, "created_at": "2026-04-15T12:00:00Z"}
        own[tenant.slug] = [str(job_of(tenant, public_id=str(ULID()), events=[event]).public_id) for _ in range(5)]
        credentials[tenant.slug] = f"Bearer {tokens.issue(tenant)}"

    async def ask_one(gateway, number):
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
        scope = {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"authorization", credentials[asker].encode())],
        }
        messages = []
        await ask(gateway, scope, b"", messages)
        status, body = messages[0]["status"], messages[1]["body"].decode()
        answer = json.loads(body)
        if status in (500, 503):
            assert answer.get("code") in ("INTERNAL", 500, "UNAVAILABLE", 503)
        else:
            assert status == (404 if foreign else 200), body
            assert foreign or asker in body or path == "/v1/jobs"
        assert other not in body
        assert not [public_id for public_id in own[other] if public_id in body]
        if path == "/v1/jobs" and status == 200:
            assert {job["public_id"] for job in answer["jobs"]} == set(own[asker])
        return status

    async def ask_all():
        reader = WatchedReader("api")
        monkeypatch.setattr(readers, "readers", {"api": reader})
        gateway = application.with_middleware(PageHandler())
        await reader.open()
        numbers = iter(range(requests))

        async def ask_in_turn():
            return [await ask_one(gateway, number) for number in numbers]

        statuses = await asyncio.gather(*(ask_in_turn() for _ in range(CONCURRENT)))
        stats = reader._pool.get_stats()
        await reader.close()
        return Counter(status for each in statuses for status in each), reader.seen, stats

    statuses, seen, pooled = asyncio.run(ask_all())
    assert 0.01 < (statuses[500] + statuses[503]) / requests < 0.2, statuses
    assert list(seen) == [("", "0")], "a setting outlived its request"
    assert sum(seen.values()) >= 0.9 * requests  # some failed before they had one
    assert pooled["pool_max"] == POOL
    assert pooled["pool_size"] <= POOL
    record_property("cases", requests)


WAITS = Statement("SELECT pg_advisory_lock_shared(15)::text", [], {})


@pytest.mark.parametrize("times", [1, 2])
def test_a_read_whose_connection_is_ended_is_repeated_once(postgresql_server, settings, times):
    settings.STATEMENT_TIMEOUT_MS = 60_000

    async def end_while_it_waits():
        where = {"host": str(postgresql_server.folder), "user": "postgres", "dbname": settings.DATABASES["api"]["NAME"]}
        reader = PostgreSQLReader("api")
        await reader.open()
        async with await psycopg.AsyncConnection.connect(**where, autocommit=True) as other:
            await other.execute("SELECT pg_advisory_lock(15)")
            reading = asyncio.create_task(reader.read(WAITS, {}))
            for _ in range(times):
                pid = await waiting_backend(other)
                await other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            if times == 1:
                await waiting_backend(other)
                await other.execute("SELECT pg_advisory_unlock(15)")
            try:
                return await reading
            finally:
                await reader.close()

    async def waiting_backend(other):
        while True:
            found = await other.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            if row := await found.fetchone():
                return row[0]
            await asyncio.sleep(0.01)

    if times == 1:
        assert asyncio.run(end_while_it_waits()) == [("",)]
    else:
        with pytest.raises(OperationalError, match=r"terminating connection|closed the connection"):
            asyncio.run(end_while_it_waits())


def test_a_read_that_is_cancelled_as_it_gets_its_connection_ends(postgresql_server, monkeypatch):
    """As a worker of webhooks cancels one when it stops. The read would go on as if nothing had happened."""
    give = WaitingClient.set

    async def cancel_after(steps):
        """Whether the read was cancelled so many steps of the event loop later: in one of them it is about to run."""
        reader = PostgreSQLReader("api")
        reading = None

        async def give_and_cancel(client, connection):
            given = await give(client, connection)
            soon(steps)
            return given

        def soon(remaining):
            if remaining:
                asyncio.get_running_loop().call_soon(soon, remaining - 1)
            else:
                cancelled.append(reading.cancel())

        cancelled = []
        monkeypatch.setattr(WaitingClient, "set", give_and_cancel)
        await reader.open()
        reading = asyncio.create_task(reader.read(WAL_POSITION, {}))
        await asyncio.wait([reading])
        assert [reading.cancelled()] == cancelled, steps
        assert len(await reader.read(WAL_POSITION, {})) == 1
        await reader.close()
        return reading.cancelled()

    # On a busy machine it may have its answer before the last of these steps, but not before it has its connection.
    assert [asyncio.run(cancel_after(steps)) for steps in range(8)][:4] == [True] * 4


GARBAGE = {
    "a length that cannot be": b"D\x00\x00\x00\x01",
    "more than the memory": b"T\x7f\xff\xff\xff",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_a_read_ends_when_the_server_sends_what_is_no_answer(postgresql_server, settings, garbage):
    """As a broken pooler does. libpq gives up the connection, and says from then on that there is no result yet."""

    async def ask():
        async def relay(reader, writer):
            from_server, to_server = await asyncio.open_unix_connection(f"{postgresql_server.folder}/.s.PGSQL.5432")
            with closing(writer), closing(to_server), suppress(ConnectionError):
                upwards = asyncio.create_task(copy(reader, to_server))
                while data := await from_server.read(65536):
                    writer.write(garbage if is_broken else data)
                await upwards
            ended.set()

        async def copy(source, target):
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    target.write(data)
            target.close()

        ended = asyncio.Event()
        is_broken = False
        async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
            where = {"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1], "user": "postgres"}
            where |= {"dbname": settings.DATABASES["api"]["NAME"], "sslmode": "disable", "autocommit": True}
            connection = await psycopg.AsyncConnection.connect(**where)
            watched = WatchedConnection(connection)

            async def read():
                return await watched.run(pipeline.read(connection, WAL_POSITION, [], None))

            assert len(await read()) == 1
            is_broken = True
            with pytest.raises(psycopg.Error):
                await read()
            assert connection.closed
            watched.end_watch()
            await ended.wait()

    asyncio.run(ask())


def test_callers_cannot_fill_the_server_with_prepared_statements():
    async def ask():
        reader = PostgreSQLReader("api")
        await reader.open()
        try:
            for number in [*range(pipeline.MAX_PREPARED + 20), 0, 1]:  # the first two are prepared once more
                assert await reader.read(Statement(f"SELECT '{number}'", [], {}), {}) == [(str(number),)]
            counted = Statement("SELECT count(*)::text FROM pg_prepared_statements", [], {})
            [(number,)] = await reader.read(counted, {})
            return int(number)
        finally:
            await reader.close()

    assert pipeline.MAX_PREPARED - 3 < asyncio.run(ask()) <= pipeline.MAX_PREPARED
