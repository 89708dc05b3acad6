"""The interchange record: one job as one JSON object on one line. Reading checks it; every store writes it the same.

A record that passes these checks holds nothing that SQLite or PostgreSQL would change. JSON values (``request``,
``extra``, ``meta``) are carried as canonical text, so that equal values are equal strings. Numbers are 64-bit integers
or IEEE doubles: a number with more digits becomes the nearest double.
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

# Bounds of one job, in the ledger too. They keep every answer of the API to a size that is served within a second.
MAX_REQUEST_BYTES = 2**20  # of JSON in UTF-8, as it is stored
MAX_EXTRA_BYTES = MAX_META_BYTES = 64 * 2**10
MAX_MESSAGE_CHARACTERS = 10_000
MAX_EVENTS = 10_000
MAX_ARTIFACTS_OF_EVENT = 500
MAX_FINAL_ARTIFACTS = 2_000
MAX_DEPTH = 64
MAX_SEQ = 2_147_483_647
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # what 64 bits hold, signed or not, and orjson writes
EMPTY_OBJECT = "{}"

Line = TypeVar("Line")
# Python checks the calendar. From 3.14 on it reads 24:00 as 00:00 of the next day, which is refused here.
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ](?!24)\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_seq = attrgetter("seq")
# A datetime, a dataclass or a subclass is not converted to a JSON value.
_CANONICAL = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# JSON text that needs the slow check: NUL, null (orjson writes NaN so), whole floats and floats with an exponent.
_UNUSUAL = re.compile(rb"u0000|null|\d\.0(?!\d)|\de[-+\d]")
_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")  # 1.5E-400 looks like 0.0e-000


class Reason(StrEnum):
    """Why a record was rejected, as a summary counts it."""

    NOT_JSON = "not a JSON object in UTF-8"
    DUPLICATE_NAME = "a member name given twice"
    UNFAITHFUL = "JSON that no store keeps faithfully"
    MEMBER = "a member that is missing, unknown or not of its kind"
    TOO_LARGE = "larger than the store takes"
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
    """A record was rejected. ``str()`` is the detail, ``reason`` the rule that it breaks."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def within(self, place: str) -> Rejected:
        """The same, found deeper inside: ``seq: …`` within ``events[3]`` is ``events[3].seq: …``."""
        return Rejected(self.reason, f"{place}.{self}")

    def without_traceback(self) -> Rejected:
        """The same without its traceback, which would keep the local variables in memory."""
        return Rejected(self.reason, str(self))


# The members of a record are declared once, in the three classes below. Readers and writers of the store take the names
# of columns from them.


class ArtifactLine(NamedTuple):
    """One artifact. Each member is a column of the artifact's row."""

    storage_key: str
    kind: str
    role: str
    label: str | None
    meta: str  # canonical JSON


class EventLine(NamedTuple):
    """One event. Each member but ``artifacts`` is a column of the event's row."""

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
    """A job with its events by ``seq``, and its artifacts without an event.

    ``status`` is None if the events decide it. A stored record always has a status.
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
        """Those of the events by seq, then those without an event."""
        return chain(chain.from_iterable(event.artifacts for event in self.events), self.artifacts)


EVENT_MEMBERS = tuple(name for name in EventLine._fields if name != "artifacts")
ARTIFACT_MEMBERS = ArtifactLine._fields
JSON_MEMBERS = frozenset({"request", "extra", "meta"})  # carried as canonical text


def parse(line: bytes) -> Record:
    """The record of one line of NDJSON. Raises Rejected."""
    return record(_loads(line))


def record(value: Any) -> Record:
    """The record of a parsed JSON object, or of a dict like it, where times may be datetimes. Raises Rejected."""
    members = _members(value, _RECORD_REQUIRED, _RECORD_DEFAULTS)
    events = tuple(sorted(_sequence(members["events"], "events", event, MAX_EVENTS), key=_seq))
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
        public_id=public_id,
        tenant=_text(members["tenant"], "tenant"),
        job_type=_text(members["job_type"], "job_type", longest=100),
        status=None if members["status"] is None else _choice(members["status"], "status", _STATUSES),
        created_at=instant(members["created_at"], "created_at"),
        request=None if members["request"] is None else json_object(members["request"], "request", MAX_REQUEST_BYTES),
        events=events,
        artifacts=_sequence(members["artifacts"], "artifacts", artifact),
    )


def event(value: Any) -> EventLine:
    """One event of a record. Raises Rejected."""
    members = _members(value, _EVENT_REQUIRED, _EVENT_DEFAULTS)
    seq = members["seq"]
    if type(seq) is float and seq.is_integer():  # some writers of JSON know no integers
        seq = int(seq)
    if type(seq) is not int or not 0 < seq <= MAX_SEQ:
        raise Rejected(Reason.MEMBER, f"seq: {_shown(seq)} is not an integer from 1 to {MAX_SEQ}")
    # By position, in the order of EventLine: keywords double the time that this takes.
    return EventLine(
        seq,
        _text(members["event_type"], "event_type", longest=50),
        _choice(members["visibility"], "visibility", _VISIBILITIES),
        _text_or_none(members["stage"], "stage"),
        _text(members["message"], "message", shortest=0, longest=MAX_MESSAGE_CHARACTERS),
        _text_or_none(members["hostname"], "hostname"),
        json_object(members["extra"], "extra", MAX_EXTRA_BYTES),
        instant(members["created_at"], "created_at"),
        _sequence(members["artifacts"], "artifacts", artifact, MAX_ARTIFACTS_OF_EVENT),
    )


def artifact(value: Any) -> ArtifactLine:
    """One artifact of a record. Raises Rejected. The tenant's prefix is checked elsewhere, by ``merge.check_keys``."""
    members = _members(value, _ARTIFACT_REQUIRED, _ARTIFACT_DEFAULTS)
    # By position, in the order of ArtifactLine: keywords double the time that this takes.
    return ArtifactLine(
        _text(members["storage_key"], "storage_key"),
        _text(members["kind"], "kind", longest=100),
        _choice(members["role"], "role", _ROLES),
        _text_or_none(members["label"], "label"),
        json_object(members["meta"], "meta", MAX_META_BYTES),
    )


def dump(record: Record) -> bytes:
    """The record as a line of NDJSON with its newline: all members, names sorted, the same bytes on every database."""
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


def json_object(value: Any, name: str, max_bytes: int) -> str:
    """Canonical JSON text of an object, of at most ``max_bytes`` in UTF-8. Raises Rejected."""
    if not value and (value is None or isinstance(value, dict)):  # Go writes null for an empty map
        return EMPTY_OBJECT
    if not isinstance(value, dict):
        raise Rejected(Reason.MEMBER, f"{name}: {_shown(value)} is not a JSON object")
    try:
        text = canonical(value)
    except Rejected as error:
        raise Rejected(error.reason, f"{name}: {error}") from None
    if 4 * len(text) > max_bytes and (size := len(text.encode())) > max_bytes:  # a character has at most 4 bytes
        raise Rejected(Reason.TOO_LARGE, f"{name}: {size:,} bytes of JSON; at most {max_bytes:,} are allowed")
    return text


def canonical(value: Any) -> str:
    """The canonical JSON text of ``value``: names sorted, whole numbers of 64 bits written as integers.

    PostgreSQL stores 1e2 as 100, SQLite as it was sent. So the spelling is fixed before either stores it.
    Raises Rejected for a value that a store would change.
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
    """Whether JSON text needs the slow check. The pattern alone is enough, but too slow for every text."""
    alike = text.translate(_DIGITS_ALIKE)
    is_suspect = b"0e" in alike or b"0.0" in alike or b"u0000" in text or b"null" in text
    return is_suspect and _UNUSUAL.search(text) is not None


def instant(value: Any, name: str) -> datetime:
    """An RFC 3339 time (or an aware datetime) in UTC, cut to microseconds. Raises Rejected."""
    try:
        if type(value) is str and _INSTANT.fullmatch(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, datetime) and value.tzinfo:
            return value if value.tzinfo is UTC else value.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Rejected(Reason.MEMBER, f"{name}: {_shown(value)} is not an RFC 3339 instant such as 2026-04-15T12:00:00Z")


# Computed once: Django builds these lists at every access.
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
        raise Rejected(Reason.MEMBER, f"{min(required - value.keys())}: required, but missing")
    members = defaults | value
    if len(members) > len(required) + len(defaults):
        unknown = min(map(str, value.keys() - required - defaults.keys()))
        raise Rejected(Reason.MEMBER, f"{_shown(unknown)}: unknown member")
    return members


def _sequence(values: Any, name: str, read: Callable[[Any], Line], most: int | None = None) -> tuple[Line, ...]:
    if not values and (values is None or isinstance(values, list | tuple)):  # Go writes null for an empty slice
        return ()
    if not isinstance(values, list | tuple):
        raise Rejected(Reason.MEMBER, f"{name}: {_shown(values)} is not a list")
    if most is not None and len(values) > most:
        raise Rejected(Reason.TOO_LARGE, f"{name}: {len(values):,} of them; at most {most:,} are allowed")
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
    if isinstance(value, str) and value in choices:  # a member of an enumeration
        return str(value)
    raise Rejected(Reason.MEMBER, f"{name}: {_shown(value)} is none of {', '.join(choices)}")


def _text(value: Any, name: str, longest: int | None = None, shortest: int = 1) -> str:
    """Text that every store keeps. With ``longest`` it has ``shortest`` to ``longest`` characters."""
    if not isinstance(value, str):
        raise Rejected(Reason.MEMBER, f"{name}: {_shown(value)} is not a string")
    if longest and not shortest <= len(value) <= longest:
        reason = Reason.TOO_LARGE if len(value) > longest else Reason.MEMBER
        raise Rejected(reason, f"{name}: {len(value):,} characters; {shortest} to {longest:,} are allowed")
    if value.isascii() and "\0" not in value:
        return value
    try:
        return _faithful_text(value)
    except Rejected as error:
        raise Rejected(error.reason, f"{name}: {error}") from None


def _text_or_none(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _shown(value: Any) -> str:
    """``value`` in an error message: short, in ASCII, as JSON where it is JSON."""
    try:
        shown = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # a Python value that the ledger was given
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
    """The JSON value of ``line``: by orjson if its result is certainly exact, else by the slower standard library.

    orjson silently keeps the last of equal names, turns integers beyond 64 bits into floats, and numbers that are too
    small for a double into 0. A dropped name takes its colon along, so equal numbers of colons in the input and the
    output show that none was dropped (unless a colon is written as an escape). An integer that is too large has at
    least 19 digits. A number that is too small has an exponent of three digits or a long row of zeros.
    """
    try:
        value = orjson.loads(line)
        alike = line.translate(_DIGITS_ALIKE)
        if (
            line.count(b":") == orjson.dumps(value).count(b":")
            and b"\\u003" not in line
            and b"0" * 19 not in alike
            and b"0e-000" not in alike
        ):
            return value
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the second if nested deeper than orjson writes
        pass
    return _loads_strictly(line)


def _loads_strictly(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_double)
    except Rejected:
        raise
    except json.JSONDecodeError as error:
        raise Rejected(Reason.NOT_JSON, f"not JSON: {error.msg}, at character {error.pos + 1}") from None
    except UnicodeDecodeError as error:
        raise Rejected(Reason.NOT_JSON, f"not UTF-8: {error.reason}, at byte {error.start + 1}") from None
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


def _double(text: str) -> float:
    """The nearest IEEE double. Raises Rejected for a number other than 0 whose nearest double is 0."""
    value = float(text)
    if not value and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise Rejected(Reason.UNFAITHFUL, f"{_shown_number(text)} is too small for a double")
    return value


def _shown_number(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_number(text: str) -> Any:
    raise Rejected(Reason.UNFAITHFUL, f"{text} is not a finite number")
