"""What both clients offer, as steps."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Generic
from urllib.parse import parse_qs, urlsplit

import httpx

from jobs_gateway_client.errors import ConnectionFailedError, DownloadError
from jobs_gateway_client.following import FeedSource, Following, JobSource, job_path, wait_for_end
from jobs_gateway_client.models import ArtifactResponse, FleetJobResponse, JobSummaryResponse
from jobs_gateway_client.policy import Policy, Retries
from jobs_gateway_client.requests import (
    Params,
    Requests,
    connection_failed,
    expected_shape,
    json_object,
    retry_after_seconds,
)
from jobs_gateway_client.results import ArtifactT, Event, FeedEvent, Job, MakeArtifact, Origin, decode, event_of, job_of
from jobs_gateway_client.steps import Emit, EmittingSteps, Sleep, Steps, download

FLEET_PAGE = 100
# What stores answer to a link that has expired: 403 most, 400 where temporary credentials have expired.
EXPIRED = (400, 401, 403)
MAX_RENEWALS = 3  # of a link in one download; each is good for minutes


class Operations(Generic[ArtifactT]):
    """The operations of one client, whose artifacts ``make_artifact`` makes."""

    def __init__(
        self, base_url: str, token: str | None, policy: Policy, make_artifact: MakeArtifact[ArtifactT]
    ) -> None:
        token = (token or os.environ.get("JOBS_GATEWAY_TOKEN", "")).strip()
        if not token:
            raise ValueError("Give a token, or set the environment variable JOBS_GATEWAY_TOKEN.")
        self._requests = Requests(base_url, token, policy)
        self._make_artifact = make_artifact

    def list_jobs(
        self,
        job_type: str | Sequence[str] | None,
        status: str | None,
        created_after: datetime | str | None,
        updated_after: datetime | str | None,
        page_size: int,
    ) -> EmittingSteps[JobSummaryResponse, None]:
        filters: Params = {
            "job_type": job_type,
            "status": status,
            "created_after": rfc3339(created_after),
            "updated_after": rfc3339(updated_after),
            "limit": page_size,
        }
        cursor: str | None = None
        while True:
            response = yield from self._requests.ask(self._requests.get("/v1/jobs", {**filters, "cursor": cursor}))
            with expected_shape(response):
                jobs = [decode(JobSummaryResponse, each) for each in json_object(response)["jobs"]]
            yield Emit(jobs)
            cursor = next_cursor(response)
            if cursor is None:
                return

    def get_job(self, public_id: str) -> Steps[Job[ArtifactT]]:
        response = yield from self._requests.ask(self._requests.get(job_path(public_id)))
        with expected_shape(response):
            return job_of(json_object(response), self._make_artifact)

    def follow_job(self, public_id: str, since: int) -> EmittingSteps[Event[ArtifactT], None]:
        return Following(self._requests, JobSource(public_id, since, self._make_artifact)).steps()

    def follow_feed(
        self, after: str | None, job_type: str | Sequence[str] | None, event_type: str | Sequence[str] | None
    ) -> EmittingSteps[FeedEvent[ArtifactT], None]:
        filters: Params = {"job_type": job_type, "event_type": event_type}
        return Following(self._requests, FeedSource(after, filters, self._make_artifact)).steps()

    def wait(self, public_id: str, timeout: float | None) -> Steps[Job[ArtifactT]]:
        return wait_for_end(self._requests, public_id, timeout, self._make_artifact)

    def list_fleet(self, status: str | None) -> EmittingSteps[FleetJobResponse, None]:
        offset = 0
        last: tuple[str, str] | None = None
        while True:
            params: Params = {"status": status, "limit": FLEET_PAGE, "offset": offset}
            response = yield from self._requests.ask(self._requests.get("/job", params))
            with expected_shape(response):
                jobs = [decode(FleetJobResponse, each) for each in json_object(response)["items"]]
            # A page begins with the last job of the one before. Where only older ones are there, jobs have left the
            # list, and some came forward to a page that was read.
            if last is not None and offset and not (jobs and _age(jobs[0]) >= last):
                offset = max(0, offset - FLEET_PAGE)
                continue
            # New jobs move the others back: what is not older was there already.
            older = [job for job in jobs if last is None or _age(job) < last]
            yield Emit(older)
            if len(jobs) < FLEET_PAGE:
                return
            offset += len(jobs) - 1
            last = _age(older[-1]) if older else last

    def download(self, artifact: ArtifactResponse, origin: Origin, path: str | os.PathLike[str]) -> Steps[Path]:
        target = Path(path)
        url, renewals, retries = artifact.image_url, 0, Retries(self._requests.policy)
        with temporary_file(target) as file:
            while True:
                file.seek(0)
                file.truncate()
                try:
                    yield from self._fetch(url, file)
                    return target
                except DownloadError as error:
                    is_expired = error.status in EXPIRED and renewals < MAX_RENEWALS
                    fresh = (yield from self._fresh_link(url, origin)) if is_expired else url
                    if fresh == url:
                        yield Sleep(retries.delay(error))
                    url, renewals = fresh, renewals + 1
                except ConnectionFailedError as error:
                    yield Sleep(retries.delay(error))

    def _fetch(self, url: str, file: BinaryIO) -> Steps[None]:
        try:
            response = yield from download(self._requests.get_from_store(url), file)
        except httpx.RequestError as error:
            raise connection_failed(error) from error
        if response.status_code != 200:
            detail = f"{response.reason_phrase} for {urlsplit(url).path}"
            raise DownloadError(response.status_code, detail, retry_after_seconds(response))

    def _fresh_link(self, image_url: str, origin: Origin) -> Steps[str]:
        """A new link to the same picture, from where the gateway shows it; the same link where it is shown no more."""
        if origin.seq is None:
            job = yield from self.get_job(origin.public_id)
            shown = job.result
        else:
            request = self._requests.get(f"{job_path(origin.public_id)}/events", {"since": origin.seq - 1})
            response = yield from self._requests.ask(request)
            with expected_shape(response):
                events = [
                    event_of(each, origin.public_id, self._make_artifact) for each in json_object(response)["events"]
                ]
            shown = [artifact for event in events if event.seq == origin.seq for artifact in event.artifacts]
        place = urlsplit(image_url)[:3]  # all but the signature
        return next((each.image_url for each in shown if urlsplit(each.image_url)[:3] == place), image_url)


@contextmanager
def temporary_file(target: Path) -> Generator[BinaryIO, None, None]:
    """A new file beside ``target``, which replaces it if the block returns, and is deleted if it raises."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def next_cursor(response: httpx.Response) -> str | None:
    """Of the ``Link`` to the next page. Only its cursor is used: its host may be another, which gets no token."""
    address = response.links.get("next", {}).get("url", "")
    cursors = parse_qs(urlsplit(address).query).get("cursor")
    return cursors[0] if cursors else None


def rfc3339(moment: datetime | str | None) -> str | None:
    """Raises ValueError for a time without an offset, which could be meant as local or as UTC."""
    if not isinstance(moment, datetime):
        return moment
    if moment.utcoffset() is None:
        raise ValueError(f"{moment!r} has no time zone: use datetime.now(timezone.utc), for example.")
    return moment.isoformat()


def _age(job: FleetJobResponse) -> tuple[str, str]:
    """What the list is ordered by: the newer the greater. Without the Z the order of the texts is that of the times."""
    return job.created.removesuffix("Z"), job.id
