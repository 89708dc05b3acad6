"""The cost of the console's pages: a constant number of statements, and no table scan with 2,000,000 jobs."""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.models import Job
from tenants.models import Tenant

LIST = "/admin/jobs/job/"
MAX_STATEMENTS = 10

# Every filter alone, filters that are often combined, first and last pages, every level of the dates.
PAGES = [
    LIST,
    f"{LIST}?p=20",
    f"{LIST}?tenant=big",
    f"{LIST}?tenant=small",
    f"{LIST}?q=big.myshopify.com",
    f"{LIST}?status=SUCCESS",
    f"{LIST}?status=SUCCESS&p=20",
    f"{LIST}?status=PARTIAL_FAILURE",
    f"{LIST}?status=IN_PROGRESS",
    f"{LIST}?job_type=MODEL_GENERATOR",
    f"{LIST}?job_type=rare.operation",
    f"{LIST}?job_type=no.such.type",
    f"{LIST}?job_type=MODEL_GENERATOR&status=FAILURE",
    f"{LIST}?job_type=rare.operation&status=SUCCESS",
    f"{LIST}?tenant=big&status=FAILURE&job_type=MODEL_GENERATOR",
    f"{LIST}?tenant=small&job_type=MODEL_SWAP_WITH_IMAGE&status=PARTIAL_FAILURE",
    f"{LIST}?tenant=big&job_type=rare.operation",
    f"{LIST}?attention=failed",
    f"{LIST}?attention=failed&tenant=big&job_type=MODEL_GENERATOR",
    f"{LIST}?attention=stuck",
    f"{LIST}?attention=stuck&tenant=small",
    f"{LIST}?attention=stuck&o=5",
    f"{LIST}?attention=failed&reason=A+message+of+a+usual+length",
    f"{LIST}?o=4",
    f"{LIST}?o=0",
    f"{LIST}?o=-0",
    f"{LIST}?o=0&p=20",
    f"{LIST}?tenant=big&o=0",
    f"{LIST}?tenant=small&o=4",
    f"{LIST}?tenant=big&status=SUCCESS&o=4",
    f"{LIST}?from={{from_time}}",
    f"{LIST}?from={{from_time}}&to={{to_time}}&status=FAILURE",
    f"{LIST}?tenant=big&from={{from_time}}&to={{to_time}}",
    f"{LIST}?to={{from_time}}&job_type=MODEL_GENERATOR&o=4",
    f"{LIST}?q=sma",
    f"{LIST}?q=tenant-",
    f"{LIST}?q={{start_of_id}}",
    f"{LIST}?created_at__year={{year}}",
    f"{LIST}?created_at__year={{year}}&created_at__month={{month}}",
    f"{LIST}?created_at__year={{year}}&created_at__month={{month}}&created_at__day={{day}}&status=FAILURE",
    f"{LIST}?created_at__year=1999",
    f"{LIST}?q=no-such-tenant",
]


def measure(client, address):
    """The SQL statements that a page ran, and its time in milliseconds."""
    with CaptureQueriesContext(connection) as queries:
        start = time.perf_counter()
        response = client.get(address)
        taken = 1000 * (time.perf_counter() - start)
    assert response.status_code == 200, (address, response.status_code)
    return [query["sql"] for query in queries.captured_queries], taken


def test_the_list_runs_as_many_statements_for_fifty_jobs_as_for_one(support_client, acme, job_of):
    addresses = [f"{LIST}{query}" for query in ("", "?tenant=acme&status=SUCCESS&job_type=MODEL_GENERATOR", "?q=acme")]
    events = [{"seq": 1, "event_type": "succeeded", "message": "Done", "created_at": "2026-04-15T12:00:00Z"}]
    job_of(acme, events=events)
    measure(support_client, LIST)  # the first request of a process runs additional statements
    for_one = {address: len(measure(support_client, address)[0]) for address in addresses}
    for _ in range(49):
        job_of(acme, events=events)
    assert {address: len(measure(support_client, address)[0]) for address in addresses} == for_one
    assert max(for_one.values()) <= MAX_STATEMENTS


def test_the_page_of_a_job_runs_as_many_statements_for_fifty_events_as_for_one(support_client, acme, job_of):
    def statements(count):
        events = [
            {
                "seq": seq,
                "event_type": "stage",
                "created_at": "2026-04-15T12:00:00Z",
                "artifacts": [{"storage_key": f"tenants/acme/{seq}.png", "kind": "k", "role": "final"}],
            }
            for seq in range(1, count + 1)
        ]
        job = job_of(acme, events=events)
        return len(measure(support_client, f"/admin/jobs/job/{job.public_id}/change/")[0])

    statements(1)
    assert statements(50) == statements(1)


def test_home_and_its_failures_run_as_many_statements_for_fifty_failures_as_for_one(support_client, acme, job_of):
    pages = ["/admin/", f"{LIST}failures/"]

    def fail():
        job_of(acme, events=[{"seq": 1, "event_type": "failed", "created_at": timezone.now().isoformat()}])

    def statements():
        return {page: len(measure(support_client, page)[0]) for page in pages}

    fail()
    statements()  # the first request of a page in a process runs additional ones
    for_one = statements()
    for _ in range(49):
        fail()
    assert statements() == for_one
    assert max(for_one.values()) <= MAX_STATEMENTS


# --- 2,000,000 jobs -----------------------------------------------------------------------------------------------

JOBS = 2_000_000
DAYS = 60
# The most rows that the statements of one page of the list can read, including those that are filtered out: up to 1,001
# for its total, 1,000 before its last page, one event for each, and all of the rarer filter if two share no index.
MAX_ROWS = 25_000
# The home page reads the failures of a week and the jobs in progress, and a list of a week's failures reads those. A
# tenant's page reads the jobs in its chart.
# Bitmap scans read each row twice.
MAX_CHART_ROWS = 200_000
FILL = f"""
    INSERT INTO jobs_job (public_id, tenant_id, job_type, status, created_at, updated_at, last_seq, last_public_seq,
                          version, is_operation)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || lpad(to_hex(n), 20, '0'))::uuid,
           tenants[CASE WHEN n % 2 = 0 THEN 1 ELSE 1 + (n / 2 % 199)::int + 1 END],
           (array['MODEL_GENERATOR', 'BACKGROUND_GENERATOR', 'COMPLEMENTARY_GARMENT_GENERATOR',
                  'PRODUCT_TO_MODEL_DIRECT', 'PRODUCT_TO_MODEL_PHASED', 'BACKGROUND_SWAP_WITH_IMAGE',
                  'BACKGROUND_SWAP_WITH_SPEC', 'MODEL_SWAP_WITH_IMAGE', 'vm.start'])[1 + (n * 7919 % 9)::int],
           CASE WHEN n % 1000 < 935 THEN 'SUCCESS' WHEN n % 1000 < 985 THEN 'FAILURE'
                WHEN n % 1000 < 990 THEN 'PARTIAL_FAILURE' WHEN n % 1000 < 997 THEN 'IN_PROGRESS'
                ELSE 'NOT_STARTED' END,
           at, at + interval '30 seconds', 1, 1, 1, false
    FROM (SELECT n, now() - interval '{DAYS} days' * (1 - n / {JOBS}.0) AS at FROM
              generate_series(1::bigint, {JOBS}) AS n) AS s,
         (SELECT array_agg(id ORDER BY slug <> 'big', id) AS tenants FROM tenants_tenant) AS t;
    UPDATE jobs_job SET job_type = 'rare.operation'
    WHERE public_id IN (SELECT public_id FROM jobs_job ORDER BY created_at LIMIT 40);
    INSERT INTO jobs_jobevent (job_id, tenant_id, seq, event_type, visibility, message, extra, created_at)
    SELECT public_id, tenant_id, 1,
           CASE v1_status WHEN 'SUCCESS' THEN 'succeeded' WHEN 'FAILURE' THEN 'failed' ELSE 'stage' END,
           'public', 'A message of a usual length', '{{}}', updated_at
    FROM jobs_job;
    INSERT INTO jobs_artifact (job_id, tenant_id, event_id, position, storage_key, kind, role, meta)
    SELECT job_id, tenant_id, id, 0, 'tenants/' || tenant_id || '/' || id || '.png', 'render', 'final', '{{}}'
    FROM jobs_jobevent WHERE event_type = 'succeeded' AND id % 10 = 0;
    INSERT INTO jobs_jobcounts (tenant_id, not_started, in_progress, success, failure, partial_failure)
    SELECT tenant_id, count(*) FILTER (WHERE status = 'NOT_STARTED'), count(*) FILTER (WHERE status = 'IN_PROGRESS'),
           count(*) FILTER (WHERE status = 'SUCCESS'), count(*) FILTER (WHERE status = 'FAILURE'),
           count(*) FILTER (WHERE status = 'PARTIAL_FAILURE')
    FROM jobs_job GROUP BY tenant_id;
    ANALYZE jobs_job, jobs_jobevent, jobs_artifact, tenants_tenant
"""


@pytest.fixture
def two_million_jobs(transactional_db):  # truncated: rows that are rolled back would lie in the way of later tests
    Tenant.objects.create(slug="big", shop_domain="big.myshopify.com")
    Tenant.objects.create(slug="small")
    Tenant.objects.bulk_create(Tenant(slug=f"tenant-{number}") for number in range(198))
    with connection.cursor() as cursor:
        for statement in FILL.split(";\n"):
            cursor.execute(statement)
    assert Job.all_tenants.count() == JOBS


def rows_read(sql):
    """The number of rows that a statement reads, including those that are filtered out, and the tables it scans."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}")
        plan = cursor.fetchone()[0]
    plan = json.loads(plan) if isinstance(plan, str) else plan
    rows, scanned, nodes = 0, set(), [plan[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if "Scan" in node["Node Type"] and node["Node Type"] != "Subquery Scan":
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            rows += (node["Actual Rows"] + removed) * node["Actual Loops"]
            if node["Node Type"] == "Seq Scan":
                scanned.add(node["Relation Name"])
    return round(rows), scanned


@pytest.mark.full
@pytest.mark.postgresql
def test_no_page_counts_or_scans_two_million_jobs(support_client, two_million_jobs, capsys):
    big, job = Tenant.objects.get(slug="big"), Job.all_tenants.newest_first()[JOBS // 2]
    lately = datetime.now(UTC) - timedelta(hours=12)
    at = {
        "year": lately.year,
        "month": lately.month,
        "day": lately.day,
        "from_time": (lately - timedelta(days=30)).strftime("%Y-%m-%dT%H:%M"),
        "to_time": (lately - timedelta(days=29)).strftime("%Y-%m-%dT%H:%M"),
        "start_of_id": str(job.public_id)[:6],
    }
    lists = [address.format(**at) for address in PAGES]
    # The place of the job in the list that it was opened from.
    newest = Job.all_tenants.filter(status="FAILURE").newest_first()[500]
    places = [
        f"{LIST}{newest.public_id}/change/?_changelist_filters={query}" for query in ("status%3DFAILURE", "o%3D4")
    ]
    week = [f"{LIST}?attention=failed-7d", f"{LIST}?attention=failed-7d&reason=A+message+of+a+usual+length"]
    others = ["/admin/", f"{LIST}failures/", f"{LIST}{job.public_id}/change/", f"{LIST}{job.public_id}/timeline/"]
    others += [f"/admin/tenants/tenant/{big.pk}/change/", "/admin/tenants/tenant/", "/admin/jobs/auditentry/"]
    measure(support_client, LIST)
    too_much, report = {}, []
    for address in [*lists, *places, *week, *others]:
        statements, taken = measure(support_client, address)
        reads = [rows_read(sql) for sql in statements if re.match(r"\s*SELECT", sql)]
        rows = sum(rows for rows, _ in reads)
        report.append(f"{address[:96]:<96} {len(statements):>2} statements {taken:>7.1f} ms {rows:>7,} rows read")
        scanned = set().union(*(scanned for _, scanned in reads)) & {"jobs_job", "jobs_jobevent", "jobs_artifact"}
        limit = MAX_ROWS if address in [*lists, *places] else MAX_CHART_ROWS
        is_bounded = address in [*lists, *week, "/admin/"]
        if rows > limit or scanned or (is_bounded and len(statements) > MAX_STATEMENTS):
            too_much[address] = (len(statements), rows, scanned)
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *report, ""]))
    assert too_much == {}
