"""The list of a store's jobs, from which a copy finds the jobs that were removed: one id on each line, ascending.

The last line has the number of jobs, their tenant and the time when the list was begun. An incomplete list removes
nothing.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Generator, Iterator
from datetime import datetime
from pathlib import Path

from django.db.models import QuerySet
from django.utils import timezone
from ulid import ULID

from jobs.ingest import record_reader
from jobs.management.errors import FileError, reading
from jobs.management.files import Sink
from jobs.management.stopping import Stop
from jobs.models import Job
from jobs.ulid import parse_ulid

PAGE = 10_000


def write_list(name: str, jobs: QuerySet[Job], tenant: str | None, stop: Stop | None = None) -> int | None:
    """Writes the ids of ``jobs``: all jobs of ``tenant``, or of all tenants if it is None.

    Returns their number, or None if a stop is requested before the last: the list stays incomplete.
    """
    number, at = 0, timezone.now()
    with Sink.opened(name) as out:
        for page in record_reader.ids(jobs, PAGE):
            if stop and stop.requested:
                return None
            out.write(f"{public_id}\n".encode() for public_id in page)
            number += len(page)
        out.write([json.dumps({"jobs": number, "tenant": tenant, "at": at.isoformat()}).encode() + b"\n"])
        out.sync()
    return number


def check_list(name: str, tenant: str | None) -> datetime:
    """The time when the list was begun. Raises FileError if it is incomplete or of another tenant."""
    ids = read_list(name, tenant)
    while True:
        try:
            next(ids)
        except StopIteration as end:
            return datetime.fromisoformat(end.value)


def read_list(name: str, tenant: str | None) -> Generator[ULID, None, str]:
    """Yields the ids of a list and returns the time when it was begun. Raises FileError, as late as it is found."""
    last, number, end = ULID.from_int(0), 0, ""
    try:
        with (
            reading(f"the list of jobs {name}"),
            gzip.open(name, "rt", encoding="utf-8-sig")
            if name.endswith(".gz")
            else Path(name).open(encoding="utf-8-sig") as lines,
        ):
            for line in lines:
                if end or line.startswith("{"):
                    end += line
                    continue
                public_id = parse_ulid(line.rstrip("\n"))
                if number and public_id <= last:
                    raise ValueError(f"{public_id} follows {last}")
                yield public_id
                last, number = public_id, number + 1
        whose = json.loads(end or "{}")
    except ValueError as error:
        raise FileError(f"{name} is not a list of jobs that export_jobs --ids wrote: {error}") from error
    if whose.get("jobs") != number:
        raise FileError(f"{name} is incomplete. Write it again with export_jobs --ids.")
    if whose["tenant"] != tenant:
        raise FileError(f"{name} lists the jobs of {whose['tenant'] or 'all tenants'}: --tenant has to say the same.")
    return str(whose["at"])


def absent(
    jobs: QuerySet[Job], present: Iterator[ULID], after: ULID | None, size: int
) -> Iterator[tuple[list[ULID], ULID]]:
    """Those of ``jobs`` that are not ``present``, in batches of ``size`` jobs, each with the last id examined."""
    ahead = next(present, None)
    for page in record_reader.ids(jobs.filter(public_id__gt=after) if after else jobs, size):
        there = set()
        while ahead is not None and ahead <= page[-1]:
            there.add(ahead)
            ahead = next(present, None)
        yield [public_id for public_id in page if public_id not in there], page[-1]
