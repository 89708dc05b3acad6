"""Thousands of random interchange records, the same for the same seed: jobs of every kind, with difficult JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ulid import ULID

from jobs.models import JobType

START = datetime(2026, 1, 1, tzinfo=UTC)
ROLES = ("intermediate", "final")
AWKWARD: list[Any] = [
    *(None, True, False, 0, -1, 2**63 - 1, 2**64 - 1, -(2**63)),
    *(0.1, -0.0, 1.0, 1e2, 1.5e300, 5e-324, 1e16, 123456789.125),
    *("", "é", "😀", "\u2028", "\x7f\x01", "a\\u0000b", "null", "12345678901234567890", 'say "a":1', "s3://bucket/key"),
    *([], {}, [[], [{}]], {"": ""}, {"b": 1, "a": {"π": [1.10, 2]}}),
]


def records(number: int, tenants: Sequence[str], longest: int = 8, seed: int = 7) -> Iterator[bytes]:
    """``number`` lines of NDJSON, the first job with ``longest`` events and the others with up to 8."""
    chance = random.Random(seed)
    for index in range(number):
        at = START + timedelta(seconds=index, microseconds=chance.choice([0, 1, 500_000, 999_999]))
        job = ULID.from_bytes(
            int(at.timestamp() * 1000).to_bytes(6, "big") + index.to_bytes(4, "big") + chance.randbytes(6)
        )
        tenant = chance.choice(tenants)
        write = _operation if chance.random() < 0.3 else _workflow
        events = list(write(chance, at, f"tenants/{tenant}/{job}", longest if index == 0 else chance.randint(0, 8)))
        record: dict[str, Any] = {
            "public_id": str(job),
            "tenant": tenant,
            "job_type": chance.choice(JobType.values) if write is _workflow else "restart",
            "created_at": _instant(at),
            "request": chance.choice([None, _object(chance)]),
            "events": events,
            "artifacts": _artifacts(chance, f"tenants/{tenant}/{job}/loose"),
        }
        if not events and chance.random() < 0.5:
            record["status"] = chance.choice(["SUCCESS", "FAILURE", "PARTIAL_FAILURE", "IN_PROGRESS"])
        yield json.dumps(record, ensure_ascii=chance.random() < 0.5).encode() + b"\n"


def _workflow(chance: random.Random, at: datetime, folder: str, number: int) -> Iterator[dict[str, Any]]:
    for seq in range(1, number + 1):
        event_type = "queued" if seq == 1 else "stage"
        if seq == number > 2:
            event_type = chance.choice(["succeeded", "failed", "stage"])
        # A job has at most 2,000 final artifacts: of a long timeline the last events have them.
        roles = ROLES if seq > number - 500 else ROLES[:1]
        yield _event(chance, seq, event_type, at, artifacts=_artifacts(chance, f"{folder}/{seq}", roles))


def _operation(chance: random.Random, at: datetime, folder: str, number: int) -> Iterator[dict[str, Any]]:
    hosts = [f"web-{index}" for index in range(1 + number // 4)]
    for seq in range(1, number + 1):
        event_type = chance.choice(["submitted", "acknowledged", "started", "completed", "failed", "retried"])
        hostname = "_api" if event_type == "retried" else chance.choice(hosts)
        yield _event(chance, seq, event_type, at, hostname=hostname)


def _event(chance: random.Random, seq: int, event_type: str, at: datetime, **more: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "event_type": event_type,
        "visibility": chance.choice(["public", "public", "internal"]),
        "stage": chance.choice([None, "", "render"]),
        "message": chance.choice(["", "Rendering “front”", "tab\tnewline\nquote\\"]),
        "extra": _object(chance),
        "created_at": _instant(at + timedelta(milliseconds=chance.randint(0, 5_000))),
    } | more


def _artifacts(chance: random.Random, folder: str, roles: Sequence[str] = ROLES) -> list[dict[str, Any]]:
    return [
        {
            "storage_key": f"{folder}/{position} – é.png",
            "kind": chance.choice(["on_model_render", "mask"]),
            "role": chance.choice(roles),
            "label": chance.choice([None, "", "front"]),
            "meta": _object(chance),
        }
        for position in range(chance.choice([0, 0, 1, 3]))
    ]


def _object(chance: random.Random) -> dict[str, Any]:
    return {
        chance.choice(["a", "b", "", "é", "data", "z"]): chance.choice(AWKWARD) for _ in range(chance.randint(0, 4))
    }


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
