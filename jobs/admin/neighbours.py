"""The place of a job in the list from which its page was opened: its number, and the jobs before and after it."""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple, cast

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR
from django.core.exceptions import SuspiciousOperation
from django.db.models import Q, QuerySet
from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils.http import urlencode
from ulid import ULID

from jobs.admin.changelist import MAX_COUNTED
from jobs.models import Job

# The query parameter with the query string of the list. Django's links from a list have it.
LIST_PARAMETER = "_changelist_filters"


class Place(NamedTuple):
    """``number`` and ``total`` are empty where the list is that of the tenant; ``before`` and ``after`` are URLs."""

    number: str
    total: str
    before: str
    after: str
    list_url: str
    list_name: str


def place_of(job: Job, request: HttpRequest, model_admin: Any) -> Place:
    """The place of ``job`` in the list that the request names, else among the jobs of its tenant, newest first.

    In a list of the request one statement reads the ids of its first ``MAX_COUNTED`` jobs, from an index, as the list
    itself does to count them. Among a tenant's jobs two statements read one row each.
    """
    query = request.GET.get(LIST_PARAMETER, "")
    if query and (place := _place_in_list(job, query, request, model_admin)):
        return place
    newer, older = (job_url(each.pk) if each else "" for each in _adjacent_jobs(job))
    return Place(
        "",
        "",
        newer,
        older,
        f"{reverse('admin:jobs_job_changelist')}?{urlencode({'tenant': job.tenant.slug})}",
        f"Jobs of {job.tenant.slug}",
    )


def job_url(job_id: ULID, list_query: str = "") -> str:
    """The URL of a job's page, which keeps the query string of a list."""
    url = reverse("admin:jobs_job_change", args=[job_id])
    return f"{url}?{urlencode({LIST_PARAMETER: list_query})}" if list_query else url


def _place_in_list(job: Job, query: str, request: HttpRequest, model_admin: Any) -> Place | None:
    """None where the job is not in the list, or not among its first ``MAX_COUNTED`` jobs."""
    params = QueryDict(query, mutable=True)
    try:
        ids = list(_listed_ids(params, request, model_admin)[: MAX_COUNTED + 1])
        index = ids.index(job.pk)
    except (IncorrectLookupParameters, SuspiciousOperation, ValueError):  # a list that there is not
        return None
    # The page that has the job now: the caller may have walked to another one.
    params[PAGE_VAR] = str(index // model_admin.list_per_page + 1)
    query = params.urlencode()
    before = job_url(ids[index - 1], query) if index else ""
    after = job_url(ids[index + 1], query) if index + 1 < len(ids) else ""
    return Place(
        f"{index + 1:,}",
        f"more than {MAX_COUNTED:,}" if len(ids) > MAX_COUNTED else f"{len(ids):,}",
        before,
        after,
        f"{reverse('admin:jobs_job_changelist')}?{query}",
        "Jobs",
    )


def _listed_ids(params: QueryDict, request: HttpRequest, model_admin: Any) -> QuerySet[Job, ULID]:
    """The ids of the jobs of the list with this query string, in its order. Raises IncorrectLookupParameters."""
    of_list = copy(request)
    of_list.GET = params  # type: ignore[assignment]
    display = model_admin.get_list_display(of_list)
    changelist = model_admin.get_changelist(of_list)(
        of_list,
        model_admin.model,
        display,
        model_admin.get_list_display_links(of_list, display),
        model_admin.get_list_filter(of_list),
        model_admin.date_hierarchy,
        model_admin.get_search_fields(of_list),
        model_admin.get_list_select_related(of_list),
        model_admin.list_per_page,
        model_admin.list_max_show_all,
        model_admin.list_editable,
        model_admin,
        model_admin.get_sortable_by(of_list),
        model_admin.search_help_text,
        without_results=True,
    )
    return cast("QuerySet[Job, ULID]", changelist.queryset.values_list("pk", flat=True))


def _adjacent_jobs(job: Job) -> tuple[Job | None, Job | None]:
    """The tenant's next newer and next older job. Each reads one row through an index."""
    jobs = Job.all_tenants.filter(tenant=job.tenant_id).only("public_id", "created_at")
    # The condition on created_at alone starts the index scan at this job; the other one orders jobs of the same time.
    before = Q(created_at__lt=job.created_at) | Q(public_id__lt=job.public_id)
    after = Q(created_at__gt=job.created_at) | Q(public_id__gt=job.public_id)
    older = jobs.filter(before, created_at__lte=job.created_at).newest_first().first()
    newer = jobs.filter(after, created_at__gte=job.created_at).newest_first().reverse().first()
    return newer, older
