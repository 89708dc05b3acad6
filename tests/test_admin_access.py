"""Who may do what in the console: every route of it, as everybody."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.urls import URLPattern, get_resolver

from jobs.models import Artifact, AuditEntry, Job, JobEvent
from tenants.models import ApiToken, Tenant
from tests.client import Client

EVENTS = [
    {"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z"},
    {"seq": 2, "event_type": "failed", "message": "No", "created_at": "2026-04-15T12:00:09Z"},
]

# method, address, and what it answers: someone signed out, a customer's login, staff of no group, support, a superuser
PERMISSIONS = [
    ("GET", "/admin/", 302, 302, 200, 200, 200),
    ("GET", "/admin/jobs/", 302, 302, 404, 200, 200),
    ("GET", "/admin/tenants/", 302, 302, 404, 200, 200),
    ("GET", "/admin/auth/", 302, 302, 404, 404, 200),
    ("GET", "/admin/jobs/job/", 302, 302, 403, 200, 200),
    ("GET", "/admin/jobs/job/add/", 302, 302, 403, 403, 403),
    ("POST", "/admin/jobs/job/add/", 302, 302, 403, 403, 403),
    ("GET", "/admin/jobs/job/{job}/", 302, 302, 302, 302, 302),
    ("GET", "/admin/jobs/job/{job}/change/", 302, 302, 403, 200, 200),
    ("POST", "/admin/jobs/job/{job}/change/", 302, 302, 405, 405, 405),
    ("GET", "/admin/jobs/job/{job}/timeline/", 302, 302, 403, 200, 200),
    ("POST", "/admin/jobs/job/{job}/timeline/", 302, 302, 405, 405, 405),
    ("GET", "/admin/jobs/job/{job}/delete/", 302, 302, 403, 403, 403),
    ("POST", "/admin/jobs/job/{job}/delete/", 302, 302, 403, 403, 403),
    ("GET", "/admin/jobs/job/{job}/history/", 302, 302, 403, 200, 200),
    ("GET", "/admin/jobs/auditentry/", 302, 302, 403, 200, 200),
    ("GET", "/admin/jobs/auditentry/add/", 302, 302, 403, 403, 403),
    ("POST", "/admin/jobs/auditentry/add/", 302, 302, 403, 403, 403),
    ("GET", "/admin/jobs/auditentry/{entry}/", 302, 302, 302, 302, 302),
    ("GET", "/admin/jobs/auditentry/{entry}/change/", 302, 302, 403, 200, 200),
    ("POST", "/admin/jobs/auditentry/{entry}/change/", 302, 302, 403, 403, 403),
    ("GET", "/admin/jobs/auditentry/{entry}/delete/", 302, 302, 403, 403, 403),
    ("POST", "/admin/jobs/auditentry/{entry}/delete/", 302, 302, 403, 403, 403),
    ("GET", "/admin/jobs/auditentry/{entry}/history/", 302, 302, 403, 200, 200),
    ("GET", "/admin/jobs/auditentry/ticket/", 302, 302, 405, 405, 405),
    ("POST", "/admin/jobs/auditentry/ticket/", 302, 302, 302, 302, 302),
    ("GET", "/admin/tenants/tenant/", 302, 302, 403, 200, 200),
    ("GET", "/admin/tenants/tenant/add/", 302, 302, 403, 403, 200),
    ("POST", "/admin/tenants/tenant/add/", 302, 302, 403, 403, 200),
    ("GET", "/admin/tenants/tenant/{tenant}/", 302, 302, 302, 302, 302),
    ("GET", "/admin/tenants/tenant/{tenant}/change/", 302, 302, 403, 200, 200),
    ("POST", "/admin/tenants/tenant/{tenant}/change/", 302, 302, 403, 403, 302),
    ("GET", "/admin/tenants/tenant/{tenant}/delete/", 302, 302, 403, 403, 403),
    ("POST", "/admin/tenants/tenant/{tenant}/delete/", 302, 302, 403, 403, 403),
    ("GET", "/admin/tenants/tenant/{tenant}/history/", 302, 302, 403, 200, 200),
    ("GET", "/admin/tenants/tenant/{tenant}/issue-token/", 302, 302, 403, 403, 200),
    ("POST", "/admin/tenants/tenant/{tenant}/issue-token/", 302, 302, 403, 403, 200),
    ("GET", "/admin/tenants/apitoken/", 302, 302, 403, 200, 200),
    ("GET", "/admin/tenants/apitoken/add/", 302, 302, 403, 403, 403),
    ("POST", "/admin/tenants/apitoken/add/", 302, 302, 403, 403, 403),
    ("GET", "/admin/tenants/apitoken/{token}/", 302, 302, 302, 302, 302),
    ("GET", "/admin/tenants/apitoken/{token}/change/", 302, 302, 403, 200, 200),
    ("POST", "/admin/tenants/apitoken/{token}/change/", 302, 302, 403, 403, 403),
    ("GET", "/admin/tenants/apitoken/{token}/delete/", 302, 302, 403, 403, 403),
    ("POST", "/admin/tenants/apitoken/{token}/delete/", 302, 302, 403, 403, 403),
    ("GET", "/admin/tenants/apitoken/{token}/history/", 302, 302, 403, 200, 200),
    ("GET", "/admin/tenants/apitoken/{token}/revoke/", 302, 302, 403, 200, 200),
    ("POST", "/admin/tenants/apitoken/{token}/revoke/", 302, 302, 403, 302, 302),
    ("GET", "/admin/autocomplete/?app_label=jobs&model_name=job&field_name=tenant&term=ac", 302, 302, 403, 200, 200),
    ("GET", "/admin/auth/user/", 302, 302, 403, 403, 200),
    ("GET", "/admin/auth/group/", 302, 302, 403, 403, 200),
]
ROLES = ("signed out", "customer", "staff", "support", "superuser")


@pytest.fixture
def clients(support_client: Client, admin_client: Client) -> dict[str, Client]:
    customer, staff = Client(), Client()
    customer.force_login(User.objects.create_user("customer"))
    staff.force_login(User.objects.create_user("staff", is_staff=True))
    return dict(zip(ROLES, (Client(), customer, staff, support_client, admin_client), strict=True))


@pytest.fixture
def ids(acme, acme_token, job_of, support_client) -> dict[str, object]:
    job = job_of(acme, events=EVENTS)
    support_client.get(f"/admin/jobs/job/{job.public_id}/change/")
    return {
        "job": job.public_id,
        "entry": AuditEntry.objects.get().pk,
        "tenant": acme.pk,
        "token": ApiToken.objects.get().pk,
    }


@pytest.mark.parametrize("who", ROLES)
def test_every_route_answers_each_of_them_as_the_table_says(clients, ids, who):
    expected, actual = {}, {}
    for method, address, *statuses in PERMISSIONS:
        response = clients[who].generic(method, address.format(**ids))
        expected[method, address] = statuses[ROLES.index(who)]
        actual[method, address] = response.status_code
        if who in ("signed out", "customer"):
            assert response.url.startswith("/admin/login/")
    assert actual == expected


def test_the_table_leaves_no_route_of_the_console_out():
    def routes(patterns, prefix=""):
        for pattern in patterns:
            if isinstance(pattern, URLPattern):
                yield prefix + str(pattern.pattern)
            else:
                yield from routes(pattern.url_patterns, prefix + str(pattern.pattern))

    console = [route for route in routes(get_resolver().url_patterns) if route.startswith("admin/")]
    ours = {route for route in console if "/jobs/" in route or "/tenants/" in route}
    placeholders = {"{job}": "<path:object_id>", "{entry}": "<path:object_id>"}
    listed_routes = set()
    for _, address, *_ in PERMISSIONS:
        for placeholder, pattern in placeholders.items():
            address = address.replace(placeholder, pattern)  # noqa: PLW2901
        for own in ("revoke", "issue-token"):
            if own in address:
                address = address.replace("{tenant}", "<int:tenant_id>").replace("{token}", "<int:token_id>")  # noqa: PLW2901
        address = address.replace("{tenant}", "<path:object_id>").replace("{token}", "<path:object_id>")  # noqa: PLW2901
        listed_routes.add(address.removeprefix("/"))
    assert ours - listed_routes == set()


def test_the_sweep_changes_no_job_event_or_artifact(clients, ids, acme):
    def rows():
        return [list(model.all_tenants.order_by("pk").values_list()) for model in (Job, JobEvent, Artifact)]

    before = rows()
    for method, address, *_ in PERMISSIONS:
        clients["superuser"].generic(method, address.format(**ids))
    assert rows() == before
    assert Tenant.objects.filter(pk=acme.pk).exists()


def test_support_has_exactly_its_permissions_after_migrate(db):
    granted = Group.objects.get(name="support").permissions.values_list("content_type__app_label", "codename")
    assert sorted(granted) == [
        ("jobs", "view_auditentry"),
        ("jobs", "view_job"),
        ("tenants", "revoke_apitoken"),
        ("tenants", "view_apitoken"),
        ("tenants", "view_tenant"),
    ]


def test_a_change_permission_given_by_mistake_still_changes_nothing(support_client, acme, job_of):
    from django.contrib.auth.models import Permission

    User.objects.get(username="sam").user_permissions.set(Permission.objects.all())
    job = job_of(acme, events=EVENTS)
    for address in (
        f"/admin/jobs/job/{job.public_id}/delete/",
        "/admin/jobs/job/add/",
        "/admin/jobs/auditentry/add/",
        f"/admin/tenants/tenant/{acme.pk}/delete/",
        f"/admin/tenants/tenant/{acme.pk}/issue-token/",
        "/admin/tenants/tenant/add/",
    ):
        assert support_client.post(address).status_code == 403, address
    assert support_client.post(f"/admin/tenants/tenant/{acme.pk}/change/", {"name": "Mine"}).status_code == 403


def test_no_list_offers_an_action_such_as_deleting_what_was_ticked(admin_client, acme, acme_token, job_of):
    job_of(acme, events=EVENTS)
    for model in (Job, AuditEntry, Tenant, ApiToken):
        assert admin.site.get_model_admin(model).actions is None
        response = admin_client.get(f"/admin/{model._meta.app_label}/{model._meta.model_name}/")
        assert b'name="action"' not in response.content


@pytest.mark.parametrize("address", ["/admin/jobs/job/{}/change/", "/admin/jobs/job/{}/timeline/"])
@pytest.mark.parametrize("job_id", ["01JADE5XAMPK9M0Q7RS3T4V5W6", "1", "%00", "nonsense"])
def test_a_job_that_does_not_exist_is_said_so(support_client, address, job_id):
    response = support_client.get(address.format(job_id))
    assert response.status_code in (302, 404)
    assert AuditEntry.objects.count() == 0
