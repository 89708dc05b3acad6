"""The console's pages of webhooks: endpoints with their health, the log of attempts, redelivery.

Support looks and has events sent again. Superusers also add, change and remove endpoints. Every act is audited.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Count, F, Model, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from jobs.admin.audit import record_audit_entry
from jobs.admin.changelist import ConsoleAdmin, ReadOnlyAdmin
from jobs.admin.dashboard import tenant_url
from jobs.admin.formatting import format_time_ago, format_timestamp
from jobs.admin.json_html import JSONTrees
from jobs.admin.tenants import is_superuser
from jobs.models import AuditAction, JobCounts
from jobs.webhooks import endpoints
from jobs.webhooks.leases import config_of
from jobs.webhooks.models import Attempt, Endpoint, Outcome
from jobs.webhooks.payload import payload
from jobs.webhooks.queries import read_next_event
from tenants.models import Tenant

SHOWN_ATTEMPTS = 50
BADGES = {"enabled": "good", "failing": "bad", "disabled": "waiting"}


def event_types_of(text: str) -> list[str]:
    return sorted({item for each in text.split(",") if (item := each.strip())})


class EndpointForm(forms.Form):
    url = forms.CharField(label="URL", max_length=2000, help_text="https, to a public address or an allowed network.")
    event_types = forms.CharField(
        required=False,
        max_length=2000,
        help_text="Separated by commas, such as succeeded, failed. If empty, all types are delivered.",
    )

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"]
        endpoints.check_url(url)
        return url

    def clean_event_types(self) -> list[str]:
        event_types = event_types_of(self.cleaned_data["event_types"])
        endpoints.check_event_types(event_types)
        return event_types


class NewEndpointForm(EndpointForm):
    tenant = forms.SlugField(max_length=63, help_text="The slug of the tenant whose events are delivered.")
    field_order = ("tenant", "url", "event_types")

    def clean_tenant(self) -> Tenant:
        tenant = Tenant.objects.filter(slug=self.cleaned_data["tenant"]).first()
        if tenant is None:
            raise ValidationError("There is no tenant with this slug.")
        return tenant


class SinceForm(forms.Form):
    since = forms.DateTimeField(
        label="Failed since (UTC)",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
    )


def state_badge(endpoint: Endpoint) -> SafeString:
    return format_html('<span class="badge badge-{}">{}</span>', BADGES[endpoint.state], endpoint.state)


@admin.register(Endpoint)
class EndpointAdmin(ConsoleAdmin):
    ordering = ("tenant__slug", "pk")
    list_display = ("name", "tenant_link", "shown_url", "state", "waiting", "blocked", "last_success", "last_failure")
    list_select_related = ("tenant",)
    search_fields = ("tenant__slug",)
    search_help_text = "Search by tenant slug (whole values only)."

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_superuser(request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Endpoint]:
        newest = JobCounts.all_tenants.filter(tenant=OuterRef("tenant")).values("last_position")
        return (
            super()
            .get_queryset(request)
            .annotate(
                lag=Coalesce(Subquery(newest), F("position")) - F("position"), blocked_count=Count("blocked_jobs")
            )
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Endpoint], search_term: str
    ) -> tuple[QuerySet[Endpoint], bool]:
        term = search_term.strip()
        if "\0" in term:  # PostgreSQL cannot store NUL in text
            return queryset.none(), False
        return (queryset.filter(tenant__slug=term) if term else queryset), False

    # --- Columns ---

    @admin.display(description="endpoint")
    def name(self, endpoint: Endpoint) -> str:
        return f"Endpoint {endpoint.pk}"

    @admin.display(description="tenant")
    def tenant_link(self, endpoint: Endpoint) -> SafeString:
        return format_html('<a href="{}">{}</a>', tenant_url(endpoint.tenant_id), endpoint.tenant.slug)

    @admin.display(description="URL")
    def shown_url(self, endpoint: Endpoint) -> str:
        return endpoint.url if len(endpoint.url) <= 80 else f"{endpoint.url[:79]}…"

    @admin.display(description="state")
    def state(self, endpoint: Endpoint) -> SafeString:
        return state_badge(endpoint)

    @admin.display(description="positions behind")
    def waiting(self, endpoint: Any) -> str:
        return f"{endpoint.lag:,}"

    @admin.display(description="jobs that wait")
    def blocked(self, endpoint: Any) -> str:
        return f"{endpoint.blocked_count:,}"

    @admin.display(description="last success")
    def last_success(self, endpoint: Endpoint) -> SafeString | str:
        return format_time_ago(endpoint.last_success_at) if endpoint.last_success_at else "never"

    @admin.display(description="last failure")
    def last_failure(self, endpoint: Endpoint) -> SafeString | str:
        return format_time_ago(endpoint.last_failure_at) if endpoint.last_failure_at else "never"

    # --- Pages ---

    def get_urls(self) -> list[URLPattern]:
        acts: dict[str, Callable[..., HttpResponse]] = {
            "test": self.test_view,
            "redeliver-failed": self.redeliver_failed_view,
            "rotate": self.rotate_view,
            "enable": self.enable_view,
            "disable": self.disable_view,
        }
        own = [
            path(f"<int:endpoint_id>/{act}/", self.admin_site.admin_view(view), name=f"webhooks_endpoint_{act}")
            for act, view in acts.items()
        ]
        return [*own, *super().get_urls()]

    # The response contains the secret. It is not cached, and no other page shows the secret.
    @method_decorator(never_cache)
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = NewEndpointForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            given = form.cleaned_data
            try:
                with transaction.atomic():
                    endpoint, secret = endpoints.create(given["tenant"], given["url"], given["event_types"])
                    record_audit_entry(request, AuditAction.WEBHOOK_ADDED, endpoint.tenant, str(endpoint))
                return self._secret_page(request, endpoint, secret)
            except ValidationError as error:
                form.add_error(None, error)
        context = {**self.admin_site.each_context(request), "opts": self.opts, "title": "Add a webhook", "form": form}
        return TemplateResponse(request, "admin/webhooks/endpoint/add.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        endpoint = self.get_object(request, unquote(object_id))
        if endpoint is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined]
        if not self.has_view_permission(request, endpoint):
            raise PermissionDenied
        initial = {"url": endpoint.url, "event_types": ", ".join(endpoint.event_types)}
        form = EndpointForm(request.POST or None, initial=initial)
        if request.method == "POST":
            if not self.has_change_permission(request, endpoint):
                raise PermissionDenied
            if form.is_valid():
                with transaction.atomic():
                    # Only these columns: a worker changes others meanwhile.
                    Endpoint.objects.filter(pk=endpoint.pk).update(**form.cleaned_data)
                    record_audit_entry(request, AuditAction.WEBHOOK_CHANGED, endpoint.tenant, str(endpoint))
                messages.success(request, "The endpoint was changed.")
                return self._back(endpoint)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Webhook endpoint {endpoint.pk}",
            "endpoint": endpoint,
            "badge": state_badge(endpoint),
            "attempts": endpoint.attempts.order_by("-pk")[:SHOWN_ATTEMPTS],
            "form": form,
            "since_form": SinceForm(),
            "may_change": self.has_change_permission(request, endpoint),
            "may_redeliver": may_redeliver(request),
        }
        return TemplateResponse(request, "admin/webhooks/endpoint/page.html", context)

    def delete_model(self, request: HttpRequest, obj: Endpoint) -> None:
        record_audit_entry(request, AuditAction.WEBHOOK_REMOVED, obj.tenant, str(obj))
        endpoints.delete(obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Only the endpoint is named: a thousand rows of its log would be of no use here."""
        return [str(each) for each in objs], {}, set(), []

    @method_decorator(require_POST)
    def test_view(self, request: HttpRequest, endpoint_id: int) -> HttpResponse:
        endpoint = self._endpoint(request, endpoint_id, may_redeliver)
        record_audit_entry(request, AuditAction.WEBHOOK_TESTED, endpoint.tenant, str(endpoint))
        attempt = endpoints.send_test(endpoint)
        answer = f"status {attempt.status}" if attempt.status else attempt.error
        if attempt.outcome == Outcome.DELIVERED:
            messages.success(request, f"The receiver accepted the test event: {answer}, {attempt.duration_ms} ms.")
        else:
            messages.error(request, f"The receiver did not accept the test event: {answer}.")
        return self._back(endpoint)

    @method_decorator(require_POST)
    def redeliver_failed_view(self, request: HttpRequest, endpoint_id: int) -> HttpResponse:
        endpoint = self._endpoint(request, endpoint_id, may_redeliver)
        form = SinceForm(request.POST)
        if not form.is_valid():
            messages.error(request, "Name the time since when events are to be sent again.")
            return self._back(endpoint)
        since: datetime = form.cleaned_data["since"]
        with transaction.atomic():
            number = endpoints.redeliver_failed(endpoint, since)
            record_audit_entry(request, AuditAction.WEBHOOK_RESENT, endpoint.tenant, str(endpoint))
        plural = "s" if number != 1 else ""
        failed = f"{number:,} event{plural} that failed since then"
        messages.success(request, f"{failed} will be sent again {when_sent(endpoint)}.")
        return self._back(endpoint)

    @method_decorator(require_POST)
    @method_decorator(never_cache)
    def rotate_view(self, request: HttpRequest, endpoint_id: int) -> HttpResponse:
        endpoint = self._endpoint(request, endpoint_id, is_superuser)
        with transaction.atomic():
            secret = endpoints.rotate_secret(endpoint)
            record_audit_entry(request, AuditAction.WEBHOOK_CHANGED, endpoint.tenant, str(endpoint))
        return self._secret_page(request, endpoint, secret)

    @method_decorator(require_POST)
    def enable_view(self, request: HttpRequest, endpoint_id: int) -> HttpResponse:
        endpoint = self._endpoint(request, endpoint_id, is_superuser)
        with transaction.atomic():
            endpoints.enable(endpoint, from_now="from_now" in request.POST)
            record_audit_entry(request, AuditAction.WEBHOOK_CHANGED, endpoint.tenant, str(endpoint))
        messages.success(request, "The endpoint is enabled.")
        return self._back(endpoint)

    @method_decorator(require_POST)
    def disable_view(self, request: HttpRequest, endpoint_id: int) -> HttpResponse:
        endpoint = self._endpoint(request, endpoint_id, is_superuser)
        with transaction.atomic():
            endpoints.disable(endpoint, f"Disabled in the console by {request.user.get_username()}."[:200])
            record_audit_entry(request, AuditAction.WEBHOOK_CHANGED, endpoint.tenant, str(endpoint))
        messages.success(request, "The endpoint is disabled. Events wait until it is enabled again.")
        return self._back(endpoint)

    def _endpoint(self, request: HttpRequest, endpoint_id: int, may: Callable[[HttpRequest], bool]) -> Endpoint:
        if not may(request):
            raise PermissionDenied
        return get_object_or_404(Endpoint.objects.select_related("tenant"), pk=endpoint_id)

    def _back(self, endpoint: Endpoint) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:webhooks_endpoint_change", args=[endpoint.pk]))

    def _secret_page(self, request: HttpRequest, endpoint: Endpoint, secret: str) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"The secret of webhook endpoint {endpoint.pk}",
            "endpoint": endpoint,
            "secret": secret,
        }
        return TemplateResponse(request, "admin/webhooks/endpoint/secret.html", context)


def may_redeliver(request: HttpRequest) -> bool:
    return request.user.has_perm("webhooks.add_redelivery")


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    """The log of all endpoints. The page of an attempt has what was sent and answered, and sends the event again."""

    ordering = ("-pk",)
    list_display = ("time", "endpoint_link", "event_type", "event_id", "outcome", "status", "duration")
    list_select_related = ("endpoint__tenant",)

    @admin.display(description="when")
    def time(self, attempt: Attempt) -> SafeString:
        return format_timestamp(attempt.at)

    @admin.display(description="endpoint")
    def endpoint_link(self, attempt: Attempt) -> SafeString:
        address = reverse("admin:webhooks_endpoint_change", args=[attempt.endpoint_id])
        return format_html('<a href="{}">{} {}</a>', address, attempt.endpoint.tenant.slug, attempt.endpoint_id)

    @admin.display(description="duration")
    def duration(self, attempt: Attempt) -> str:
        return f"{attempt.duration_ms:,} ms"

    def get_urls(self) -> list[URLPattern]:
        redeliver = path(
            "<int:attempt_id>/redeliver/",
            self.admin_site.admin_view(self.redeliver_view),
            name="webhooks_attempt_redeliver",
        )
        return [redeliver, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        attempt = self.get_object(request, unquote(object_id))
        if attempt is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined]
        if not self.has_view_permission(request, attempt) or request.method != "GET":
            raise PermissionDenied
        body = body_now(attempt)
        if body is not None:
            record_audit_entry(request, AuditAction.JOB_VIEWED, attempt.endpoint.tenant, str(attempt.job))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Attempt {attempt.number or ''} at {attempt.event_type}",
            "attempt": attempt,
            "timestamp": int(attempt.at.timestamp()),
            "body": None if body is None else JSONTrees().tree_or_text(json.loads(body), open_levels=3),
            "may_redeliver": body is not None and may_redeliver(request),
        }
        return TemplateResponse(request, "admin/webhooks/attempt/page.html", context)

    @method_decorator(require_POST)
    def redeliver_view(self, request: HttpRequest, attempt_id: int) -> HttpResponse:
        if not may_redeliver(request):
            raise PermissionDenied
        attempt = get_object_or_404(
            Attempt.objects.select_related("endpoint__tenant"), pk=attempt_id, job__isnull=False
        )
        with transaction.atomic():
            if attempt.job is not None and attempt.seq is not None:  # no test event, as the query says
                endpoints.redeliver(attempt.endpoint, attempt.job, attempt.seq)
            record_audit_entry(request, AuditAction.WEBHOOK_RESENT, attempt.endpoint.tenant, attempt.event_id)
        messages.success(request, f"The event will be sent again {when_sent(attempt.endpoint)}.")
        return HttpResponseRedirect(reverse("admin:webhooks_endpoint_change", args=[attempt.endpoint_id]))


def when_sent(endpoint: Endpoint) -> str:
    return "within seconds" if endpoint.is_enabled else "when the endpoint is enabled"


def body_now(attempt: Attempt) -> bytes | None:
    """The body as it would be sent now; None where the event is gone, or of a test."""
    if attempt.job is None or attempt.seq is None:
        return None
    caller, job, seq = config_of(attempt.endpoint).caller, attempt.job.hex, attempt.seq

    async def render() -> bytes | None:
        row = await read_next_event(caller.tenant_id, (), job, seq)
        return None if row is None or row.event[0] != seq else await payload(row, caller)

    return async_to_sync(render)()
