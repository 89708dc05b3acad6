"""Audit entries: writing them, their list, and the ticket that new entries name."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from jobs.admin.changelist import ChoiceFilter, PeriodFilter, ReadOnlyAdmin
from jobs.admin.formatting import format_timestamp
from jobs.admin.lookup import parse_job_id
from jobs.models import AuditAction, AuditEntry, Job
from tenants.models import Tenant


def record_audit_entry(request: HttpRequest, action: AuditAction, tenant: Tenant, subject: str = "") -> None:
    """Writes an audit entry for ``action`` by the user who is logged in, with the ticket of the session, if any."""
    AuditEntry.objects.create(
        actor=cast(User, request.user),  # admin views require a login
        action=action,
        tenant_slug=tenant.slug,
        subject=subject,
        ticket=request.session.get("ticket", ""),
    )


def has_viewed(request: HttpRequest, job: Job) -> bool:
    """Whether an audit entry says that the user opened the page of ``job`` in the last 24 hours."""
    return AuditEntry.objects.filter(
        actor=cast(User, request.user),
        action=AuditAction.JOB_VIEWED,
        subject=str(job.public_id),
        at__gt=timezone.now() - timedelta(days=1),
    ).exists()


def recently_viewed(user: User) -> list[AuditEntry]:
    """The last view of each of up to 8 jobs by this user, newest first. One statement, which reads at most 40 rows."""
    views = AuditEntry.objects.filter(actor=user, action=AuditAction.JOB_VIEWED).order_by("-at", "-id")
    return list({entry.subject: entry for entry in reversed(list(views[:40]))}.values())[::-1][:8]


class TicketForm(forms.Form):
    ticket = forms.CharField(max_length=64, required=False)


class ActionFilter(ChoiceFilter):
    title = "action"
    parameter_name = "action"
    options = AuditAction.choices


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    date_hierarchy = "at"
    ordering = ("-at", "-id")
    list_display = ("time", "who", "action_label", "tenant_link", "subject_link", "ticket_or_command")
    list_display_links = None
    list_filter = (ActionFilter, PeriodFilter)
    filter_parameters = frozenset({"action", *PeriodFilter.names})
    list_select_related = ("actor",)
    search_fields = ("subject",)
    search_help_text = "Search by job id, token prefix, ticket, tenant slug or user name (whole values only)."
    fields = ("time", "who", "action", "tenant_slug", "subject", "ticket", "command")

    @admin.display(description="when")
    def time(self, entry: AuditEntry) -> SafeString:
        return format_timestamp(entry.at)

    @admin.display(description="who")
    def who(self, entry: AuditEntry) -> str:
        """A user of the console; of a command the user of the operating system."""
        return str(entry.actor) if entry.actor else f"{entry.system_user} (system)"

    @admin.display(description="tenant")
    def tenant_link(self, entry: AuditEntry) -> str | SafeString:
        if not entry.tenant_slug:
            return "all"
        url = f"{reverse('admin:tenants_tenant_changelist')}?{urlencode({'q': entry.tenant_slug})}"
        return format_html('<a href="{}">{}</a>', url, entry.tenant_slug)

    @admin.display(description="ticket or command")
    def ticket_or_command(self, entry: AuditEntry) -> str | SafeString:
        if not entry.command:
            return entry.ticket
        return format_html('<code class="one-line" tabindex="0" title="{}">{}</code>', entry.command, entry.command)

    @admin.display(description="action")
    def action_label(self, entry: AuditEntry) -> str:
        return entry.get_action_display()

    @admin.display(description="job or token")
    def subject_link(self, entry: AuditEntry) -> str | SafeString:
        if entry.action != AuditAction.JOB_VIEWED:
            return entry.subject
        return format_html('<a href="{}">{}</a>', reverse("admin:jobs_job_change", args=[entry.subject]), entry.subject)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEntry], search_term: str
    ) -> tuple[QuerySet[AuditEntry], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        job_id = parse_job_id(term)
        # By id: each of the conditions is then an equality on an index of this table.
        actors = list(User.objects.filter(username=term).values_list("pk", flat=True))
        named = Q(subject=str(job_id) if job_id else term) | Q(ticket=term) | Q(tenant_slug=term)
        return queryset.filter(named | Q(actor__in=actors) | (Q(system_user=term) & ~Q(system_user=""))), False

    def get_urls(self) -> list[URLPattern]:
        ticket = path("ticket/", self.admin_site.admin_view(self.ticket_view), name="console_ticket")
        return [ticket, *super().get_urls()]

    @method_decorator(require_POST)
    def ticket_view(self, request: HttpRequest) -> HttpResponse:
        """Sets the ticket of the session: new audit entries name it. An empty value removes it."""
        form = TicketForm(request.POST)
        if form.is_valid():
            request.session["ticket"] = form.cleaned_data["ticket"]
        else:
            messages.error(request, "The ticket was not changed: it can have at most 64 characters.")
        back = request.POST.get("next", "")
        is_ours = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
        return HttpResponseRedirect(back if is_ours else reverse("admin:index"))
