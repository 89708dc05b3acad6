"""Hostile values in every path, query and form parameter of the console: 4xx or an empty result, never 500."""

from __future__ import annotations

from itertools import product
from urllib.parse import quote

import pytest
from django.contrib.contenttypes.models import ContentType

# Percent-encoded. Python converts no integer of more than 4,300 digits, and a bigint of PostgreSQL ends at 2**63 - 1.
VALUES = {
    "5,000 digits": "9" * 5000,
    "2**63": str(2**63),
    "negative": "-1",
    "NUL": "%00",
    "invalid UTF-8": "%ff%fe",
    "surrogate": "%ed%a0%80",
    "Arabic digit": quote("٣"),
    "superscript digit": quote("²"),
    "long text": "x" * 5000,
}
# Each of the others has its like among these. The last two never reach the database: Python and Django read them.
SHORT = {"2**63", "NUL", "invalid UTF-8", "superscript digit"}
READ_BEFORE = {"invalid UTF-8", "superscript digit"}


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    if name not in SHORT:
        return [pytest.mark.full]
    return [pytest.mark.full_on_postgresql] if name in READ_BEFORE else []


HOSTILE = [pytest.param(value, id=name, marks=marks_of(name)) for name, value in VALUES.items()]
LISTS = {
    "/admin/jobs/job/": [
        *("tenant", "attention", "reason", "status", "job_type", "from", "to"),
        *("created_at__year", "created_at__month"),
    ],
    "/admin/jobs/auditentry/": ["action", "from", "to", "at__year", "at__month"],
    "/admin/tenants/tenant/": [],
    "/admin/tenants/apitoken/": [],
    "/admin/auth/user/": ["is_staff__exact", "groups__id__exact", "id", "date_joined__year"],
    "/admin/auth/group/": [],
}
CHANGELIST_PARAMETERS = ["q", "p", "o", "all", "e", "_to_field", "_popup", "_facets", "_changelist_filters", "pk", "id"]
QUERIES = [
    *(f"{url}?{name}={{value}}" for url, names in LISTS.items() for name in [*CHANGELIST_PARAMETERS, *names]),
    "/admin/jobs/job/?created_at__year=2026&created_at__month={value}",
    "/admin/jobs/job/?created_at__year=2026&created_at__month=4&created_at__day={value}",
    "/admin/jobs/auditentry/?at__year=2026&at__month={value}",
    "/admin/jobs/auditentry/?at__year=2026&at__month=4&at__day={value}",
    "/admin/jobs/job/{job}/change/?after_seq={value}",
    "/admin/jobs/job/{job}/timeline/?after_seq={value}",
    "/admin/jobs/job/{job}/change/?order=newest&before_seq={value}",
    "/admin/jobs/job/{job}/change/?order={value}",
    "/admin/jobs/job/{job}/change/?as_of={value}",
    "/admin/jobs/job/{job}/change/?_changelist_filters=tenant%3D{value}",
    "/admin/jobs/job/{job}/change/?_changelist_filters=p%3D{value}",
    "/admin/jobs/job/{job}/change/?_changelist_filters=o%3D{value}",
    "/admin/jobs/job/{job}/change/?_changelist_filters=from%3D{value}",
    "/admin/jobs/job/{job}/change/?_changelist_filters={value}%3D1",
    "/admin/jobs/job/?attention=failed&reason={value}",
    "/admin/jobs/job/?from=0001-01-01T00:00%2B14:00&to={value}",
    "/admin/jobs/job/{job}/timeline/?version={value}",
    "/admin/jobs/job/failures/?version={value}",
    "/admin/jobs/job/{job}/change/?_changelist_filters={value}",
    "/admin/tenants/tenant/{tenant}/change/?_changelist_filters={value}",
    "/admin/tenants/tenant/{tenant}/change/?_to_field={value}",
    "/admin/tenants/tenant/{tenant}/history/?p={value}",
    "/admin/tenants/tenant/add/?name={value}",
    "/admin/tenants/tenant/add/?is_active={value}",
    "/admin/auth/user/add/?username={value}",
    "/admin/autocomplete/?app_label={value}&model_name=job&field_name=tenant",
    "/admin/autocomplete/?app_label=jobs&model_name={value}&field_name=tenant",
    "/admin/autocomplete/?app_label=jobs&model_name=job&field_name={value}",
    "/admin/autocomplete/?app_label=jobs&model_name=job&field_name=tenant&term={value}",
    "/admin/autocomplete/?app_label=jobs&model_name=job&field_name=tenant&page={value}",
    "/admin/login/?next={value}",
    "/admin/jsi18n/?{value}",
]
PATHS = [
    "/admin/r/{value}/1/",
    "/admin/{value}/",
    "/admin/jobs/job/{value}/timeline/",
    "/admin/tenants/tenant/{value}/issue-token/",
    "/admin/tenants/apitoken/{value}/revoke/",
    "/admin/auth/user/{value}/password/",
    *(f"{url}{{value}}/{view}/" for url in LISTS for view in ("change", "history", "delete")),
]


FORMS = {
    "/admin/login/": {"username": "admin", "password": "password", "next": "/admin/"},
    "/admin/logout/": {"next": "/admin/"},
    "/admin/jobs/auditentry/ticket/": {"ticket": "SUP-1", "next": "/admin/"},
    "/admin/tenants/tenant/add/": {"slug": "new", "name": "", "shop_domain": "", "storage_prefix": "", "_popup": "0"},
    "/admin/tenants/tenant/{tenant}/change/": {"name": "", "shop_domain": "", "is_active": "on"},
    "/admin/tenants/tenant/{tenant}/issue-token/": {"label": "", "expires_at": ""},
    "/admin/auth/user/add/": {"username": "new", "password1": "p4ssw0rd!", "password2": "p4ssw0rd!"},
    "/admin/auth/group/add/": {"name": "new", "permissions": "1"},
    "/admin/auth/group/{group}/change/": {"name": "support", "permissions": "1"},
    "/admin/auth/user/{user}/change/": {
        "username": "other",
        "is_active": "on",
        "groups": "1",
        "user_permissions": "1",
        "date_joined_0": "2026-04-15",
        "date_joined_1": "12:00:00",
        "last_login_0": "",
        "last_login_1": "",
    },
    # An action, and the same action confirmed.
    **{
        f"{url}?": {"action": "delete_selected", "_selected_action": "123456", "select_across": "0", "index": "0"}
        for url in ("/admin/auth/user/", "/admin/auth/group/")
    },
    **{
        url: {"action": "delete_selected", "_selected_action": "123456", "post": "yes"}
        for url in ("/admin/auth/user/", "/admin/auth/group/")
    },
}


@pytest.fixture
def ids(acme, acme_token, job_of, admin_client, sam) -> dict[str, object]:
    job = job_of(acme)
    admin_client.get(f"/admin/jobs/job/{job.public_id}/change/")  # its timeline needs an audit entry
    return {"job": job.public_id, "tenant": acme.pk, "user": sam.pk, "group": sam.groups.get().pk}


@pytest.fixture
def hostile_client(admin_client):
    """Returns responses with status 500 instead of raising the exception of the view."""
    admin_client.raise_request_exception = False
    return admin_client


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("urls", [QUERIES, PATHS], ids=["query", "path"])
def test_no_parameter_of_a_url_causes_a_server_error(hostile_client, ids, urls, value):
    statuses = {url: hostile_client.get(url.format(value=value, **ids)).status_code for url in urls}
    assert {url: status for url, status in statuses.items() if status >= 500} == {}


@pytest.mark.parametrize("value", HOSTILE)
def test_no_field_of_a_form_causes_a_server_error(hostile_client, admin_user, ids, value):
    statuses = {}
    for url, fields in FORMS.items():
        for number, name in enumerate(fields):
            body = "&".join(f"{each}={value if each == name else quote(text)}" for each, text in fields.items())
            if number == 0 or url in ("/admin/login/", "/admin/logout/"):  # which end the session
                hostile_client.force_login(admin_user)
            response = hostile_client.post(url.format(**ids), body, content_type="application/x-www-form-urlencoded")
            statuses[url, name] = response.status_code
    assert {field: status for field, status in statuses.items() if status >= 500} == {}


def test_a_seq_that_is_no_number_is_a_bad_request(admin_client, ids):
    names = ("after_seq", "before_seq", "as_of")
    values = ("9" * 5000, "-1", "%00", "%ff", "x", "", quote("²"), quote("٣"))
    for page, name, value in product(("change", "timeline"), names, values):
        url = f"/admin/jobs/job/{ids['job']}/{page}/?{name}={value}"
        assert admin_client.get(url).status_code == 400, url


def test_a_link_of_view_on_site_is_not_found(admin_client, ids):
    for content_type in ContentType.objects.all():
        for object_id in (1, ids["job"], "%00"):
            assert admin_client.get(f"/admin/r/{content_type.pk}/{object_id}/").status_code == 404


@pytest.mark.parametrize("name", ["sessionid", "csrftoken", "messages"])
@pytest.mark.parametrize("value", ["x" * 5000, "\x00", "\xff", "{", "99999999999999999999"])
def test_no_cookie_causes_a_server_error(hostile_client, name, value):
    hostile_client.cookies[name] = value
    assert hostile_client.get("/admin/").status_code in (200, 302, 400)
