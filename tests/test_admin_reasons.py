"""Failures by reason on the console's home page."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from jobs.admin import reasons
from tests.test_admin_jobs import listed_ids, visible_text


def failed(job_of, tenant, message, ago=timedelta(minutes=5), events=(), **fields):
    at = (timezone.now() - ago).isoformat()
    event = {"seq": 1, "event_type": "failed", "message": message, "created_at": at} | fields.pop("event", {})
    return str(job_of(tenant, created_at=at, events=[event, *events], **fields).public_id)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("No answer in 30 s", "No answer in # s"),
        ("gpu-03: out of memory (21.5 GB of 24 GB)", "# out of memory (# GB of # GB)"),
        ("no such object tenants/acme/01JADE5X/front.png", "no such object …"),
        ("GET https://studio.example.com/a?key=1 failed", "GET … failed"),
        ("job 018f2d6e-4b5c-7a89-b0c1-d2e3f4a5b6c7 is gone", "job # is gone"),
        ("Line one  has   spaces\nTraceback", "Line one has spaces"),
        ("", "no reason given"),
        ("x" * 500, "x" * reasons.MAX_REASON),
    ],
)
def test_a_reason_is_what_a_failure_says_without_what_differs_from_job_to_job(text, reason):
    assert reasons.normalise(text) == reason


def test_home_has_the_reasons_of_a_day_and_of_a_week_with_their_share_of_all_jobs(support_client, acme, globex, job_of):
    slow = [failed(job_of, acme, f"No answer in {n} s") for n in range(3)]
    old = failed(job_of, globex, "No answer in 99 s", timedelta(days=3))
    memory = failed(job_of, globex, "Failed", event={"extra": {"error": "out of memory"}, "hostname": "a"})
    failed(job_of, acme, "Too old", timedelta(days=8))
    for _ in range(4):
        job_of(acme, created_at=timezone.now().isoformat())
    page = support_client.get("/admin/").content.decode()
    panel = page.split('id="reasons-title"')[1].split("</section>")[0]
    said = visible_text(panel)
    assert "share of all jobs: 8 in 24 hours, 9 in 7 days" in said
    assert "No answer in # s 3 38 % 4 44 % out of memory 1 12 % 1 11 %" in said
    assert "Too old" not in said
    links = [html.unescape(link) for link in re.findall(r'<a href="/admin/jobs/job/([^"]+)"', panel)]
    assert [sorted(listed_ids(support_client, link)) for link in links] == [
        sorted(slow),
        sorted([*slow, old]),
        [memory],
        [memory],
    ]


def test_a_job_counts_once_for_a_reason_and_not_if_it_recovered(support_client, globex, job_of):
    at = (timezone.now() - timedelta(minutes=1)).isoformat()
    more = [
        {"seq": 2, "event_type": "failed", "message": "disk 2 full", "hostname": "b", "created_at": at},
    ]
    failed(job_of, globex, "disk 1 full", events=more, event={"hostname": "a"}, job_type="vm.start")
    again = [{"seq": 2, "event_type": "completed", "hostname": "a", "created_at": at}]
    failed(job_of, globex, "net", events=again, event={"hostname": "a"}, job_type="vm.start")
    assert [(row.reason, row.day) for row in reasons.failures_by_reason().rows] == [("disk # full", 1)]


def test_failures_are_read_up_to_a_bound(support_client, acme, job_of, monkeypatch):
    monkeypatch.setattr(reasons, "MAX_FAILURES", 2)
    for _ in range(3):
        failed(job_of, acme, "Again")
    assert "Of the newest 2 failures" in visible_text(support_client.get("/admin/").content.decode())


def test_the_number_of_many_jobs_is_counted_or_estimated(acme, job_of, monkeypatch):
    monkeypatch.setattr(reasons, "MAX_JOBS", 2)
    for _ in range(4):
        failed(job_of, acme, "Again")
    found = reasons.failures_by_reason()
    assert re.fullmatch("4" if connection.vendor == "sqlite" else "(about|more than) [0-9,]+", found.day_jobs)
    assert found.rows[0].day_share.endswith(" %")


def test_a_link_with_another_reason_finds_nothing(support_client, acme, job_of):
    failed(job_of, acme, "Again")
    assert listed_ids(support_client, "?attention=failed&reason=Other") == []
    assert listed_ids(support_client, "?reason=%00") == []
    assert len(listed_ids(support_client, "?reason=Again")) == 1
