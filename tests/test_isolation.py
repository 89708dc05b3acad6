"""No byte of one tenant reaches another: by id, cursor, filter, link or credential."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
from django.core.files.base import ContentFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from ulid import ULID

from jobs.models import Job, JobType
from tenants import tokens
from tenants.callers import credential_cache
from tests import forgery
from tests.client import Client
from tests.conftest import client_with
from tests.leak_checks import watch

NOON = "2026-04-15T12:00:00Z"
LINK = re.compile(rb'"image_url":"([^"]+)"')
# Every text of a tenant's jobs holds its mark, and nothing else does.
MARKS = {"acme": "mark-of-acme", "globex": "mark-of-globex"}


@pytest.fixture
def stores(request, acme, globex, job_of, local_store):
    """Jobs of two tenants, turn by turn: of equal times, types and statuses, with texts that say whose they are."""

    def record(tenant, n):
        mark = MARKS[tenant.slug]
        key = f"tenants/{tenant.slug}/{n}/{mark}.png"
        local_store.save(key, ContentFile(mark.encode()))
        picture = {"storage_key": key, "kind": mark, "role": "final", "label": mark, "meta": {mark: mark}}
        details = {"created_at": NOON, "message": mark, "stage": mark, "extra": {mark: [mark]}, "artifacts": [picture]}
        kinds = [("queued", "public"), ("stage", "internal"), ("succeeded" if n % 2 else "stage", "public")]
        events = [
            {"seq": n, "event_type": kind, "visibility": seen} | details for n, (kind, seen) in enumerate(kinds, 1)
        ]
        if n % 5 == 4:
            events = [
                {"seq": 1, "event_type": "completed", "hostname": mark, "extra": {"data": mark}} | {"created_at": NOON}
            ]
        job_type = "node.command" if n % 5 == 4 else JobType.values[n % 3]
        created_at, public_id = f"2026-04-15T12:00:{n:02}Z", str(ULID())
        return job_of(
            tenant, job_type=job_type, created_at=created_at, public_id=public_id, request={mark: mark}, events=events
        )

    jobs: dict[str, list[Job]] = {"acme": [], "globex": []}
    # The long form has more of each kind; a fifth are operations.
    for n in range(20 if request.config.getoption("--full") else 10):
        for tenant in (acme, globex):
            jobs[tenant.slug].append(record(tenant, n))
    return jobs


@pytest.fixture
def clients(acme, globex):
    return {tenant.slug: client_with(tokens.issue(tenant)) for tenant in (acme, globex)}


def other_of(slug):
    return {"acme": "globex", "globex": "acme"}[slug]


def paths_for(jobs: dict[str, list[Job]], asker: str) -> Iterator[str]:
    """Paths of all requests about the asker's own jobs and about those of the other tenant."""
    for job in jobs[asker] + jobs[other_of(asker)]:
        yield f"/v1/jobs/{job.public_id}"
        yield from (f"/v1/jobs/{job.public_id}/events?since={since}" for since in (0, 2, -7))
    filters = ["", "status=SUCCESS", "job_type=MODEL_GENERATOR", f"created_after={NOON}", "limit=3&offset=2"]
    theirs = other_of(asker)
    for given in [*filters, f"tenant_id={theirs}", f"tenant={theirs}", "limit=200&offset=0"]:
        yield f"/v1/jobs?{given}"
    for given in ("", "status=completed", "status=processing", "limit=100", "offset=3", f"tenant_id={theirs}"):
        yield f"/job?{given}"


def marks_in(content: bytes) -> set[str]:
    return {slug for slug, mark in MARKS.items() if mark.encode() in content}


def test_no_answer_holds_a_byte_of_the_other_tenants(stores, clients):
    own_ids = {slug: {str(job.public_id) for job in jobs} for slug, jobs in stores.items()}
    own_uuids = {slug: {str(job.public_id.to_uuid()) for job in jobs} for slug, jobs in stores.items()}
    for asker, client in clients.items():
        seen = set()
        for path in paths_for(stores, asker):
            response = client.get(path)
            assert response.status_code in (200, 404)
            everything = response.content + str(dict(response.headers)).encode()
            assert other_of(asker) not in marks_in(everything)
            for foreign in own_ids[other_of(asker)] | own_uuids[other_of(asker)]:
                assert foreign.encode() not in everything
            seen |= set(re.findall(rb"[0-9A-Z]{26}", response.content))
        assert seen == {public_id.encode() for public_id in own_ids[asker]}


def test_totals_count_the_callers_jobs_alone(stores, clients, globex, job_of):
    for _ in range(3):
        job_of(globex)
    number = len(stores["acme"])
    operations = number // 5
    for slug, all_jobs in (("acme", number), ("globex", number + 3)):
        workflows = all_jobs - operations
        assert clients[slug].get("/job").json()["total_items"] == all_jobs
        assert clients[slug].get("/v1/jobs?limit=200").json()["count"] == workflows


def test_a_cursor_leads_through_the_callers_jobs_alone(stores, clients):
    for asker, client in clients.items():
        path, walked = "/v1/jobs?limit=3", []
        while path:
            response = client.get(path)
            walked += [job["public_id"] for job in response.json()["jobs"]]
            stranger = clients[other_of(asker)].get(path)
            assert stranger.status_code == (422 if "cursor" in path else 200)
            link = response.headers.get("Link", "")
            path = link.partition("testserver")[2].partition(">")[0]
        assert set(walked) == {str(job.public_id) for job in stores[asker] if job.job_type in JobType.values}


def test_every_link_that_is_handed_out_leads_to_a_file_of_the_callers(stores, clients):
    for asker, client in clients.items():
        found = {url for path in paths_for(stores, asker) for url in LINK.findall(client.get(path).content)}
        assert found
        for url in found:
            link = urlsplit(url.decode())
            assert link.path.startswith(f"/artifacts/tenants/{asker}/")
            assert Client().get(f"{link.path}?{link.query}").content == MARKS[asker].encode()
            theirs = link.path.replace(asker, other_of(asker))
            assert Client().get(f"{theirs}?{link.query}").status_code == 403


def test_a_key_of_the_other_tenants_that_is_typed_into_a_request_is_not_signed(clients, acme, job_of):
    key = "tenants/globex/1/guessed.png"
    job = job_of(
        acme, request={"source": key, "image_url": key, "storage_key": f"s3://bucket/{key}"}, public_id=str(ULID())
    )
    body = clients["acme"].get(f"/v1/jobs/{job.public_id}").json()
    assert "signature" not in str(body["request"]).lower()
    assert "s3://" not in str(body["request"])
    watch.in_links_only.discard(key)  # what acme typed, acme may read again


# --- unknown and foreign ---

INCIDENTAL = {"X-Request-ID", "Date", "RateLimit", "RateLimit-Policy"}


class Seen(NamedTuple):
    """All that a caller can see of a request, and the statements that it ran."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]
    statements: tuple[str, ...]


def look(client, path, public_id, method="GET", **headers) -> Seen:
    client.get("/v1/jobs?limit=1")
    with CaptureQueriesContext(connection) as statements:
        response = client.generic(method, path, headers=headers)
    received = tuple(sorted(item for item in response.headers.items() if item[0] not in INCIDENTAL))
    spellings = "|".join({public_id.hex, public_id.hex.upper(), str(public_id), str(public_id.to_uuid())})
    ran = tuple(re.sub(spellings, "ID", statement["sql"]) for statement in statements)
    return Seen(response.status_code, response.content, received, ran)


def test_a_foreign_id_is_in_nothing_different_from_an_unknown_one(stores, clients, settings):
    settings.TOKEN_CACHE_SECONDS = 5
    for method, tail, headers in itertools.product(
        ["GET", "HEAD", "OPTIONS", "POST", "DELETE"],
        ["", "/events", "/events?since=1", "/events?since=x", "?tenant_id=2", "/nothing"],
        [{}, {"If-None-Match": "*"}, {"Accept": "text/html"}, {"X-Shopify-Hmac-Sha256": "x"}],
    ):
        foreign, unknown = stores["globex"][1].public_id, ULID()
        seen = [
            look(clients["acme"], f"/v1/jobs/{spelled}{tail}", public_id, method, **headers)
            for public_id in (foreign, unknown)
            for spelled in (str(public_id), str(public_id).lower())
        ]
        assert len(set(seen)) == 1, (method, tail, headers)
        if method in ("GET", "HEAD") and not headers and "x" not in tail and tail != "/nothing":
            assert seen[0].status == 404


def test_a_malformed_id_differs_only_in_the_statements(stores, clients):
    seen = [
        look(clients["acme"], f"/v1/jobs/{spelled}", ULID())[:3]
        for spelled in (ULID(), "x", "é", "%00", "1" * 26 + "1")
    ]
    assert len(set(seen)) == 1


# --- security test 1: the access table ---

DENIED = {
    "none": {},
    "malformed": {"Authorization": "Bearer not-a-token"},
    "another scheme": {"Authorization": "Basic YWNtZTphY21l"},
    "unknown": {"Authorization": f"Bearer jgw_{'a' * 12}_{'b' * 43}"},
}


@pytest.fixture
def credentials(acme, globex, admin_client, settings):
    """Clients by the credential they send, with the tenant it opens: a slug, or None for 401."""
    settings.SHOPIFY_API_KEY, settings.SHOPIFY_API_SECRETS = forgery.API_KEY, [forgery.SECRET]
    now = timezone.now()
    good = tokens.issue(acme)
    expired = tokens.issue(acme, expires_at=now - timedelta(seconds=1))
    revoked = tokens.issue(acme)
    tokens.revoke(revoked.split("_")[1])
    idle = type(acme).objects.create(slug="idle", is_active=False)
    inactive = tokens.issue(idle)
    flipped = good[:-1] + ("A" if good[-1] != "A" else "B")
    mixed = f"{good.rpartition('_')[0]}_{tokens.issue(acme).rpartition('_')[2]}"
    staff = Client(headers={"Authorization": f"Bearer {good}"})
    staff.cookies = admin_client.cookies
    return {
        "acme's": (client_with(good), "acme"),
        "acme's second": (client_with(tokens.issue(acme)), "acme"),
        "acme's, in lower case": (Client(headers={"Authorization": f"bearer {good}"}), "acme"),
        "acme's, with a staff cookie": (staff, "acme"),
        "globex's": (client_with(tokens.issue(globex)), "globex"),
        "expired": (client_with(expired), None),
        "revoked": (client_with(revoked), None),
        "of an inactive tenant": (client_with(inactive), None),
        "acme's session token": (client_with(forgery.session_token()), "acme"),
        "an expired session token": (client_with(forgery.session_token(exp=int(now.timestamp()) - 60)), None),
        "a session token of no tenant's shop": (
            client_with(forgery.session_token(dest="https://nobody.myshopify.com")),
            None,
        ),
        "a session token of another app": (client_with(forgery.session_token(aud="another")), None),
        "a forged session token": (client_with(forgery.session_token("forged")), None),
        "flipped": (client_with(flipped), None),
        "prefix of one, secret of another": (client_with(mixed), None),
        "a staff cookie": (admin_client, None),
        **{name: (Client(headers=headers), None) for name, headers in DENIED.items()},
    }


class Route(NamedTuple):
    path: str
    owner: str | None  # whose job it names; None where it names none
    status: int = 200  # what the owner is answered
    door: str = "token"  # or "link": the link alone opens it; "staff": a staff session; "": nothing is asked for


def routes(jobs: dict[str, list[Job]], cursors: dict[str, str], links: dict[str, str]) -> Iterator[Route]:
    for slug, own in jobs.items():
        for job in own:
            for spelled in (str(job.public_id), str(job.public_id).lower()):
                yield Route(f"/v1/jobs/{spelled}", slug)
                yield Route(f"/v1/jobs/{spelled}/events", slug)
            yield Route(f"/v1/jobs/{job.public_id}/events?since=2", slug)
        yield Route(f"/v1/jobs?limit=3&cursor={quote(cursors[slug])}", slug)
    for name in (str(ULID()), "nonsense", "%00"):
        yield Route(f"/v1/jobs/{name}", None, 404)
        yield Route(f"/v1/jobs/{name}/events", None, 404)
    filters = ["", "status=SUCCESS", "status=FAILURE", "job_type=MODEL_GENERATOR", f"created_after={NOON}", "offset=7"]
    for given in [*filters, "tenant_id=1", "tenant_id=2", "tenant=globex"]:
        yield Route(f"/v1/jobs?limit=200&{given}", None)
    for given in ("", "status=completed", "status=failed", "offset=7", "tenant_id=2"):
        yield Route(f"/job?limit=100&{given}", None)
    for given in ("limit=0", "status=x", "cursor=x", "offset=-1"):
        yield Route(f"/v1/jobs?{given}", None, 422)
    yield Route("/job?limit=0", None, 400)
    yield from routes_beside_the_api(jobs, links)


def routes_beside_the_api(jobs: dict[str, list[Job]], links: dict[str, str]) -> Iterator[Route]:
    for slug, link in links.items():
        yield Route(link, slug, door="link")
        unsigned, _, query = link.partition("?")
        yield Route(unsigned, slug, 403, door="link")
        yield Route(f"{unsigned.replace(slug, other_of(slug))}?{query}", slug, 403, door="link")
        yield Route(f"/admin/jobs/job/{jobs[slug][0].public_id}/change/", slug, door="staff")
    for path in ("/admin/", "/admin/jobs/job/", "/admin/tenants/tenant/", "/admin/tenants/apitoken/"):
        yield Route(path, None, door="staff")
    for path in ("/", "/docs", "/redoc", "/v1/openapi.json", "/livez", "/readyz"):
        yield Route(path, None, door="")


@pytest.mark.parametrize("size", [pytest.param(1, id="short"), pytest.param(20, id="full", marks=pytest.mark.full)])
def test_the_access_table(stores, clients, credentials, size, record_property):
    """Each credential on each route: the caller's own data, or 404 as for an unknown job, or 401 as without a
    credential.

    A link opens its one picture to anyone who has it, and a credential adds nothing; the console uses sessions.
    """
    credential_cache.clear()
    cursors, links = {}, {}
    for slug, client in clients.items():
        cursors[slug] = re.search("cursor=([^&>]+)", client.get("/v1/jobs?limit=3").headers["Link"])[1].replace(
            "%3D", "="
        )
        link = urlsplit(LINK.search(client.get(f"/v1/jobs/{stores[slug][1]}/events").content)[1].decode())
        links[slug] = f"{link.path}?{link.query}"
    table = list(routes({slug: own[:size] for slug, own in stores.items()}, cursors, links))
    refusals: dict[str, set[tuple[Any, ...]]] = {"/v1": set(), "/job": set()}
    misses = set()
    cases = 0
    for (name, (client, slug)), route in itertools.product(credentials.items(), table):
        cases += 1
        response = client.get(route.path)
        if route.door != "token":
            opens = route.door != "staff" or "staff cookie" in name
            assert response.status_code == (route.status if opens else 302), (name, route)
            if route.door != "staff":
                own = {route.owner} if route.door == "link" and route.status == 200 else set()
                assert marks_in(response.content) == own, (name, route)
            elif not opens:
                assert response.headers["Location"].startswith("/admin/login/")
            continue
        received = tuple(sorted(item for item in response.headers.items() if item[0] not in INCIDENTAL))
        if slug is None:
            assert response.status_code == 401
            refusals["/job" if route.path.startswith("/job") else "/v1"].add((response.content, received))
        elif route.owner not in (None, slug):
            assert response.status_code == (422 if "cursor" in route.path else 404)
            if response.status_code == 404:
                misses.add((response.content, received))
        else:
            assert response.status_code == route.status, route
            assert marks_in(response.content) <= {slug}
            if route.status == 404:
                misses.add((response.content, received))
    assert [len(seen) for seen in refusals.values()] == [1, 1], "every rejected credential gets the same response"
    assert len(misses) == 1, "a foreign id is answered exactly as an unknown one"
    record_property("cases", cases)


@pytest.mark.full_on_postgresql
def test_pages_and_documents_show_no_tenants_data(stores, credentials):
    for client, _slug in credentials.values():
        for path in (
            "/",
            "/docs",
            "/redoc",
            "/v1/openapi.json",
            "/livez",
            "/readyz",
            "/artifacts/",
            "/artifacts/tenants/acme/",
        ):
            assert not marks_in(client.get(path).content)


@pytest.mark.full_on_postgresql  # sessions and signatures are checked before any statement
def test_a_token_opens_no_admin_page_and_no_unsigned_file(stores, credentials):
    job = stores["acme"][0]
    for name, (client, _slug) in credentials.items():
        if "staff" in name:
            continue
        for path in (
            "/admin/",
            "/admin/jobs/job/",
            f"/admin/jobs/job/{job.public_id}/change/",
            "/admin/tenants/apitoken/",
        ):
            response = client.get(path)
            assert response.status_code == 302
            assert response.headers["Location"].startswith("/admin/login/")
        for slug, mark in MARKS.items():
            response = client.get(f"/artifacts/tenants/{slug}/1/{mark}.png")
            assert response.status_code == 403
            assert mark.encode() not in response.content
