"""The interchange record: one job as one JSON object on one line, checked on the way in, the same out of every store.

A record that passes here holds nothing that SQLite or PostgreSQL would keep otherwise than it was given. JSON values
(``request``, ``extra``, ``meta``) are carried as canonical text, so that equal values are equal strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, pairwise
from math import isfinite
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import orjson
from ulid import ULID

from jobs.models import JobStatus, Role, Visibility
from jobs.ulid import parse_ulid

MAX_DEPTH = 64
MAX_SEQ = 2_147_483_647
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # what 64 bits hold, signed or not, and orjson writes
EMPTY_OBJECT = "{}"

Line = TypeVar("Line")
# Python says what else is in the calendar; from 3.14 on it takes 24:00 for the next day's 00:00.
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ](?!24)\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_seq = attrgetter("seq")
# No datetime, dataclass or subclass is taken for the JSON value it resembles.
_CANONICAL = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# What JSON text needs a closer look for: NUL, null (which is how NaN is written), whole and very large or small floats.
_UNUSUAL = re.compile(rb"u0000|null|\d\.0(?!\d)|\de[-+\d]")
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"0" * 9)


class Reason(StrEnum):
    """Why a record was rejected, as a summary counts it."""

    NOT_JSON = "not a JSON object in UTF-8"
    DUPLICATE_NAME = "a member name given twice"
    UNFAITHFUL = "JSON that no store keeps faithfully"
    MEMBER = "a member that is missing, unknown or not of its kind"
    ULID = "a public_id that is no ULID"
    STORAGE_KEY = "a storage key that is refused"
    STATUS = "a status that the events contradict"
    SECOND_END = "a second terminal event of a workflow job"
    TENANT = "an unknown tenant"
    FOREIGN = "a public_id that is taken"
    JOB_DIFFERS = "a job that differs from the stored one"
    EVENT_DIFFERS = "an event that differs from the stored one"
    SEQ_LACKING = "a seq below a stored one that the store lacks"
    DATABASE = "refused by the database"


class Rejected(ValueError):
    """A record that is not taken. ``str()`` says what is wrong with it, ``reason`` which rule that breaks."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def within(self, place: str) -> Rejected:
        """The same, found deeper inside: ``seq: …`` within ``events[3]`` is ``events[3].seq: …``."""
        return Rejected(self.reason, f"{place}.{self}")

    def without_traceback(self) -> Rejected:
        """The same without its traceback, which would keep all that was in sight alive."""
        return Rejected(self.reason, str(self))


class ArtifactLine(NamedTuple):
    storage_key: str
    kind: str
    role: str
    label: str | None
    meta: str  # canonical JSON


class EventLine(NamedTuple):
    seq: int
    event_type: str
    visibility: str
    stage: str | None
    message: str
    hostname: str | None
    extra: str  # canonical JSON
    created_at: datetime  # UTC
    artifacts: tuple[ArtifactLine, ...]


class Record(NamedTuple):
    """A job with its events by ``seq``, and the artifacts that none of them recorded.

    ``status`` is None while it is left to the events; a stored record always has one.
    """

    public_id: ULID
    tenant: str
    job_type: str
    status: str | None
    created_at: datetime  # UTC
    request: str | None  # canonical JSON
    events: tuple[EventLine, ...]
    artifacts: tuple[ArtifactLine, ...]

    @property
    def last_seq(self) -> int:
        return self.events[-1].seq if self.events else 0

    def all_artifacts(self) -> Iterator[ArtifactLine]:
        """Those of the events by seq, then those that no event recorded."""
        return chain(chain.from_iterable(event.artifacts for event in self.events), self.artifacts)


def parse(line: bytes) -> Record:
    """The record that one line of NDJSON holds; raises Rejected."""
    return record(_loads(line))


def record(value: Any) -> Record:
    """The record that a parsed JSON object (or a dict like it, times as datetimes allowed) holds; raises Rejected."""
    members = _members(value, _RECORD_REQUIRED, _RECORD_DEFAULTS)
    events = tuple(sorted(_sequence(members["events"], "events", event), key=_seq))
    for before, after in pairwise(events):
        if before.seq == after.seq:
            raise Rejected(Reason.MEMBER, f"events: seq {after.seq} is given twice")
    if type(members["public_id"]) is not str:
        raise Rejected(Reason.ULID, f"public_id: {_shown(members['public_id'])} is not a string")
    try:
        public_id = parse_ulid(members["public_id"])
    except ValueError as error:
        raise Rejected(Reason.ULID, f"public_id: {error}") from None
    return Record(
        public_id,
        _text(members["tenant"], "tenant"),
        _text(members["job_type"], "job_type", longest=100),
        None if members["status"] is None else _choice(members["status"], "status", _STATUSES),
        instant(members["created_at"], "created_at"),
        None if members["request"] is None else json_object(members["request"], "request"),
        events,
        _sequence(members["artifacts"], "artifacts", artifact),
    )


def event(value: Any) -> EventLine:
    """One event of a record; raises Rejected."""
    members = _members(value, _EVENT_REQUIRED, _EVENT_DEFAULTS)
    seq = members["seq"]
    if type(seq) is not int or not 0 < seq <= MAX_SEQ:
        raise Rejected(Reason.MEMBER, f"seq: {_shown(seq)} is not an integer from 1 to {MAX_SEQ}")
    return EventLine(
        seq,
        _text(members["event_type"], "event_type", longest=50),
        _choice(members["visibility"], "visibility", _VISIBILITIES),
        _text_or_none(members["stage"], "stage"),
        _text(members["message"], "message"),
        _text_or_none(members["hostname"], "hostname"),
        json_object(members["extra"], "extra"),
        instant(members["created_at"], "created_at"),
        _sequence(members["artifacts"], "artifacts", artifact),
    )


def artifact(value: Any) -> ArtifactLine:
    """One artifact of a record; raises Rejected. Whether the key is the tenant's is for whoever knows the tenant."""
    members = _members(value, _ARTIFACT_REQUIRED, _ARTIFACT_DEFAULTS)
    return ArtifactLine(
        _text(members["storage_key"], "storage_key"),
        _text(members["kind"], "kind", longest=100),
        _choice(members["role"], "role", _ROLES),
        _text_or_none(members["label"], "label"),
        json_object(members["meta"], "meta"),
    )


def dump(record: Record) -> bytes:
    """The record as a line of NDJSON, newline included: every member said, names sorted, the same bytes everywhere."""
    return orjson.dumps(
        {
            "public_id": str(record.public_id),
            "tenant": record.tenant,
            "job_type": record.job_type,
            "status": record.status,
            "created_at": record.created_at,
            "request": None if record.request is None else orjson.Fragment(record.request),
            "events": [
                each._asdict()
                | {"extra": orjson.Fragment(each.extra), "artifacts": [_artifact_members(a) for a in each.artifacts]}
                for each in record.events
            ],
            "artifacts": [_artifact_members(one) for one in record.artifacts],
        },
        option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
    )


def _artifact_members(artifact: ArtifactLine) -> dict[str, Any]:
    return artifact._asdict() | {"meta": orjson.Fragment(artifact.meta)}


def json_object(value: Any, name: str) -> str:
    """Canonical JSON text of an object; raises Rejected."""
    if not isinstance(value, dict):
        raise Rejected(Reason.MEMBER, f"{name}: {_shown(value)} is not a JSON object")
    if not value:
        return EMPTY_OBJECT
    try:
        return canonical(value)
    except Rejected as error:
        raise Rejected(error.reason, f"{name}: {error}") from None


def canonical(value: Any) -> str:
    """The one JSON text of ``value``: names sorted, whole numbers of 64 bits written as integers.

    PostgreSQL keeps 1e2 as 100 and SQLite as it was sent, which is why the spelling is settled before either sees it.
    Raises Rejected for what no store keeps faithfully.
    """
    try:
        text = orjson.dumps(value, option=_CANONICAL)
        is_shallow = len(text) <= 2 * MAX_DEPTH or text.count(b"{") + text.count(b"[") <= MAX_DEPTH
        if is_shallow and not _is_unusual(text):
            return text.decode()
    except orjson.JSONEncodeError:
        pass
    return orjson.dumps(_faithful(value, 0), option=_CANONICAL).decode()


def _is_unusual(text: bytes) -> bool:
    """Whether JSON text needs a closer look; the pattern alone would do, and take as long as all the rest of it."""
    alike = text.translate(_DIGITS_ALIKE)
    is_suspect = b"0e" in alike or b"0.0" in alike or b"u0000" in text or b"null" in text
    return is_suspect and _UNUSUAL.search(text) is not None


def instant(value: Any, name: str) -> datetime:
    """An RFC 3339 instant (or an aware datetime) in UTC, cut to microseconds; raises Rejected."""
    try:
        if type(value) is str and _INSTANT.fullmatch(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, datetime) and value.tzinfo:
            return value if value.tzinfo is UTC else value.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Rejected(Reason.MEMBER, f"{name}: {_shown(value)} is not an RFC 3339 instant such as 2026-04-15T12:00:00Z")


# Once: Django makes these lists anew each time they are asked for.
_STATUSES, _VISIBILITIES, _ROLES = JobStatus.values, Visibility.values, Role.values

_RECORD_REQUIRED = frozenset({"public_id", "tenant", "job_type", "created_at"})
_RECORD_DEFAULTS: dict[str, Any] = {"status": None, "request": None, "events": (), "artifacts": ()}
_EVENT_REQUIRED = frozenset({"seq", "event_type", "created_at"})
_EVENT_DEFAULTS: dict[str, Any] = {
    "visibility": Visibility.PUBLIC.value,
    "stage": None,
    "message": "",
    "hostname": None,
    "extra": {},
    "artifacts": (),
}
_ARTIFACT_REQUIRED = frozenset({"storage_key", "kind", "role"})
_ARTIFACT_DEFAULTS: dict[str, Any] = {"label": None, "meta": {}}


def _members(value: Any, required: frozenset[str], defaults: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Rejected(Reason.MEMBER, f"{_shown(value)} is not a JSON object")
    if not required <= value.keys():
        raise Rejected(Reason.MEMBER, f"{min(required - value.keys())}: required, and missing")
    members = defaults | value
    if len(members) > len(required) + len(defaults):
        unknown = min(map(str, value.keys() - required - defaults.keys()))
        raise Rejected(Reason.MEMBER, f"{_shown(unknown)}: no member of that name is known")
    return members


def _sequence(values: Any, name: str, read: Callable[[Any], Line]) -> tuple[Line, ...]:
    if not isinstance(values, list | tuple):
        raise Rejected(Reason.MEMBER, f"{name}: {_shown(values)} is not a list")
    lines = []
    for index, value in enumerate(values):
        try:
            lines.append(read(value))
        except Rejected as error:
            raise error.within(f"{name}[{index}]") from None
    return tuple(lines)


def _choice(value: Any, name: str, choices: Sequence[str]) -> str:
    if type(value) is str and value in choices:
        return value
    if isinstance(value, str) and value in choices:  # an enumeration's
        return str(value)
    raise Rejected(Reason.MEMBER, f"{name}: {_shown(value)} is none of {', '.join(choices)}")


def _text(value: Any, name: str, longest: int | None = None) -> str:
    """Text that every store keeps; of 1 to ``longest`` characters where the column has an end."""
    if not isinstance(value, str):
        raise Rejected(Reason.MEMBER, f"{name}: {_shown(value)} is not a string")
    if longest and not 0 < len(value) <= longest:
        raise Rejected(Reason.MEMBER, f"{name}: {len(value)} characters, where 1 to {longest} fit")
    if value.isascii() and "\0" not in value:
        return value
    try:
        return _faithful_text(value)
    except Rejected as error:
        raise Rejected(error.reason, f"{name}: {error}") from None


def _text_or_none(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _shown(value: Any) -> str:
    """``value`` in an error message: short, printable."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _faithful_text(text: str) -> str:
    if "\0" in text:
        raise Rejected(Reason.UNFAITHFUL, "a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Rejected(Reason.UNFAITHFUL, "a lone surrogate") from None
    return text


def _faithful_integer(value: int) -> int:
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        raise Rejected(Reason.UNFAITHFUL, "an integer beyond 64 bits")
    return value


def _faithful_float(value: float) -> float | int:
    if not isfinite(value):
        raise Rejected(Reason.UNFAITHFUL, "a number that is not finite")
    return int(value) if value.is_integer() and MIN_INTEGER <= value <= MAX_INTEGER else value


_FAITHFUL_SCALARS: dict[type, Callable[[Any], Any]] = {
    str: _faithful_text,
    int: _faithful_integer,
    float: _faithful_float,
    bool: bool,
    type(None): lambda value: value,
}


def _faithful(value: Any, depth: int) -> Any:
    kind = type(value)
    if scalar := _FAITHFUL_SCALARS.get(kind):
        return scalar(value)
    if depth == MAX_DEPTH:
        raise Rejected(Reason.UNFAITHFUL, f"nested deeper than {MAX_DEPTH}")
    if kind is dict:
        if not all(isinstance(name, str) for name in value):
            raise Rejected(Reason.UNFAITHFUL, "a member name that is not a string")
        return {_faithful_text(name): _faithful(member, depth + 1) for name, member in value.items()}
    if kind is list or kind is tuple:
        return [_faithful(item, depth + 1) for item in value]
    raise Rejected(Reason.UNFAITHFUL, f"a {kind.__name__}, which is no JSON value")


def _loads(line: bytes) -> Any:
    """The JSON value of ``line``, with orjson where that is provably exact, else with the slower standard library.

    orjson lets the last of equal names win and turns integers beyond 64 bits into floats, both silently. A name that
    was dropped took its colon along, so equal numbers of colons in and out mean that none was (unless one was written
    as an escape); and no integer of fewer than 19 digits is too large.
    """
    try:
        value = orjson.loads(line)
        if (
            line.count(b":") == orjson.dumps(value).count(b":")
            and b"\\u003" not in line
            and b"0" * 19 not in line.translate(_DIGITS_ALIKE)
        ):
            return value
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter where it is nested deeper than orjson writes
        pass
    return _loads_strictly(line)


def _loads_strictly(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except Rejected:
        raise
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Rejected(Reason.NOT_JSON, f"not JSON: {error}") from None
    except ValueError:  # an integer of more digits than Python converts
        raise Rejected(Reason.UNFAITHFUL, "an integer beyond 64 bits") from None
    except RecursionError:
        raise Rejected(Reason.UNFAITHFUL, f"nested deeper than {MAX_DEPTH}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Rejected(Reason.DUPLICATE_NAME, f"{_shown(twice)} is given twice in one object")
    return members


def _no_number(text: str) -> Any:
    raise Rejected(Reason.UNFAITHFUL, f"{text} is not a finite number")
