"""The list of the jobs that a store has, by which a copy of it learns what was removed: an id a line, ascending.

The last line says how many there are, whose, and since when they are all. A list that is not whole removes nothing.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Generator, Iterator
from datetime import datetime
from pathlib import Path

from django.core.management.base import CommandError
from django.db.models import QuerySet
from django.utils import timezone
from ulid import ULID

from jobs.ingest import record_reader
from jobs.management.files import Sink
from jobs.models import Job
from jobs.ulid import parse_ulid

PAGE = 10_000


def write_list(name: str, jobs: QuerySet[Job], tenant: str | None) -> int:
    """Lists ``jobs``, all there are of ``tenant``, or of all tenants where it is None; how many they are."""
    number, at = 0, timezone.now()
    with Sink.opened(name) as out:
        for page in record_reader.ids(jobs, PAGE):
            out.write(f"{public_id}\n".encode() for public_id in page)
            number += len(page)
        out.write([json.dumps({"jobs": number, "tenant": tenant, "at": at.isoformat()}).encode() + b"\n"])
        out.sync()
    return number


def check_list(name: str, tenant: str | None) -> datetime:
    """When the list was begun. Raises CommandError unless it is whole, and one of ``tenant``'s jobs."""
    ids = read_list(name, tenant)
    while True:
        try:
            next(ids)
        except StopIteration as end:
            return datetime.fromisoformat(end.value)


def read_list(name: str, tenant: str | None) -> Generator[ULID, None, str]:
    """The ids of a list, then when it was begun. What :func:`check_list` raises, it raises when it comes to it."""
    last, number, end = ULID.from_int(0), 0, ""
    try:
        with gzip.open(name, "rt") if name.endswith(".gz") else Path(name).open() as lines:
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
    except (OSError, EOFError, ValueError) as error:
        raise CommandError(f"{name} is no list of jobs: {error}") from error
    if whose.get("jobs") != number:
        raise CommandError(f"{name} is not whole. Make it again, with export_jobs --ids.")
    if whose["tenant"] != tenant:
        raise CommandError(
            f"{name} lists the jobs of {whose['tenant'] or 'all tenants'}: --tenant has to say the same."
        )
    return str(whose["at"])


def absent(
    jobs: QuerySet[Job], present: Iterator[ULID], after: ULID | None, size: int
) -> Iterator[tuple[list[ULID], ULID]]:
    """Those of ``jobs`` that are not ``present``, of ``size`` jobs at a time, with the last that was looked at."""
    ahead = next(present, None)
    for page in record_reader.ids(jobs.filter(public_id__gt=after) if after else jobs, size):
        there = set()
        while ahead is not None and ahead <= page[-1]:
            there.add(ahead)
            ahead = next(present, None)
        yield [public_id for public_id in page if public_id not in there], page[-1]
