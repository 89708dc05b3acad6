"""Lists over millions of rows: pages nobody counts, filters that are equalities on an index, dates without DISTINCT."""

from __future__ import annotations

import json
import re
from calendar import month_abbr, monthrange
from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.text import capfirst

# Rows a list counts and pages through; beyond them there is an estimate, and the way on is a filter or a date. OFFSET
# and counting are linear, so this is what keeps both under a few milliseconds at any size of the table.
MAX_COUNTED = 1_000


class EstimatingPaginator(Paginator):
    """Counts up to ``MAX_COUNTED`` rows; beyond that, says what PostgreSQL's planner estimates, as an estimate.

    One statement, and one more (an EXPLAIN, which runs nothing) where there are more rows than it counts.
    """

    object_list: QuerySet[Any]

    @cached_property
    def counted(self) -> int:
        """The number of rows, or one more than ``MAX_COUNTED``. Ordered, so that it walks the index of the page."""
        return self.object_list.values("pk")[: MAX_COUNTED + 1].count()

    @property
    def has_more(self) -> bool:
        return self.counted > MAX_COUNTED

    @cached_property
    def count(self) -> int:
        return min(self.counted, MAX_COUNTED)

    @cached_property
    def total(self) -> str:
        """How many rows there are, in words that say how far to trust the number."""
        if not self.has_more:
            return f"{self.counted:,}"
        if connections[self.object_list.db].vendor != "postgresql":
            return f"more than {MAX_COUNTED:,}"
        plan = json.loads(self.object_list.order_by().values("pk").explain(format="json"))
        return f"about {round_to_two_digits(max(plan[0]['Plan']['Plan Rows'], self.counted)):,} (estimate)"


def round_to_two_digits(number: float) -> int:
    """1,987,342 → 2,000,000: an estimate that shows every digit would look counted."""
    return int(float(f"{number:.1e}"))


class ConsoleChangeList(ChangeList):
    """In the one order that has an index: Django would take another from the address, linked or not."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        self.params.pop(ORDER_VAR, None)
        return super().get_ordering(request, queryset)


class ConsoleAdmin(admin.ModelAdmin):
    """A list of the console: in the order of one index, filtered only as its filters and dates say."""

    paginator = EstimatingPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 0
    sortable_by = ()
    actions = None
    show_facets = admin.ShowFacets.NEVER  # each would count
    # The query parameters of the filters.
    filter_parameters: frozenset[str] = frozenset()

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Django would let a link filter by any column: a scan, and a way to guess what is never shown."""
        if lookup in self.filter_parameters:
            return True
        parts = [f"{self.date_hierarchy}__{part}" for part in ("year", "month", "day")]
        # Each part only below the one before it: only then does Django make a range of them.
        return (
            lookup in parts
            and re.fullmatch(r"[12][0-9]{3}|[0-9]{1,2}", value) is not None
            and all(part in request.GET for part in parts[: parts.index(lookup)])
        )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ConsoleChangeList

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changelist = super().get_changelist_instance(request)
        changelist.title = capfirst(str(self.opts.verbose_name_plural))
        return changelist


class ReadOnlyAdmin(ConsoleAdmin):
    """Nobody adds, changes or deletes these here, superusers included."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ChoiceFilter(admin.SimpleListFilter):
    """A filter on one of ``options``, known beforehand: nothing is asked of the table to draw it."""

    options: Iterable[tuple[str, str]] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return list(self.options)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset
        return self.filter_by_value(queryset, value) if value in dict(self.options) else queryset.none()

    def filter_by_value(self, queryset: Any, value: str) -> QuerySet[Any]:
        filtered: QuerySet[Any] = queryset.filter(**{str(self.parameter_name): value})
        return filtered


def date_links(changelist: ChangeList) -> dict[str, Any]:
    """The years since the oldest row, the months of the chosen year or the days of the chosen month, as links.

    Django's own hierarchy asks which of them have rows, by DISTINCT over the table. This asks for the oldest row, which
    is one step on an index, and links empty days too.
    """
    field = changelist.date_hierarchy
    year, month, day = (changelist.params.get(f"{field}__{part}") for part in ("year", "month", "day"))

    def link(title: str, **parts: object) -> dict[str, Any]:
        chosen = {f"{field}__{part}": value for part, value in parts.items()}
        return {
            "title": title,
            "link": changelist.get_query_string(chosen, remove=[f"{field}__"]),
            "is_chosen": all(changelist.params.get(name) == str(value) for name, value in chosen.items()),
        }

    today = timezone.now()
    if not year:
        oldest = changelist.root_queryset.order_by(field).values_list(field, flat=True).first() or today
        years = range(today.year, oldest.year - 1, -1)
        return {"choices": [link(str(each), year=each) for each in years]}
    if not month:
        months = [link(month_abbr[each], year=year, month=each) for each in range(1, 13)]
        return {"back": link("All dates"), "here": year, "choices": months}
    days = monthrange(int(year), int(month))[1]
    return {
        "back": link(year, year=year),
        "here": f"{month_abbr[int(month)]} {year}",
        "whole": link("whole month", year=year, month=month) if day else None,
        "choices": [link(str(each), year=year, month=month, day=each) for each in range(1, days + 1)],
    }
