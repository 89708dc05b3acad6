"""The requests of each workload, and the check that all servers give the same responses."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson
from ulid import ULID

from benchmarks import store
from benchmarks.load import Request
from benchmarks.servers import Server, get

JOBS = 200  # that detail and events of one token ask for in turn
MANY_TOKENS = 1_000
MANY_REQUESTS = 2_000  # all different: each token is used twice before the first request is sent again
PAGES_A_WALK = 20  # pages that are read in a row before the walk starts again
PAGE_SIZES = (40, 45, 50, 55, 60)  # 50 on average, as many as a page of one token has
COMPARED = 10  # requests of each workload that all servers have to answer alike


@dataclass
class Workload:
    """Requests that are sent in turn. The peers spell the next page of a list differently: ``peers`` has theirs.

    ``is_poll`` means that each request carries the ETag of its answer, so that it is answered with 304.
    """

    requests: list[Request]
    peers: list[Request] | None = None
    is_poll: bool = False

    def of(self, server: Server) -> list[Request]:
        requests = self.requests if server.name == "gateway" or self.peers is None else self.peers
        if not self.is_poll:
            return requests
        return [request._replace(etag=get(server.port, request.path, request.token)[2]["ETag"]) for request in requests]


def workloads(
    environment: dict[str, str],
    gateway: Server,
    token: str,
    tokens: dict[str, list[str]],
    many_requests: int = MANY_REQUESTS,
) -> dict[str, Workload]:
    """The workloads by the name that ``results.json`` has for them. ``tokens`` are many, by the tenant's slug."""
    finished = finished_jobs(environment)
    jobs = random.Random(4).sample(finished[store.TENANTS[0]], min(JOBS, len(finished[store.TENANTS[0]])))
    detail = Workload([Request(f"/v1/jobs/{job}", token) for job in jobs])
    pages = {
        slug: list(list_pages(gateway, tokens[slug][0], many_requests // len(store.TENANTS))) for slug in store.TENANTS
    }
    return {
        "list": Workload([Request("/v1/jobs", token)]),
        "detail": detail,
        "events": Workload([Request(f"/v1/jobs/{job}/events", token) for job in jobs]),
        "fleet": Workload([Request("/job", token)]),
        "not_modified": Workload(detail.requests, is_poll=True),
        "many_list": Workload(
            [Request(page, token) for token, (page, _) in in_turn(tokens, pages, many_requests)],
            [Request(page, token) for token, (_, page) in in_turn(tokens, pages, many_requests)],
        ),
        "many_detail": Workload(
            [Request(f"/v1/jobs/{job}", token) for token, job in in_turn(tokens, finished, many_requests)]
        ),
        "list_200": Workload([Request("/v1/jobs?limit=200", token)]),
        "events_500": Workload([Request(f"/v1/jobs/{job}/events", token) for job in long_jobs(environment)]),
    }


def finished_jobs(environment: dict[str, str]) -> dict[str, list[str]]:
    """Ids of workflow jobs that succeeded, by the tenant's slug; in a seeded order, so that they are from all over."""
    with store.connect(environment) as database:
        rows = database.execute(
            "SELECT slug, public_id FROM jobs_job JOIN tenants_tenant tenant ON tenant.id = tenant_id "
            "WHERE is_workflow AND status = 'SUCCESS' ORDER BY public_id"
        ).fetchall()
    random.Random(5).shuffle(rows)
    jobs: dict[str, list[str]] = {slug: [] for slug in store.TENANTS}
    for slug, key in rows:
        jobs[slug].append(str(ULID.from_uuid(key)))
    return jobs


def long_jobs(environment: dict[str, str]) -> list[str]:
    with store.connect(environment) as database:
        rows = database.execute(
            "SELECT public_id FROM jobs_job WHERE last_public_seq = %s ORDER BY public_id",
            [store.EVENTS_OF_A_LONG_JOB],
        ).fetchall()
    return [str(ULID.from_uuid(key)) for (key,) in rows]


def list_pages(gateway: Server, token: str, wanted: int) -> Iterator[tuple[str, str]]:
    """``wanted`` different pages of one tenant's list, each as the gateway spells it and as the peers do.

    They are fewer where the list is too short. They are of different sizes and depths, and half of them have a
    ``created_after``, of before all jobs. The gateway continues a list by the cursor of its ``Link`` header, the peers
    by the last job of the page before.
    """
    found = 0
    for start, first_size in enumerate(range(200, 0, -7)):  # each walk begins elsewhere, so that no page comes twice
        after = {"created_after": f"2025-01-01T00:00:{start:02}Z"} if start % 2 else {}
        path = f"/v1/jobs?{urlencode({'limit': first_size} | after)}"
        for number in range(PAGES_A_WALK):
            status, body, headers = get(gateway.port, path, token)
            if status != 200:
                raise SystemExit(f"The gateway answers {path} with {status}: {body[:500]!r}")
            following = re.search(r'<([^>]+)>; rel="next"', headers.get("Link", ""))
            last = orjson.loads(body)["jobs"][-1:]
            if following is None or not last:
                break
            size = PAGE_SIZES[number % len(PAGE_SIZES)]
            link = urlsplit(following[1])
            query = dict(parse_qsl(link.query, keep_blank_values=True)) | {"limit": str(size)}
            path = f"{link.path}?{urlencode(query)}"
            position = {"before": last[0]["created_at"], "before_id": last[0]["public_id"]}
            yield path, f"/v1/jobs?{urlencode({'limit': size} | after | position)}"
            found += 1
            if found == wanted:
                return


def in_turn(tokens: dict[str, list[str]], asked: dict[str, list[Any]], count: int) -> Iterator[tuple[str, Any]]:
    """Pairs of token and path, ``count`` of them: tenants in turn, and of each tenant its tokens in turn."""
    for number in range(count):
        turn, tenant = divmod(number, len(store.TENANTS))
        slug = store.TENANTS[tenant]
        yield tokens[slug][turn % len(tokens[slug])], asked[slug][turn % len(asked[slug])]


def compare(servers: list[Server], asked: dict[str, Workload]) -> None:
    """Raises SystemExit unless all servers answer the requests alike, with the same links.

    Objects of the gateway may have members that no peer has, so that a new field needs no change of the peers.
    """
    for name, workload in asked.items():
        if workload.is_poll:
            continue
        places = range(0, len(workload.requests), max(1, len(workload.requests) // COMPARED))
        of_gateway: dict[int, Any] = {}
        of_peers: dict[int, Any] = {}
        for server in sorted(servers, key=lambda each: each.name != "gateway"):
            requests = workload.of(server)
            for place in places:
                path, token, _ = requests[place]
                status, body, _ = get(server.port, path, token)
                if status != 200:
                    raise SystemExit(f"{name}: {server.name} answers {path} with {status}: {body[:500]!r}")
                shape = comparable(orjson.loads(body))
                if server.name == "gateway":
                    of_gateway[place] = shape
                    continue
                if difference := first_difference(without_additions(of_gateway[place], shape), shape):
                    raise SystemExit(f"{name}: {server.name} answers {path} unlike the gateway: {difference}")
                if difference := first_difference(of_peers.setdefault(place, shape), shape):
                    raise SystemExit(f"{name}: {server.name} answers {path} unlike the other peers: {difference}")


def without_additions(ours: Any, theirs: Any) -> Any:
    """``ours`` without the members of objects that ``theirs`` lacks at the same place."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return {name: without_additions(part, theirs[name]) for name, part in ours.items() if name in theirs}
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [without_additions(*parts) for parts in zip(ours, theirs, strict=True)]
    return ours


def first_difference(expected: Any, found: Any) -> str:
    """The first line that differs, as indented JSON has it; "" where both are equal."""
    if expected == found:
        return ""
    ours, theirs = (orjson.dumps(each, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode().splitlines()
                    for each in (expected, found))  # fmt: skip
    return next((f"{a.strip()} | {b.strip()}" for a, b in zip(ours, theirs, strict=False) if a != b), "the length")


def comparable(value: Any) -> Any:
    """A body with parsed links, without time and signature, because two peers sign with the current time."""
    if isinstance(value, dict):
        return {name: link(member) if name == "image_url" else comparable(member) for name, member in value.items()}
    return [comparable(item) for item in value] if isinstance(value, list) else value


def link(url: str) -> list[Any]:
    """Scheme, host, path and query of a presigned URL. Raises SystemExit where it has no time or signature."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, strict_parsing=True))
    if not re.fullmatch(r"\d{8}T\d{6}Z", query.pop("X-Amz-Date", "")):
        raise SystemExit(f"{url}: no time")
    if not re.fullmatch("[0-9a-f]{64}", query.pop("X-Amz-Signature", "")):
        raise SystemExit(f"{url}: no signature")
    return [parts.scheme, parts.netloc, parts.path, query]
