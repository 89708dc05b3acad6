"""The list of jobs and the page of a job. Both are read-only."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import Case, OuterRef, QuerySet, Subquery, When, prefetch_related_objects
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Coalesce, JSONObject
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from jobs.admin import dashboard, reasons
from jobs.admin.audit import has_viewed, record_audit_entry
from jobs.admin.changelist import ChoiceFilter, ConsoleChangeList, PeriodFilter, ReadOnlyAdmin
from jobs.admin.following import WaitsFor, unchanged
from jobs.admin.formatting import format_duration, format_time_ago, status_badge, word_breaks
from jobs.admin.job_detail import JobDetail
from jobs.admin.lookup import Found, find_tenant_ids, parse_job_id, search
from jobs.admin.neighbours import LIST_PARAMETER, job_url, place_of
from jobs.admin.past_view import PastResponses
from jobs.admin.tenant_view import TenantResponse, caller_for, get_as_tenant
from jobs.api.tenant_renderer import TenantRenderer
from jobs.models import AuditAction, Job, JobEvent, JobQuerySet, JobStatus, JobType, Visibility

SEQ = re.compile(r"[0-9]{1,10}")  # the largest seq has 10 digits
FAILED_STATUSES = (JobStatus.FAILURE, JobStatus.PARTIAL_FAILURE)
FINAL_STATUSES = (JobStatus.SUCCESS, *FAILED_STATUSES)
# How long ago jobs failed, by the value of the filter “attention”.
FAILED_WITHIN = {"failed": reasons.DAY, "failed-7d": reasons.WEEK}
# Query parameters with which a list cannot be sorted by status.
SORTED_BY_TIME = {"attention", "reason", "job_type", *PeriodFilter.names}
# Characters of an event's text in the list. The page of the job shows the whole text.
MAX_TEXT = 500
# On a phone it is left out.
MISSING = mark_safe('<span class="missing-value">–</span>')
INTERNAL_BADGE = mark_safe('<span class="visibility visibility-internal">internal</span> ')


class TenantFilter(admin.ListFilter):
    """A text field for a tenant's slug, with suggestions. A list of all tenants could be too long."""

    title = "tenant"
    parameter_name = "tenant"
    template = "admin/jobs/job/tenant_filter.html"

    def __init__(self, request: HttpRequest, params: dict[str, list[str]], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self.slug = params.pop(self.parameter_name, [""])[-1].strip()
        self.used_parameters = {self.parameter_name: self.slug} if self.slug else {}

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return [self.parameter_name]

    def choices(self, changelist: ChangeList) -> Iterator[dict[str, Any]]:
        others = {name: value for name, value in changelist.params.items() if name != self.parameter_name}
        without = changelist.get_query_string(remove=[self.parameter_name])
        yield {"slug": self.slug, "others": others, "without": without}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        # By id, so that the indexes that begin with the tenant can be used.
        return queryset.filter(tenant__in=find_tenant_ids(self.slug)) if self.slug else queryset


class StatusFilter(ChoiceFilter):
    title = "status"
    parameter_name = "status"
    options = JobStatus.choices


class TypeFilter(ChoiceFilter):
    """Shows the workflow types. A link can name any other type too: the home page has such links."""

    title = "type"
    parameter_name = "job_type"
    options = [(value, word_breaks(value)) for value in JobType.values]  # spelled as in the list and the API

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = self.value()
        return [*self.options, *([] if value is None or value in JobType.values else [(value, word_breaks(value))])]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        value = self.value()
        if value is None:
            return queryset
        if value in JobType.values:
            # Redundant, but the partial indexes on (tenant, job_type) have this condition.
            return queryset.filter(job_type=value, is_workflow=True)
        return queryset.none() if "\0" in value else queryset.filter(job_type=value)


class AttentionFilter(ChoiceFilter):
    title = "attention"
    parameter_name = "attention"
    options = [
        ("failed", "Failed in the last 24 hours"),
        ("failed-7d", "Failed in the last 7 days"),
        ("stuck", "Stuck in progress"),
    ]

    def filter_by_value(self, queryset: Any, value: str) -> JobQuerySet:
        if value == "stuck":
            return dashboard.stuck(queryset)
        return dashboard.recently_failed(queryset, FAILED_WITHIN[value])


class ReasonFilter(admin.SimpleListFilter):
    """Shown only where a link has a reason: those of the home page. Within the time of the filter “attention”."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = self.value()
        return [] if value is None else [(value, value)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        value = self.value()
        if value is None:
            return queryset
        within = FAILED_WITHIN.get(request.GET.get(AttentionFilter.parameter_name, ""), reasons.WEEK)
        found = reasons.jobs_failed_for(value, timezone.now() - within)
        return queryset.filter(v1_status=JobStatus.FAILURE, pk__in=found)


class JobChangeList(ConsoleChangeList):
    """A page of jobs, each with its last event, redacted as the API redacts it.

    ``without_results`` makes one that only has its queryset.
    """

    def __init__(self, *args: Any, without_results: bool = False) -> None:
        self.without_results = without_results
        super().__init__(*args)

    def get_results(self, request: HttpRequest) -> None:
        if self.without_results:
            return
        super().get_results(request)
        self.result_list = list(self.result_list)
        # Of those that were not read with their jobs.
        prefetch_related_objects(self.result_list, "tenant")
        for job in self.result_list:
            if job.last_event_data:
                text = TenantRenderer(request, caller_for(job.tenant)).redact_text
                data = job.last_event_data
                # As on the job's page, only text is an error. SQLite reads null as the text "null".
                if not isinstance(data["error"], str) or data["error"] == "null":
                    data["error"] = ""
                job.last_event_data = {name: text(value or "") for name, value in data.items()}


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-public_id")
    list_display = ("job_status", "public_id", "tenant_link", "job_type_name", "created", "duration", "last_event")
    list_display_links = ("public_id",)
    list_filter = (TenantFilter, AttentionFilter, ReasonFilter, StatusFilter, TypeFilter, PeriodFilter)
    filter_parameters = frozenset({"tenant", "attention", "reason", "status", "job_type", *PeriodFilter.names})
    search_fields = ("public_id",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return JobChangeList

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        # No index has this order, but stuck jobs are few: they are sorted in memory.
        return ("updated_at", "public_id") if is_stuck_list(request) else self.ordering

    def get_orders(self, request: HttpRequest) -> dict[Any, tuple[str, ...]]:
        """By duration there is none: its index would be written with every event."""
        orders: dict[Any, tuple[str, ...]] = {"created": ("created_at", "public_id")}
        if is_stuck_list(request):
            return orders | {"silent_for": ("-updated_at", "-public_id")}
        # The index by status has no type, and would be read from its beginning for a day of last year.
        if not any(name in SORTED_BY_TIME or name.startswith("created_at__") for name in request.GET):
            orders["job_status"] = ("status", "-created_at", "-public_id")
        return orders

    def get_list_select_related(self, request: HttpRequest) -> tuple[str, ...]:
        # Of failed jobs the planner expects one, and would search all tenants for that of each.
        return () if request.GET.get(AttentionFilter.parameter_name) in FAILED_WITHIN else ("tenant",)

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        if not is_stuck_list(request):
            return self.list_display
        return tuple("silent_for" if name == "duration" else name for name in self.list_display)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        events = JobEvent.all_tenants.filter(job=OuterRef("pk"))
        failed = events.filter(event_type="failed").order_by("-seq")[:1]
        data = JSONObject(
            event_type="event_type",
            visibility="visibility",
            hostname="hostname",
            stage="stage",
            message="message",
            error=KeyTransform("error", "extra"),
        )
        # A partial failure can end with the event of an agent that completed: the reason is in an earlier event.
        last = Subquery(events.filter(seq=OuterRef("last_seq")).values(data=data))
        shown = Case(
            When(status__in=FAILED_STATUSES, then=Coalesce(Subquery(failed.values(data=data)), last)),
            default=last,
        )
        return Job.all_tenants.defer("request").annotate(last_event_data=shown)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        """The jobs that a search found, or those of the one tenant that it found."""
        if not search_term.strip():
            return queryset, False
        found = self.found(request, search_term)
        if len(found.tenants) == 1 and not found.tokens:
            return queryset.filter(tenant__in=[tenant.pk for tenant in found.tenants]), False
        return queryset.filter(pk__in=[job.pk for job in found.jobs]), False

    def found(self, request: HttpRequest, text: str) -> Found:
        """What a search for ``text`` finds. The result is kept with the request."""
        kept: dict[str, Found] = request.__dict__.setdefault("found", {})
        if text not in kept:
            kept[text] = search(text, with_tokens=request.user.has_perm("tenants.view_apitoken"))
        return kept[text]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list. A search that finds one job or one token redirects to its page."""
        context = dict(extra_context or {})
        text = request.GET.get("q", "").strip()
        if text and self.has_view_permission(request):
            found = self.found(request, text)
            if found.total == 1 and (url := page_of_one(found)):
                return HttpResponseRedirect(url)
            context["found"] = found
        return super().changelist_view(request, context)

    @admin.display(description="status", ordering="status")
    def job_status(self, job: Job) -> SafeString:
        return status_badge(job.status)

    @admin.display(description="tenant")
    def tenant_link(self, job: Job) -> SafeString:
        return format_html('<a href="{}">{}</a>', dashboard.tenant_url(job.tenant_id), job.tenant.slug)

    @admin.display(description="type")
    def job_type_name(self, job: Job) -> SafeString:
        return word_breaks(job.job_type)

    @admin.display(description="created", ordering="created_at")
    def created(self, job: Job) -> SafeString:
        return format_time_ago(job.created_at)

    @admin.display(description="duration")
    def duration(self, job: Job) -> str | SafeString:
        return format_duration(elapsed(job)) if job.status != JobStatus.NOT_STARTED else MISSING

    @admin.display(description="silent for", ordering="updated_at")
    def silent_for(self, job: Job) -> str:
        return format_duration(timezone.now() - job.updated_at)

    @admin.display(description="last event")
    def last_event(self, job: Job) -> SafeString | str:
        """The last event of the job, or the last event ``failed`` if the job failed, in one line."""
        data = job.last_event_data  # type: ignore[attr-defined]
        if not data:
            return "–"
        reason = data["error"] if data["event_type"] == "failed" else ""
        text = " · ".join(filter(None, (data["hostname"], data["stage"], reason or data["message"])))
        return format_html(
            '<span class="one-line" tabindex="0" title="{}"><span class="event-type">{}</span> {}{}</span>',
            text := Truncator(text).chars(MAX_TEXT),
            data["event_type"],
            INTERNAL_BADGE if data["visibility"] == Visibility.INTERNAL else "",
            text,
        )

    def get_urls(self) -> list[URLPattern]:
        timeline = path(
            "<path:object_id>/timeline/", self.admin_site.admin_view(self.timeline_view), name="jobs_job_timeline"
        )
        failures = path("failures/", self.admin_site.admin_view(self.failures_view), name="console_failures")
        return [failures, timeline, *super().get_urls()]

    @method_decorator(never_cache)
    @method_decorator(require_safe)
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of a job. Each view of it writes an audit entry."""
        job = self._job(request, object_id)
        if job is None:
            messages.warning(request, f"There is no job {object_id}.")
            return HttpResponseRedirect(reverse("admin:jobs_job_changelist"))
        record_audit_entry(request, AuditAction.JOB_VIEWED, job.tenant, str(job.public_id))
        context = {
            **self.admin_site.each_context(request),
            **self._live_context(request, job),
            "opts": self.opts,
            "place": place_of(job, request, self),
        }
        return TemplateResponse(request, "admin/jobs/job/change_form.html", context)

    @method_decorator(never_cache)
    @method_decorator(require_safe)
    def timeline_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The part of a job's page that changes while the job runs; 204 if it is still at ``version``.

        With ``Prefer: wait`` a 204 waits for a new version. The view writes no audit entry, so it is 404 for users who
        have not opened the page in the last 24 hours.
        """
        job = self._job(request, object_id)
        if job is None or not has_viewed(request, job):
            return HttpResponse(status=404)
        if request.GET.get("version") == JobDetail(job, request).version:
            return unchanged(request, WaitsFor(job.tenant_id, job.public_id))
        return TemplateResponse(request, "admin/jobs/job/live.html", self._live_context(request, job))

    @method_decorator(never_cache)
    @method_decorator(require_safe)
    def failures_view(self, request: HttpRequest) -> HttpResponse:
        """The failures on the home page; 204 if they are still at ``version``. ``Prefer: wait`` as for a timeline."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.GET.get("version") == dashboard.failures_version():
            return unchanged(request, WaitsFor())
        return TemplateResponse(request, "admin/jobs/job/failures.html")

    def _job(self, request: HttpRequest, object_id: str) -> Job | None:
        if not self.has_view_permission(request):
            raise PermissionDenied
        job_id = parse_job_id(unquote(object_id))
        return Job.all_tenants.select_related("tenant").filter(pk=job_id).first() if job_id else None

    def _live_context(self, request: HttpRequest, job: Job) -> dict[str, Any]:
        seqs = {name: request.GET.get(name, "0") for name in ("after_seq", "before_seq", "as_of")}
        for name, value in seqs.items():
            if not SEQ.fullmatch(value):
                raise BadRequest(f"{name} must be a number of at most 10 digits.")
        after_seq, before_seq, as_of = map(int, seqs.values())
        detail = JobDetail(job, request, after_seq, before_seq, newest_first=request.GET.get("order") == "newest")
        address = reverse("admin:jobs_job_change", args=[job.public_id])
        # What every link to another view of this page keeps.
        kept = {name: request.GET[name] for name in (LIST_PARAMETER, "order") if name in request.GET}
        return {
            "job": job,
            "title": f"{job.get_status_display()} · {job.job_type} of {job.tenant.slug}",
            "detail": detail,
            "elapsed": elapsed(job),
            "refresh_seconds": settings.CONSOLE_REFRESH_SECONDS,
            "as_of": as_of,
            "tenant_responses": self._tenant_responses(request, job, as_of),
            "kept": urlencode(kept) + "&" if kept else "",
            "kept_list": urlencode({LIST_PARAMETER: kept[LIST_PARAMETER]}) + "&" if LIST_PARAMETER in kept else "",
            "uuid": job.public_id.to_uuid(),
            "address": request.build_absolute_uri(address),
            "curl": curl_command(detail.renderer.base_url, f"/v1/jobs/{job.public_id}"),
        }

    def _tenant_responses(self, request: HttpRequest, job: Job, as_of: int) -> list[TenantResponse]:
        """The API's responses now, or as of an event. A page of ``/job`` has many jobs: only the item is shown."""
        if as_of:
            return PastResponses(job, as_of, request).all()
        paths = (f"/v1/jobs/{job.public_id}", f"/v1/jobs/{job.public_id}/events")
        of_v1 = (get_as_tenant(job.tenant, each, request) for each in paths)
        return [*of_v1, PastResponses(job, job.last_seq, request).fleet_job()]


def page_of_one(found: Found) -> str:
    """The page of the job or the token that a search found; "" for a tenant, whose jobs are listed."""
    if found.jobs:
        return job_url(found.jobs[0].pk)
    return reverse("admin:tenants_apitoken_change", args=[found.tokens[0].pk]) if found.tokens else ""


def is_stuck_list(request: HttpRequest) -> bool:
    return request.GET.get(AttentionFilter.parameter_name) == "stuck"


def elapsed(job: Job) -> timedelta:
    """The time from a job's creation to its last event, or to now while it has not ended."""
    return (job.updated_at if job.status in FINAL_STATUSES else timezone.now()) - job.created_at


def curl_command(base_url: str, path: str) -> str:
    """A shell command for ``GET path`` as the tenant sends it. It reads the token from the environment: JGW_TOKEN."""
    return f'curl -sS -H "Authorization: Bearer $JGW_TOKEN" {shlex.quote(base_url + path)}'
