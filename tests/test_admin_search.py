"""The console's search: jobs, tenants and tokens by what support staff paste or half remember."""

from __future__ import annotations

import json
import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from jobs.admin import lookup
from tenants import tokens
from tenants.models import Tenant

LIST = "/admin/jobs/job/"


def search(client, text):
    return client.get(LIST, {"q": text})


def shown(response):
    """The kinds and links of the short list of results."""
    assert response.status_code == 200
    return re.findall(r'<li><span class="kind">(\w+)</span> <a href="([^"]+)">', response.content.decode())


@pytest.mark.parametrize(
    "text",
    [
        "https://gateway.example.com/admin/jobs/job/{id}/change/?_changelist_filters=p%3D2",
        "GET https://gateway.example.com/v1/jobs/{id}/events 404",
        "Our job {id}, created yesterday, has failed.",
        '{{"public_id": "{id}", "status": "FAILURE"}}',
        "job {uuid} failed",
        "{id}\n",
    ],
)
def test_an_id_is_found_in_pasted_text(support_client, acme, job_of, text):
    job_of(acme)
    job = job_of(acme)
    response = search(support_client, text.format(id=job.public_id, uuid=job.public_id.to_uuid()))
    assert (response.status_code, response.url) == (302, f"{LIST}{job.public_id}/change/")


def test_several_ids_in_pasted_text_are_a_short_list(support_client, acme, job_of):
    jobs = [job_of(acme) for _ in range(3)]
    found = shown(search(support_client, f"{jobs[0].public_id}, {jobs[1].public_id.to_uuid()}"))
    assert sorted(found) == sorted(("job", f"{LIST}{job.public_id}/change/") for job in jobs[:2])


@pytest.mark.parametrize("cut", [lambda i: str(i)[:24], lambda i: str(i)[:24].lower(), lambda i: str(i.to_uuid())[:34]])
def test_a_cut_off_id_leads_to_its_job(support_client, acme, job_of, cut):
    job = job_of(acme)
    job_of(acme)
    assert search(support_client, cut(job.public_id)).url == f"{LIST}{job.public_id}/change/"


def test_the_beginning_of_several_ids_is_a_short_list_of_at_most_ten(support_client, acme, job_of):
    first, *_ = (str(job_of(acme).public_id) for _ in range(12))
    assert len(shown(search(support_client, first[:6]))) == 10
    assert shown(search(support_client, first[:5])) == []


@pytest.mark.parametrize(
    "name", ["ACME", "Acme", "acme.myshopify.com", "https://ACME.myshopify.com/admin/orders/7", "ac"]
)
def test_a_tenant_is_found_by_the_beginning_of_a_name_in_any_case(support_client, acme, globex, job_of, name):
    job, _theirs = job_of(acme), job_of(globex)
    response = search(support_client, name)
    assert [each.pk for each in response.context["cl"].result_list] == [job.pk]
    assert "Jobs of" in response.content.decode()


def test_several_tenants_are_a_short_list_and_a_whole_slug_wins(support_client, acme, job_of):
    Tenant.objects.create(slug="acme-2", name="Another one")
    Tenant.objects.create(slug="other", name="Acme of the North")
    found = shown(search(support_client, "acm"))
    assert found == [("tenant", f"{LIST}?tenant={slug}") for slug in ("acme", "acme-2", "other")]
    job = job_of(acme)
    assert [each.pk for each in search(support_client, "acme").context["cl"].result_list] == [job.pk]


def test_a_token_is_found_by_itself_its_prefix_and_its_label(support_client, acme, globex):
    token = tokens.issue(acme, label="Storefront 7")
    tokens.issue(globex, label="other")
    page = f"/admin/tenants/apitoken/{acme.tokens.get().pk}/change/"
    prefix = token.split("_")[1]
    for text in (token, f"jgw_{prefix}", f"jgw_{prefix}_…", prefix, "storefront", f"Authorization: Bearer {token}"):
        response = search(support_client, text)
        assert (response.status_code, response.url) == (302, page), text


def test_tokens_are_not_found_without_permission_to_see_them(support_client, sam, acme):
    token = tokens.issue(acme, label="storefront")
    sam.groups.get().permissions.remove(*sam.groups.get().permissions.filter(codename="view_apitoken"))
    for text in ("storefront", token.split("_")[1]):
        response = search(support_client, text)
        assert shown(response) == []
        assert "a token by itself" not in response.content.decode()


@pytest.mark.parametrize(
    "text", ["nothing like it", "%", "_", "’ OR 1=1", "\\", "x" * 5000, "01JADE5XAMPK9M0Q7RS3T4V5W6"]
)
def test_a_search_without_a_result_says_what_can_be_found(support_client, acme, job_of, text):
    job_of(acme)
    page = search(support_client, text).content.decode()
    assert "Nothing was found for" in page
    assert "anywhere in a pasted text or URL" in page
    assert f'<a href="{LIST}">Show all jobs</a>' in page


def test_a_search_makes_three_statements_at_most(db, acme, django_assert_max_num_queries):
    for text in ("acme", "storefront", "01JADE", "x"):
        with django_assert_max_num_queries(3):
            lookup.search(text, with_tokens=True)


# By the server: through the ORM these rows take several seconds.
TENANTS = """
INSERT INTO tenants_tenant (slug, name, shop_domain, storage_prefix, is_active, created_at)
SELECT 't' || n, 'Name ' || n, 's' || n || '.myshopify.com', '', true, now() FROM generate_series(0, 19999) n
"""
TOKENS = """
INSERT INTO tenants_apitoken (tenant_id, prefix, token_hash, label, created_at)
SELECT id, 'p' || n, '', 'label ' || n, now()
FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM tenants_tenant) AS tenants
"""


@pytest.mark.postgresql
def test_a_search_reads_indexes_only(db):
    with connection.cursor() as cursor:
        cursor.execute(TENANTS)
        cursor.execute(TOKENS)
        cursor.execute("ANALYZE tenants_tenant, tenants_apitoken")
    for text, tables in (("t1999", {"tenants_tenant"}), ("label 1999", {"tenants_apitoken"})):
        with CaptureQueriesContext(connection) as queries:
            lookup.search(text, with_tokens=True)
        for sql in (query["sql"] for query in queries.captured_queries):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
                plan = json.dumps(cursor.fetchone()[0])
            if any(table in sql for table in tables):
                assert "Seq Scan" not in plan, (text, plan)
