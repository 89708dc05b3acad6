"""The status rule, compared with a second implementation that follows the contract literally and is slow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from time import process_time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.fold import FoldEvent, Outcome, fold, fold_status, go_duration
from jobs.models import JobStatus

pytestmark = pytest.mark.sqlite  # no database is used: once is enough

NOON = datetime(2026, 4, 15, 12, tzinfo=UTC)


def event(seq: int, event_type: str, hostname: str | None = None, *, after: float = 0, **given: Any) -> FoldEvent:
    """An event ``after`` seconds past noon; unless said otherwise public and without a message."""
    return FoldEvent(
        seq=seq,
        event_type=event_type,
        visibility=given.pop("visibility", "public"),
        message=given.pop("message", ""),
        hostname=hostname,
        extra=given,
        created_at=NOON + timedelta(seconds=after),
    )


def events_from(*lines: tuple[Any, ...]) -> list[FoldEvent]:
    """Events from (type, host) or (type, host, {extra}), a second apart."""
    seqs = count(1)
    return [
        event(seq, kind, host, after=seq, **(extra[0] if extra else {}))
        for seq, (kind, host, *extra) in zip(seqs, lines, strict=False)
    ]


# --- the workflow job ---


def test_a_job_without_events_is_not_started():
    assert fold_status([]) == JobStatus.NOT_STARTED
    assert fold([]) == Outcome("NOT_STARTED", is_operation=False, timeline=[], updated_at=None, agents={})


@pytest.mark.parametrize(
    ("types", "status"),
    [
        (["queued"], JobStatus.NOT_STARTED),
        (["queued", "stage"], JobStatus.IN_PROGRESS),
        (["queued", "stage", "queued"], JobStatus.IN_PROGRESS),
        (["stage", "succeeded"], JobStatus.SUCCESS),
        (["failed", "stage"], JobStatus.FAILURE),
        (["queued", "note"], JobStatus.NOT_STARTED),
        (["stage", "retried"], JobStatus.IN_PROGRESS),
        (["completed"], JobStatus.NOT_STARTED),
    ],
)
def test_a_workflow_job_has_the_status_of_its_highest_event(types, status):
    assert fold_status(events_from(*((kind, None) for kind in types))) == status


def test_an_internal_event_moves_a_workflow_job_too():
    assert fold_status([event(1, "queued"), event(2, "stage", visibility="internal")]) == JobStatus.IN_PROGRESS


def test_a_failed_workflow_job_gives_the_message_of_its_failure():
    outcome = fold([event(1, "queued"), event(2, "failed", message="The picture is empty")])
    assert (outcome.status, outcome.error) == (JobStatus.FAILURE, "The picture is empty")


def test_the_message_of_an_internal_failure_stays_inside():
    outcome = fold([event(1, "failed", message="worker-7 ran out of memory", visibility="internal")])
    assert (outcome.status, outcome.error, outcome.timeline) == (JobStatus.FAILURE, None, [])


# --- the operation job ---


def test_a_job_is_an_operation_as_soon_as_an_event_names_a_host():
    assert fold([event(1, "submitted", "_api")]).is_operation
    assert fold([event(1, "queued"), event(2, "note", "web-01")]).is_operation
    assert not fold([event(1, "submitted")]).is_operation
    assert not fold([event(1, "submitted", "")]).is_operation


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([("submitted", "_api")], JobStatus.NOT_STARTED),
        ([("completed", "_api")], JobStatus.NOT_STARTED),
        ([("submitted", "web-01")], JobStatus.NOT_STARTED),
        ([("submitted", "web-01"), ("submitted", "web-02")], JobStatus.NOT_STARTED),
        ([("submitted", "web-01"), ("acknowledged", "web-01")], JobStatus.IN_PROGRESS),
        ([("acknowledged", "web-01"), ("submitted", "web-02")], JobStatus.IN_PROGRESS),
        ([("submitted", "web-01"), ("submitted", "web-02"), ("completed", "web-01")], JobStatus.IN_PROGRESS),
        ([("completed", "web-01")], JobStatus.SUCCESS),
        ([("failed", "web-01")], JobStatus.FAILURE),
        ([("failed", "web-01"), ("completed", "web-01")], JobStatus.SUCCESS),
        ([("completed", "web-01"), ("failed", "web-01")], JobStatus.SUCCESS),
        ([("completed", "web-01"), ("submitted", "web-01")], JobStatus.SUCCESS),
        ([("completed", "web-01"), ("failed", "web-02")], JobStatus.PARTIAL_FAILURE),
        ([("failed", "web-01"), ("retried", "_api")], JobStatus.FAILURE),
        ([("failed", "web-01"), ("retried", "_api"), ("started", "web-01")], JobStatus.FAILURE),
        ([("completed", "web-01"), ("started", "web-02")], JobStatus.IN_PROGRESS),
        ([("completed", "web-01"), ("submitted", "web-02")], JobStatus.IN_PROGRESS),
        ([("succeeded", "web-01")], JobStatus.NOT_STARTED),
        ([("skipped", "web-01")], JobStatus.SUCCESS),
        ([("skipped", "web-01"), ("skipped", "web-02")], JobStatus.SUCCESS),
        ([("failed", "web-01"), ("skipped", "web-01")], JobStatus.SUCCESS),
        ([("skipped", "web-01"), ("failed", "web-01")], JobStatus.SUCCESS),
        ([("skipped", "web-01"), ("failed", "web-02")], JobStatus.PARTIAL_FAILURE),
        ([("skipped", "web-01"), ("started", "web-02")], JobStatus.IN_PROGRESS),
        ([("completed", "web-01"), ("heartbeat", "web-01"), ("heartbeat", "web-02")], JobStatus.SUCCESS),
    ],
)
def test_an_operation_job_has_the_status_that_its_agents_amount_to(lines, status):
    assert fold_status(events_from(*lines)) == status


def test_the_latest_ending_agent_is_the_host_of_the_job():
    outcome = fold(
        events_from(("completed", "web-01"), ("failed", "web-02"), ("completed", "_api"), ("started", "web-03"))
    )
    assert outcome.hostname == "web-02"
    assert fold(events_from(("started", "web-01"))).hostname is None


def test_a_mixed_broadcast_gives_the_latest_result_and_the_latest_error():
    outcome = fold(
        events_from(
            ("completed", "web-01", {"data": {"free": 1}, "changed": True}),
            ("failed", "web-02", {"error": "disk full"}),
            ("failed", "web-03", {"error": "no route"}),
            ("completed", "web-04", {"data": {"free": 4}, "changed": False}),
            ("failed", "web-04", {"error": "completed all the same"}),
        )
    )
    assert outcome.status == JobStatus.PARTIAL_FAILURE
    assert (outcome.result, outcome.changed, outcome.error) == ({"free": 4}, True, "no route")
    assert {host: (agent.status, agent.data, agent.changed, agent.error) for host, agent in outcome.agents.items()} == {
        "web-01": ("completed", {"free": 1}, True, None),
        "web-02": ("failed", None, None, "disk full"),
        "web-03": ("failed", None, None, "no route"),
        "web-04": ("completed", {"free": 4}, False, None),
    }


def test_an_agent_that_skips_has_completed_without_a_change():
    outcome = fold(events_from(("started", "web-01"), ("skipped", "web-01", {"data": "up to date", "changed": True})))
    assert (outcome.status, outcome.changed, outcome.result) == (JobStatus.SUCCESS, False, "up to date")
    assert outcome.hostname == "web-01"
    agent = outcome.agents["web-01"]
    assert (agent.status, agent.has_ended, agent.changed, agent.data) == ("skipped", True, False, "up to date")


def test_the_result_is_that_of_an_agent_that_completed_where_another_skipped_later():
    outcome = fold(events_from(("completed", "a", {"data": 1, "changed": True}), ("skipped", "b", {"data": 2})))
    assert (outcome.status, outcome.changed, outcome.result, outcome.hostname) == (JobStatus.SUCCESS, True, 1, "b")


def test_a_word_of_an_agent_without_a_rank_is_kept_in_the_timeline_and_changes_nothing():
    outcome = fold(events_from(("started", "a"), ("heartbeat", "a"), ("heartbeat", "b")))
    assert [event.event_type for event in outcome.timeline] == ["started", "heartbeat", "heartbeat"]
    assert (outcome.status, list(outcome.agents), outcome.is_broadcast) == (JobStatus.IN_PROGRESS, ["a"], False)


def test_a_job_that_is_still_running_has_neither_result_nor_error():
    outcome = fold(events_from(("completed", "a", {"data": 1}), ("failed", "b", {"error": "x"}), ("started", "c")))
    assert (outcome.result, outcome.changed, outcome.error) == (None, None, None)


def test_an_agent_that_says_nothing_of_changes_changed_nothing():
    assert fold(events_from(("completed", "web-01"))).changed is False


def test_what_an_agent_says_inside_is_counted_and_not_quoted():
    inside = {"visibility": "internal", "error": "stack trace", "data": {"core": "dump"}}
    outcome = fold(events_from(("submitted", "web-01"), ("failed", "web-01", inside), ("failed", "ghost", inside)))
    assert (outcome.status, outcome.error, outcome.hostname) == (JobStatus.FAILURE, None, "web-01")
    assert outcome.is_broadcast
    assert [(host, agent.status, agent.data, agent.error) for host, agent in outcome.agents.items()] == [
        ("web-01", "failed", None, None)
    ]


def test_a_result_may_come_from_an_internal_event():
    assert fold(events_from(("completed", "web-01", {"visibility": "internal", "data": 7}))).result == 7


def test_an_error_that_is_no_text_is_nothing_to_say():
    assert fold(events_from(("failed", "web-01", {"error": {"code": 5}}))).error is None


def test_an_agents_time_runs_from_its_first_start_to_its_last_end():
    agents = fold(
        events_from(
            ("started", "web-01"), ("failed", "web-01"), ("started", "web-01"), ("completed", "web-01"),
            ("started", "running"), ("completed", "never started"), ("submitted", "idle"),
        )
    ).agents  # fmt: skip
    assert {host: go_duration(agent.duration) for host, agent in agents.items()} == {
        "web-01": "3s",
        "running": "0s",
        "never started": "0s",
        "idle": "0s",
    }


def test_the_timeline_is_public_and_by_time_then_seq():
    events = [
        event(1, "submitted", "_api", after=5),
        event(2, "started", "web-01", after=7),
        event(3, "acknowledged", "web-01", after=7),
        event(4, "started", "web-01", after=6, visibility="internal"),
        event(5, "completed", "web-01", after=2),
    ]
    outcome = fold(events)
    assert [line.seq for line in outcome.timeline] == [5, 1, 2, 3]
    assert outcome.updated_at == events[-1].created_at


def test_a_stored_status_stands_for_events_that_were_lost():
    outcome = fold(events_from(("submitted", "_api")), "FAILURE")
    assert (outcome.status, outcome.error, outcome.hostname) == ("FAILURE", None, None)
    assert fold([], "SUCCESS").status == "SUCCESS"


@pytest.mark.parametrize(
    ("elapsed", "printed"),
    [
        (timedelta(), "0s"),
        (timedelta(microseconds=1), "1µs"),
        (timedelta(microseconds=1500), "1.5ms"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(milliseconds=3512), "3.512s"),
        (timedelta(microseconds=1_000_001), "1.000001s"),
        (timedelta(seconds=60), "1m0s"),
        (timedelta(seconds=63.5), "1m3.5s"),
        (timedelta(hours=1), "1h0m0s"),
        (timedelta(hours=1, minutes=2, seconds=3), "1h2m3s"),
        (timedelta(days=3), "72h0m0s"),
        (timedelta(seconds=-1.5), "-1.5s"),
    ],
)
def test_durations_are_printed_as_go_prints_them(elapsed, printed):
    assert go_duration(elapsed) == printed


# --- CONTRACT section 8 once more, sentence by sentence and without optimisation ---

RANKS = {"submitted": 0, "acknowledged": 1, "started": 2, "failed": 3, "completed": 4, "skipped": 4}


def events_by(events: Sequence[FoldEvent], host: str, *types: str) -> list[FoldEvent]:
    return [e for e in events if e.hostname == host and e.event_type in types]


def latest(events: Sequence[FoldEvent]) -> FoldEvent:
    return max(events, key=lambda e: e.seq)


def plain(events: Sequence[FoldEvent]) -> dict[str, Any]:
    """Status, result, changed, error, hostname, responses, states and timeline of an operation job."""
    hosts = sorted({e.hostname for e in events if e.hostname} - {"_api"})
    hosts = [host for host in hosts if events_by(events, host, *RANKS)]
    state = {host: max(events_by(events, host, *RANKS), key=lambda e: (RANKS[e.event_type], e.seq)) for host in hosts}
    states = {"completed" if e.event_type == "skipped" else e.event_type for e in state.values()}
    if not states or states == {"submitted"}:
        status = "NOT_STARTED"
    elif states - {"completed", "failed"}:
        status = "IN_PROGRESS"
    elif states == {"completed"}:
        status = "SUCCESS"
    elif states == {"failed"}:
        status = "FAILURE"
    else:
        status = "PARTIAL_FAILURE"

    # An agent that only internal events name is counted, not named.
    shown = [host for host in hosts if any(e.visibility == "public" for e in events_by(events, host, *RANKS))]
    ends = [e for host in shown for e in events_by(events, host, "completed", "skipped", "failed")]
    done = [e for host in hosts for e in events_by(events, host, "completed")] or [
        e for e in state.values() if e.event_type == "skipped"
    ]
    broken = [e for e in state.values() if e.event_type == "failed" and e.visibility == "public"]

    def shown_member(e: FoldEvent, name: str) -> Any:
        if e.visibility != "public":
            return None
        return False if name == "changed" and e.event_type == "skipped" else e.extra.get(name)

    def lasted(host: str) -> timedelta:
        started, ended = (events_by(events, host, "started"), events_by(events, host, "completed", "skipped", "failed"))
        return latest(ended).created_at - started[0].created_at if started and ended else timedelta(0)

    good, bad = (status in ("SUCCESS", "PARTIAL_FAILURE"), status in ("FAILURE", "PARTIAL_FAILURE"))
    return {
        "status": status,
        "hostname": latest(ends).hostname if ends else None,
        "result": latest(done).extra.get("data") if good else None,
        "changed": any(e.extra.get("changed") for e in state.values() if e.event_type == "completed") if good else None,
        "error": latest(broken).extra.get("error") if bad and broken else None,
        "agents": {
            host: (
                state[host].event_type,
                *(shown_member(state[host], n) for n in ("data", "changed", "error")),
                lasted(host),
            )
            for host in shown
        },
        "many": len(hosts) > 1,
        "timeline": sorted((e for e in events if e.visibility == "public"), key=lambda e: (e.created_at, e.seq)),
        "updated_at": latest(events).created_at,
    }


HOSTS = st.sampled_from(["_api", "web-01", "web-02", "web-03", "web-04"])
EXTRAS = st.fixed_dictionaries(
    {},
    optional={"data": st.integers(0, 9), "changed": st.booleans(), "error": st.sampled_from(["disk full", "no route"])},
)
LINES = st.tuples(
    st.sampled_from([*RANKS, *RANKS, "failed", "completed", "skipped", "retried", "note"]),
    HOSTS,
    EXTRAS,
    st.sampled_from(["public", "public", "public", "internal"]),
    st.integers(0, 5_000),  # milliseconds past noon: clocks of hosts differ
)


def interleaved(lines: list[tuple[str, str, dict[str, Any], str, int]]) -> list[FoldEvent]:
    return [
        event(seq, kind, host, after=millis / 1000, visibility=visibility, **extra)
        for seq, (kind, host, extra, visibility, millis) in enumerate(lines, 1)
    ]


@given(st.lists(LINES, min_size=1, max_size=24).map(interleaved))
@example(interleaved([("failed", "web-01", {"error": "x"}, "public", 0), ("completed", "web-01", {}, "internal", 9)]))
def test_any_interleaving_of_agents_folds_as_the_contract_says(events):
    outcome = fold(events)
    assert {
        "status": outcome.status,
        "hostname": outcome.hostname,
        "result": outcome.result,
        "changed": outcome.changed,
        "error": outcome.error,
        "agents": {
            host: (agent.status, agent.data, agent.changed, agent.error, agent.duration)
            for host, agent in outcome.agents.items()
        },
        "many": outcome.is_broadcast,
        "timeline": outcome.timeline,
        "updated_at": outcome.updated_at,
    } == plain(events)
    assert outcome.is_operation


@given(st.lists(LINES, min_size=1, max_size=24).map(interleaved), st.randoms(use_true_random=False))
def test_a_status_is_the_same_in_whatever_order_events_are_given(events, random):
    shuffled = random.sample(events, len(events))
    assert fold_status(shuffled) == fold_status(events) == fold(events).status


@given(st.lists(st.sampled_from(["queued", "stage", "note", "retried"])), st.sampled_from(["succeeded", "failed"]))
def test_a_terminal_event_ends_a_workflow_job_wherever_it_stands(types, terminal):
    ended = "SUCCESS" if terminal == "succeeded" else "FAILURE"
    for place in range(len(types) + 1):
        assert fold_status(events_from(*((kind, None) for kind in [*types[:place], terminal, *types[place:]]))) == ended


def test_a_page_of_a_hundred_broadcasts_over_two_hundred_agents_folds_in_a_blink():
    page = events_from(
        *((kind, f"web-{n:03}") for kind in ("submitted", "acknowledged", "started", "completed") for n in range(200))
    )
    started = process_time()
    for _ in range(100):
        fold(page)
    assert process_time() - started < 0.5  # seconds; 0.03 on an idle core
