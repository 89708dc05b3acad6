"""The interchange record: its checks, and that an export equals what was loaded."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ulid import ULID

from jobs.ingest import bulk, interchange
from jobs.ingest.interchange import Reason, Rejected
from jobs.ingest.merge import merge
from tests.stores import exported

EXAMPLE: dict[str, Any] = {
    "public_id": "01JADE5XAMPK9M0Q7RS3T4V5W6",
    "tenant": "acme",
    "job_type": "MODEL_GENERATOR",
    "status": "SUCCESS",
    "created_at": "2026-04-15T12:00:00Z",
    "request": {"prompt": "studio, soft light"},
    "events": [
        {
            "seq": 1,
            "event_type": "queued",
            "visibility": "public",
            "stage": None,
            "message": "Queued",
            "hostname": None,
            "extra": {},
            "created_at": "2026-04-15T12:00:00Z",
            "artifacts": [],
        },
        {
            "seq": 2,
            "event_type": "succeeded",
            "visibility": "public",
            "stage": None,
            "message": "Done",
            "hostname": None,
            "extra": {"cost": 0.04},
            "created_at": "2026-04-15T12:00:09Z",
            "artifacts": [
                {
                    "storage_key": "tenants/acme/01JADE/front.png",
                    "kind": "on_model_render",
                    "role": "final",
                    "label": "front",
                    "meta": {"width": 1024},
                }
            ],
        },
    ],
    "artifacts": [],
}


def test_the_contracts_example_comes_out_as_it_went_in(acme):
    bulk.load_record(EXAMPLE)
    assert json.loads(exported()) == EXAMPLE


# --- Any record ---------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=4)
A_DAY = timedelta(days=1)  # from either end of time, so that no offset leads beyond it
instants = st.datetimes(
    datetime.min + A_DAY,  # noqa: DTZ901 - hypothesis adds the zone
    datetime.max - A_DAY,  # noqa: DTZ901
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
).map(datetime.isoformat)
artifacts = st.lists(
    st.fixed_dictionaries(
        {
            "storage_key": texts.map(lambda name: f"tenants/acme/_{name}_"),
            "kind": st.text("ab\u00e9", min_size=1, max_size=100),
            "role": st.sampled_from(["intermediate", "final"]),
        },
        optional={"label": st.none() | texts, "meta": objects},
    ),
    max_size=3,
)
ids = st.integers(0, 2**128 - 1).map(lambda number: str(ULID.from_int(number)))


@st.composite
def any_record(draw: st.DrawFn) -> dict[str, Any]:
    hosts = draw(st.sampled_from([(None,), ("web-1", "web-2", "_api")]))
    event = st.fixed_dictionaries(
        {
            "seq": st.integers(1, 2**31 - 1),
            "event_type": st.sampled_from(["queued", "stage", "started", "completed", "submitted", "progress"]),
            "created_at": instants,
            "hostname": st.sampled_from(hosts),
        },
        optional={
            "visibility": st.sampled_from(["public", "internal"]),
            "stage": st.none() | texts,
            "message": texts,
            "extra": objects,
            "artifacts": artifacts,
        },
    )
    return draw(
        st.fixed_dictionaries(
            {
                "public_id": ids,
                "tenant": st.just("acme"),
                "job_type": st.text("ab\u00e9", min_size=1, max_size=100),
                "created_at": instants,
            },
            optional={
                "request": st.none() | objects,
                "events": st.lists(event, max_size=5, unique_by=lambda each: each["seq"]),
                "artifacts": artifacts,
            },
        )
    )


def as_canonical(record: dict[str, Any]) -> bytes:
    """What an export must say, without a store: the same bytes on every database, then."""
    return interchange.dump(merge(None, interchange.record(record)))


@given(records=st.lists(any_record(), max_size=3, unique_by=lambda each: each["public_id"]), spaced=st.booleans())
@settings(
    max_examples=min(40, settings().max_examples * 2 // 5),  # half of it in a short run
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_record_leaves_the_store_as_it_came(acme, records, spaced):
    lines = [json.dumps(record, ensure_ascii=spaced, indent=None).encode() for record in records]
    with transaction.atomic():
        for loaded in bulk.load(lines):
            assert (loaded.loaded, loaded.rejections) == (len(records), [])
        assert exported() == b"".join(sorted(map(as_canonical, records), key=by_id))
        for again in bulk.load(exported().splitlines()):
            assert (again.unchanged, again.rejections) == (len(records), [])
        transaction.set_rollback(True)


def by_id(line: bytes) -> str:
    return str(json.loads(line)["public_id"])


@pytest.mark.sqlite  # no database is used: once is enough
@given(value=objects)
@settings(deadline=None)
def test_canonical_text_is_the_same_value_whatever_its_spelling(value):
    text = interchange.canonical(value)
    assert json.loads(text) == value
    assert interchange.canonical(json.loads(text)) == text
    assert interchange.canonical(json.loads(json.dumps(value, sort_keys=True))) == text
    assert interchange.canonical(json.loads(text, parse_int=float)) == text or holds_large_integers(value)


def holds_large_integers(value: Any) -> bool:
    """Integers that no float stands for: read as floats, they are other numbers."""
    if isinstance(value, dict | list):
        return any(map(holds_large_integers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and int(float(value)) != value


def test_what_is_left_out_gets_its_default():
    short = {name: EXAMPLE[name] for name in ("public_id", "tenant", "job_type", "created_at")}
    short["events"] = [{"seq": 7, "event_type": "stage", "created_at": "2026-04-15T12:00:00.25Z"}]
    short["artifacts"] = [{"storage_key": "a", "kind": "b", "role": "final"}]
    assert json.loads(as_canonical(short)) == short | {
        "status": "IN_PROGRESS",
        "request": None,
        "events": [
            {
                "seq": 7,
                "event_type": "stage",
                "visibility": "public",
                "stage": None,
                "message": "",
                "hostname": None,
                "extra": {},
                "created_at": "2026-04-15T12:00:00.250000Z",
                "artifacts": [],
            }
        ],
        "artifacts": [{"storage_key": "a", "kind": "b", "role": "final", "label": None, "meta": {}}],
    }


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-04-15T12:00:00Z", "2026-04-15T12:00:00+00:00"),
        ("2026-04-15t12:00:00z", "2026-04-15T12:00:00+00:00"),
        ("2026-04-15 12:00:00-03:30", "2026-04-15T15:30:00+00:00"),
        ("2026-04-15T12:00:00.1+00:00", "2026-04-15T12:00:00.100000+00:00"),
        ("2026-04-15T12:00:00.123456789Z", "2026-04-15T12:00:00.123456+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_instants_are_read_to_the_microsecond(text, instant):
    assert interchange.instant(text, "created_at").isoformat() == instant


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-04-15", "2026-04-15T12:00Z", "2026-04-15T12:00:00", "2026-04-15T12:00:00+0200", "20260415T120000Z",
        "2026-13-01T00:00:00Z", "2026-04-15T24:00:00Z", "2026-04-15T12:00:60Z", "2026-W16-3T12:00:00Z",
        "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "२०२६-04-15T12:00:00Z", " 2026-04-15T12:00:00Z",
        "2026-04-15T12:00:00Z\n", "2026-04-15T12:00:00,5Z", "2026-04-15T12:00:00+24:00",
    ],
)  # fmt: skip
def test_anything_else_is_no_instant(text):
    with pytest.raises(Rejected, match="is not an RFC 3339 instant") as rejected:
        interchange.instant(text, "created_at")
    assert rejected.value.reason is Reason.MEMBER


# --- Bounds and spellings -----------------------------------------------------------------------------------------


def load(record: dict[str, Any]) -> bulk.BatchResult:
    """Loads the record from a line, as a file has it."""
    [batch] = bulk.load([json.dumps(record).encode()])
    assert batch.rejections == []
    return batch


def with_event(**members: Any) -> dict[str, Any]:
    event = {"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z"} | members
    return EXAMPLE | {"status": None, "events": [event]}


KEY = {"storage_key": "tenants/acme/a.png", "kind": "render", "role": "final"}
EVENTS = [{"seq": seq, "event_type": "stage", "created_at": "2026-04-15T12:00:00Z"} for seq in range(1, 10_001)]


@pytest.mark.parametrize(
    "record",
    [
        EXAMPLE | {"request": {"a": "x" * (2**20 - 8)}},
        EXAMPLE | {"request": {"a": "é" * (2**19 - 4)}},
        with_event(extra={"a": "x" * (2**16 - 8)}),
        with_event(message="é" * 10_000),
        with_event(artifacts=[KEY] * 500),
        with_event(artifacts=[KEY | {"meta": {"a": "x" * (2**16 - 8)}}]),
        EXAMPLE | {"status": None, "events": EVENTS},
        EXAMPLE | {"status": None, "events": [], "artifacts": [KEY] * 2_000 + [KEY | {"role": "intermediate"}] * 100},
    ],
    ids=[
        "request",
        "request in bytes",
        "extra",
        "message",
        "artifacts of an event",
        "meta",
        "events",
        "final artifacts",
    ],
)
def test_values_at_the_limits_are_loaded(acme, record):
    bulk.load_record(record)
    before = exported()
    bulk.load_record(record)
    assert exported() == before


def test_a_job_does_not_grow_beyond_its_bounds_in_several_records(acme):
    bulk.load_record(EXAMPLE | {"status": None, "events": [EVENTS[0] | {"artifacts": [KEY] * 500}, *EVENTS[1:]]})
    before = exported()
    for more, reason in (
        ({"events": [EVENTS[0] | {"seq": 10_001}]}, "events: 10,001 with those stored; a job has at most 10,000"),
        ({"artifacts": [KEY] * 1_501}, "artifacts: 2,001 with role final; a job has at most 2,000"),
    ):
        with pytest.raises(Rejected, match=reason) as rejected:
            bulk.load_record(EXAMPLE | {"status": None, "events": []} | more)
        assert rejected.value.reason is Reason.TOO_LARGE
    assert exported() == before


@pytest.mark.parametrize("name", ["events", "artifacts"])
def test_null_for_a_list_of_a_job_is_the_empty_list(acme, name):
    load(EXAMPLE | {"status": None, "events": []} | {name: None})
    assert json.loads(exported())[name] == []


def test_null_for_what_go_leaves_empty_in_events_and_artifacts_is_empty(acme):
    load(with_event(extra=None, artifacts=[KEY | {"meta": None, "label": None}]))
    [event] = json.loads(exported())["events"]
    assert (event["extra"], event["artifacts"][0]["meta"]) == ({}, {})
    assert load(with_event(extra={}, artifacts=[KEY | {"meta": {}}])).unchanged == 1
    load(EXAMPLE | {"public_id": str(ULID()), "status": None, "events": [EVENTS[0] | {"artifacts": None}]})


@pytest.mark.parametrize("seq", ["1.0", "1e0", "10E-1"])
def test_a_seq_that_is_spelled_as_a_float_is_the_integer(acme, seq):
    line = json.dumps(with_event()).replace('"seq": 1', f'"seq": {seq}').encode()
    assert interchange.parse(line) == interchange.record(with_event())


@pytest.mark.parametrize(
    ("spelled", "kept"),
    [
        ("3.14159265358979323846", "3.141592653589793"),  # the nearest IEEE double
        ("5e-324", "5e-324"),  # the smallest one
        ("3E-324", "5e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("0e-400", "0"),
        ("0.000e-999", "0"),
        ("1e-100", "1e-100"),
        ("9007199254740993.0", "9007199254740992"),
        ("18446744073709551615", "18446744073709551615"),
    ],
)
def test_numbers_are_kept_as_the_nearest_double(acme, spelled, kept):
    line = json.dumps(EXAMPLE | {"request": {"a": "number"}}).replace('"number"', spelled).encode()
    assert interchange.parse(line).request == f'{{"a":{kept}}}'
    assert [batch.loaded for batch in bulk.load([line])] == [1]
    assert json.loads(exported())["request"] == {"a": json.loads(kept)}


def test_a_number_that_a_double_would_make_0_is_named():
    line = json.dumps(EXAMPLE | {"request": {"a": "number"}}).replace('"number"', "-1e-400").encode()
    with pytest.raises(Rejected, match=r"^-1e-400 is too small for a double$"):
        interchange.parse(line)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"job_type": None}, "job_type: null is not a string"),
        ({"request": True}, "request: true is not a JSON object"),
        ({"events": {"a": None}}, 'events: {"a": null} is not a list'),
        ({"public_id": None}, "public_id: null is not a string"),
        ({"created_at": False}, "created_at: false is not an RFC 3339 instant"),
    ],
)
def test_reasons_show_values_as_json(wrong, reason):
    with pytest.raises(Rejected) as rejected:
        interchange.record(EXAMPLE | wrong)
    assert str(rejected.value).startswith(reason)


@pytest.mark.parametrize("first", [b"", b"\n", b"\n\n"])
def test_a_byte_order_mark_at_the_start_is_skipped(acme, first):
    lines = b"".join([b"\xef\xbb\xbf", first, json.dumps(EXAMPLE).encode(), b"\n"]).splitlines(keepends=True)
    assert sum(batch.loaded for batch in bulk.load(lines)) == 1
    lines = [b"", *lines]  # as a pipe begins that has nothing yet
    assert sum(batch.unchanged for batch in bulk.load(lines)) == 1
