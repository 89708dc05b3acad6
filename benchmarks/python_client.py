"""What the Python client costs beside bare httpx: lists, following, downloads, in turns of one run.

    PYTHONPATH=clients/python/src python -m benchmarks.python_client

It prints medians in ms and their ratio. Both sides read the same gateway on the same machine, and parse all JSON.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter

import httpx
from jobs_gateway_client import AsyncClient, Client

from benchmarks import store
from benchmarks.servers import serving
from tests.servers import postgresql, temporary_folder

ROUNDS = 30
TENANT = store.TENANTS[0]
PICTURE_BYTES = 1_000_000


class Bare:
    """The least that an integrator writes, with one connection that is kept."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.http = httpx.Client(headers={"Authorization": f"Bearer {token}"})
        self.store = httpx.Client()  # without the token

    def list(self) -> int:
        count, url = 0, f"{self.url}/v1/jobs?limit=200"
        while url:
            response = self.http.get(url)
            count += len(response.json()["jobs"])
            url = response.links.get("next", {}).get("url", "")
        return count

    def follow(self, job: str) -> int:
        count = 0
        headers = {"Accept": "text/event-stream"}
        with self.http.stream("GET", f"{self.url}/v1/jobs/{job}/events", headers=headers) as response:
            for line in response.iter_lines():
                if line.startswith("data: ") and "seq" in json.loads(line[6:]):
                    count += 1
                    if count == store.EVENTS_OF_A_LONG_JOB:
                        break
        return count

    def download(self, job: str, path: Path) -> int:
        [picture] = self.http.get(f"{self.url}/v1/jobs/{job}").json()["result"]
        with self.store.stream("GET", picture["image_url"]) as response, path.open("wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
        return path.stat().st_size


class BareAsync:
    """The same for asyncio."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.runner = asyncio.Runner()
        self.http = httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"})
        self.store = httpx.AsyncClient()

    def list(self) -> int:
        async def count() -> int:
            found, url = 0, f"{self.url}/v1/jobs?limit=200"
            while url:
                response = await self.http.get(url)
                found += len(response.json()["jobs"])
                url = response.links.get("next", {}).get("url", "")
            return found

        return self.runner.run(count())

    def follow(self, job: str) -> int:
        async def count() -> int:
            found = 0
            headers = {"Accept": "text/event-stream"}
            async with self.http.stream("GET", f"{self.url}/v1/jobs/{job}/events", headers=headers) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: ") and "seq" in json.loads(line[6:]):
                        found += 1
                        if found == store.EVENTS_OF_A_LONG_JOB:
                            break
            return found

        return self.runner.run(count())

    def download(self, job: str, path: Path) -> int:
        async def save() -> int:
            [picture] = (await self.http.get(f"{self.url}/v1/jobs/{job}")).json()["result"]
            async with self.store.stream("GET", picture["image_url"]) as response:
                with path.open("wb") as file:
                    async for chunk in response.aiter_bytes():
                        file.write(chunk)
            return path.stat().st_size

        return self.runner.run(save())


class Blocking:
    def __init__(self, url: str, token: str) -> None:
        self.client = Client(url, token)

    def list(self) -> int:
        return sum(1 for _ in self.client.jobs.list())

    def follow(self, job: str) -> int:
        return sum(1 for _ in islice(self.client.jobs.events(job), store.EVENTS_OF_A_LONG_JOB))

    def download(self, job: str, path: Path) -> int:
        [picture] = self.client.jobs.get(job).result
        return picture.download(path).stat().st_size


class Asynchronous:
    def __init__(self, url: str, token: str) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncClient(url, token)

    def list(self) -> int:
        async def count() -> int:
            return len([job async for job in self.client.jobs.list()])

        return self.runner.run(count())

    def follow(self, job: str) -> int:
        async def count() -> int:
            found = 0
            async with aclosing(self.client.jobs.events(job)) as events:
                async for _ in events:
                    found += 1
                    if found == store.EVENTS_OF_A_LONG_JOB:
                        break
            return found

        return self.runner.run(count())

    def download(self, job: str, path: Path) -> int:
        async def save() -> int:
            [picture] = (await self.client.jobs.get(job)).result
            return (await picture.download(path)).stat().st_size

        return self.runner.run(save())


def main() -> None:
    with temporary_folder("jgw-bench-") as folder, postgresql() as database:
        environment = store.environment_of(database.url("postgres"), folder)
        environment = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
        store.create(environment)
        store.backfill(environment, [job for job in store.records(0, 40_000) if job["tenant"] == TENANT], folder)
        [followed] = store.long_jobs(1)
        drawn = dict(followed, public_id=followed["public_id"][:-1] + "Z", events=[], status="SUCCESS")
        key = f"tenants/{TENANT}/one.png"
        drawn["artifacts"] = [{"storage_key": key, "kind": "on_model_render", "role": "final"}]
        store.backfill(environment, [followed, drawn], folder)
        picture = folder / "artifacts" / key
        picture.parent.mkdir(parents=True)
        picture.write_bytes(bytes(PICTURE_BYTES))
        token = store.issue_tokens(environment, len(store.TENANTS))[TENANT][0]
        with serving("gateway", environment, token, folder) as server:
            url = f"http://127.0.0.1:{server.port}"
            sides = [side(url, token) for side in (Bare, Blocking, BareAsync, Asynchronous)]
            saved = folder / "saved.png"
            measure("list, pages of 200", [side.list for side in sides])
            measure("follow, 500 events", [partial(side.follow, followed["public_id"]) for side in sides])
            measure("download, 1 MB", [partial(side.download, drawn["public_id"], saved) for side in sides])


def measure(label: str, calls: list[Callable[[], int]]) -> None:
    """Prints the medians of the calls, which take turns and must return the same."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        results = set()
        for place, call in enumerate(calls):
            began = perf_counter()
            results.add(call())
            times[place].append(1000 * (perf_counter() - began))
        if len(results) != 1:
            raise SystemExit(f"{label}: {results}")
    bare, client, bare_async, async_client = (statistics.median(each) for each in times)
    print(
        f"{label} ({results.pop():,}): httpx.Client {bare:.1f} ms, Client {client:.1f} ms ({client / bare:.2f} x); "
        f"httpx.AsyncClient {bare_async:.1f} ms, AsyncClient {async_client:.1f} ms ({async_client / bare_async:.2f} x)",
        flush=True,
    )


if __name__ == "__main__":
    main()
