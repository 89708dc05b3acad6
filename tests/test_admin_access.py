"""Permissions of the console: every route, requested by every role."""

from __future__ import annotations

import re

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.urls import URLPattern, get_resolver
from django.utils import timezone

from jobs.models import Artifact, AuditEntry, Job, JobEvent
from jobs.webhooks import endpoints
from jobs.webhooks.models import Attempt, Endpoint
from tenants.models import ApiToken, Tenant
from tests.client import Client

pytestmark = pytest.mark.full_on_postgresql

EVENTS = [
    {"seq": 1, "event_type": "queued", "created_at": "2026-04-15T12:00:00Z"},
    {"seq": 2, "event_type": "failed", "message": "No", "created_at": "2026-04-15T12:00:09Z"},
]

# method, path, and the status for each of ROLES
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
    ("GET", "/admin/jobs/job/failures/", 302, 302, 403, 200, 200),
    ("POST", "/admin/jobs/job/failures/", 302, 302, 405, 405, 405),
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
    ("GET", "/admin/webhooks/", 302, 302, 404, 200, 200),
    ("GET", "/admin/webhooks/endpoint/", 302, 302, 403, 200, 200),
    ("GET", "/admin/webhooks/endpoint/add/", 302, 302, 403, 403, 200),
    ("POST", "/admin/webhooks/endpoint/add/", 302, 302, 403, 403, 200),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/", 302, 302, 302, 302, 302),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/change/", 302, 302, 403, 200, 200),
    ("POST", "/admin/webhooks/endpoint/{endpoint}/change/", 302, 302, 403, 403, 200),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/history/", 302, 302, 403, 200, 200),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/test/", 302, 302, 405, 405, 405),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/redeliver-failed/", 302, 302, 405, 405, 405),
    ("POST", "/admin/webhooks/endpoint/{endpoint}/test/", 302, 302, 403, 302, 302),
    ("POST", "/admin/webhooks/endpoint/{endpoint}/redeliver-failed/", 302, 302, 403, 302, 302),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/rotate/", 302, 302, 405, 405, 405),
    ("POST", "/admin/webhooks/endpoint/{endpoint}/rotate/", 302, 302, 403, 403, 200),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/enable/", 302, 302, 405, 405, 405),
    ("POST", "/admin/webhooks/endpoint/{endpoint}/enable/", 302, 302, 403, 403, 302),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/disable/", 302, 302, 405, 405, 405),
    ("POST", "/admin/webhooks/endpoint/{endpoint}/disable/", 302, 302, 403, 403, 302),
    ("GET", "/admin/webhooks/attempt/", 302, 302, 403, 200, 200),
    ("GET", "/admin/webhooks/attempt/add/", 302, 302, 403, 403, 403),
    ("POST", "/admin/webhooks/attempt/add/", 302, 302, 403, 403, 403),
    ("GET", "/admin/webhooks/attempt/{attempt}/", 302, 302, 302, 302, 302),
    ("GET", "/admin/webhooks/attempt/{attempt}/change/", 302, 302, 403, 200, 200),
    ("POST", "/admin/webhooks/attempt/{attempt}/change/", 302, 302, 403, 403, 403),
    ("GET", "/admin/webhooks/attempt/{attempt}/delete/", 302, 302, 403, 403, 403),
    ("POST", "/admin/webhooks/attempt/{attempt}/delete/", 302, 302, 403, 403, 403),
    ("GET", "/admin/webhooks/attempt/{attempt}/history/", 302, 302, 403, 200, 200),
    ("GET", "/admin/webhooks/attempt/{attempt}/redeliver/", 302, 302, 405, 405, 405),
    ("POST", "/admin/webhooks/attempt/{attempt}/redeliver/", 302, 302, 403, 302, 302),
    ("GET", "/admin/webhooks/endpoint/{endpoint}/delete/", 302, 302, 403, 403, 200),
    ("POST", "/admin/webhooks/endpoint/{endpoint}/delete/", 302, 302, 403, 403, 200),
    ("GET", "/admin/autocomplete/?app_label=jobs&model_name=job&field_name=tenant&term=ac", 302, 302, 403, 200, 200),
    ("GET", "/admin/auth/user/", 302, 302, 403, 403, 200),
    ("GET", "/admin/auth/group/", 302, 302, 403, 403, 200),
]
# A customer is not staff, and staff is in no group.
ROLES = ("logged out", "customer", "staff", "support", "superuser")


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
    endpoint, _ = endpoints.create(acme, "https://receiver.example/")
    Endpoint.objects.update(url="https://127.0.0.1:1/")  # a test event goes nowhere
    attempt = Attempt.objects.create(
        endpoint=endpoint,
        at=timezone.now(),
        job=job.pk,
        seq=1,
        event_type="job.queued",
        number=1,
        outcome="failed",
        duration_ms=1,
    )
    return {
        "endpoint": endpoint.pk,
        "attempt": attempt.pk,
        "job": job.public_id,
        "entry": AuditEntry.objects.get().pk,
        "tenant": acme.pk,
        "token": ApiToken.objects.get().pk,
    }


def rows_of_jobs():
    return [list(model.all_tenants.order_by("pk").values_list()) for model in (Job, JobEvent, Artifact)]


@pytest.mark.parametrize("role", ROLES)
def test_every_route_has_the_status_of_the_table_for_each_role_and_none_changes_a_job(clients, ids, acme, role):
    before = rows_of_jobs()
    expected, actual = {}, {}
    for method, address, *statuses in PERMISSIONS:
        response = clients[role].generic(method, address.format(**ids))
        expected[method, address] = statuses[ROLES.index(role)]
        actual[method, address] = response.status_code
        if role in ("logged out", "customer"):
            assert response.url.startswith("/admin/login/")
    assert actual == expected
    assert rows_of_jobs() == before
    assert Tenant.objects.filter(pk=acme.pk).exists()


def test_the_table_contains_every_route_of_the_console():
    def routes(patterns, prefix=""):
        for pattern in patterns:
            if isinstance(pattern, URLPattern):
                yield prefix + str(pattern.pattern)
            else:
                yield from routes(pattern.url_patterns, prefix + str(pattern.pattern))

    console = [route for route in routes(get_resolver().url_patterns) if route.startswith("admin/")]
    ours = {route for route in console if re.search("/(jobs|tenants|webhooks)/", route)}
    placeholders = {"{job}": "<path:object_id>", "{entry}": "<path:object_id>"}
    listed_routes = set()
    for _, address, *_ in PERMISSIONS:
        for placeholder, pattern in placeholders.items():
            address = address.replace(placeholder, pattern)  # noqa: PLW2901
        is_own_view = not re.search("/(add|change|delete|history)/|}/$", address)
        for name in ("tenant", "token", "endpoint", "attempt"):
            pattern = f"<int:{name}_id>" if is_own_view else "<path:object_id>"
            address = address.replace(f"{{{name}}}", pattern)  # noqa: PLW2901
        listed_routes.add(address.removeprefix("/"))
    assert ours - listed_routes == set()


def test_migrations_give_the_support_group_exactly_its_permissions(sam):
    granted = Group.objects.get(name="support").permissions.values_list("content_type__app_label", "codename")
    assert sorted(granted) == [
        ("jobs", "view_auditentry"),
        ("jobs", "view_job"),
        ("tenants", "revoke_apitoken"),
        ("tenants", "view_apitoken"),
        ("tenants", "view_tenant"),
        ("webhooks", "add_redelivery"),
        ("webhooks", "view_attempt"),
        ("webhooks", "view_endpoint"),
    ]


def test_a_user_with_all_permissions_who_is_no_superuser_cannot_change_anything(support_client, acme, job_of):
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


def test_no_list_has_bulk_actions(admin_client, acme, acme_token, job_of):
    job_of(acme, events=EVENTS)
    for model in (Job, AuditEntry, Tenant, ApiToken):
        assert admin.site.get_model_admin(model).actions is None
        response = admin_client.get(f"/admin/{model._meta.app_label}/{model._meta.model_name}/")
        assert b'name="action"' not in response.content


@pytest.mark.parametrize("address", ["/admin/jobs/job/{}/change/", "/admin/jobs/job/{}/timeline/"])
@pytest.mark.parametrize("job_id", ["01JADE5XAMPK9M0Q7RS3T4V5W6", "1", "%00", "nonsense"])
def test_a_job_that_does_not_exist_is_a_redirect_or_404_without_an_audit_entry(support_client, address, job_id):
    response = support_client.get(address.format(job_id))
    assert response.status_code in (302, 404)
    assert AuditEntry.objects.count() == 0
