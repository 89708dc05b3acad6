"""Base classes of the lists. They stay fast with millions of rows.

Rows are counted up to a limit, filters are equalities on an index, and dates are found without DISTINCT.
"""

from __future__ import annotations

import json
import re
from calendar import month_abbr, monthrange
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.text import capfirst

# A list counts and shows at most so many rows; the total beyond them is an estimate. OFFSET and COUNT take linear time:
# this limit keeps both below a few milliseconds at any size of the table. Filters and dates lead to the other rows.
MAX_COUNTED = 1_000


class EstimatingPaginator(Paginator):
    """Counts up to ``MAX_COUNTED`` rows. For more rows it shows the estimate of PostgreSQL's planner.

    One statement; for more rows one more, an EXPLAIN, which does not run the query.
    """

    object_list: QuerySet[Any]
    count_ordering: Sequence[Any] | None = None  # by default that of object_list

    @cached_property
    def counted(self) -> int:
        """The number of rows, at most ``MAX_COUNTED + 1``. In an order that has an index, so that it stops there."""
        rows = self.object_list.order_by(*self.count_ordering) if self.count_ordering else self.object_list
        return rows.values("pk")[: MAX_COUNTED + 1].count()

    @property
    def has_more(self) -> bool:
        return self.counted > MAX_COUNTED

    @cached_property
    def count(self) -> int:
        return min(self.counted, MAX_COUNTED)

    @cached_property
    def total(self) -> str:
        """The number of rows as text, which says if it is an estimate or a lower bound."""
        if not self.has_more:
            return f"{self.counted:,}"
        if connections[self.object_list.db].vendor != "postgresql":
            return f"more than {MAX_COUNTED:,}"
        plan = json.loads(self.object_list.order_by().values("pk").explain(format="json"))
        estimate = plan[0]["Plan"]["Plan Rows"]
        if estimate <= MAX_COUNTED:  # of a condition whose rows the planner does not know
            return f"more than {MAX_COUNTED:,}"
        return f"about {round_to_two_digits(estimate):,} (estimate)"


def round_to_two_digits(number: float) -> int:
    """1,987,342 → 2,000,000: more digits would make an estimate look exact."""
    return int(float(f"{number:.1e}"))


class ConsoleChangeList(ChangeList):
    """Sorts by one column, and only where the admin's ``orders`` has an order for it: that of an index.

    The query parameter ``o`` is as Django's: the number of the column, with a minus for the descending order.
    """

    model_admin: ConsoleAdmin
    # The number of the column that sorts the list, and "asc" or "desc", as Django's templates read it.
    sorted_column: dict[int, Any]

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        self.sorted_column = {}
        orders = self.model_admin.get_orders(request)
        given = self.params.pop(ORDER_VAR, "").partition(".")[0]
        if not re.fullmatch(r"-?[0-9]{1,2}", given):
            return self.model_admin.get_ordering(request)
        column = int(given.lstrip("-"))
        name = self.list_display[column] if column < len(self.list_display) else None
        if name not in orders:
            return self.model_admin.get_ordering(request)
        self.params[ORDER_VAR] = given
        self.sorted_column = {column: "desc" if given.startswith("-") else "asc"}
        order: tuple[str, ...] = orders[name]
        return tuple(reverse_order(each) for each in order) if given.startswith("-") else order

    def get_ordering_field_columns(self) -> dict[int, Any]:
        return self.sorted_column


def reverse_order(field: str) -> str:
    return field.removeprefix("-") if field.startswith("-") else f"-{field}"


class ConsoleAdmin(admin.ModelAdmin):
    """Base class of the console's admins: orders that an index has, and no other query parameters than its filters."""

    paginator = EstimatingPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 0
    actions = None
    show_facets = admin.ShowFacets.NEVER  # facets count rows
    # The query parameters of the list filters.
    filter_parameters: frozenset[str] = frozenset()

    def get_orders(self, request: HttpRequest) -> dict[Any, tuple[str, ...]]:
        """The ascending order of each column that the list can be sorted by."""
        return {}

    def get_sortable_by(self, request: HttpRequest) -> list[Any]:
        return list(self.get_orders(request))

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Refuses other lookups: a link could scan the table with them, or guess values that are never shown."""
        if lookup in self.filter_parameters:
            return True
        parts = [f"{self.date_hierarchy}__{part}" for part in ("year", "month", "day")]
        # A month needs its year, and a day its month: only then does Django filter by a range of times.
        return (
            lookup in parts
            and re.fullmatch(r"[12][0-9]{3}|[0-9]{1,2}", value) is not None
            and all(part in request.GET for part in parts[: parts.index(lookup)])
        )

    def get_paginator(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> EstimatingPaginator:
        paginator = cast(EstimatingPaginator, super().get_paginator(request, queryset, *args, **kwargs))
        if queryset.model is self.model:  # Django's history page has log entries here
            paginator.count_ordering = self.ordering
        return paginator

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ConsoleChangeList

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changelist = super().get_changelist_instance(request)
        changelist.title = capfirst(str(self.opts.verbose_name_plural))
        return changelist


class ReadOnlyAdmin(ConsoleAdmin):
    """Nobody can add, change or delete rows, not even superusers."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ChoiceFilter(admin.SimpleListFilter):
    """A filter by one of ``options``. They are constant, so that the filter needs no query to be shown."""

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


class PeriodFilter(admin.ListFilter):
    """From a time to a time, both in UTC, for the field ``date_hierarchy``."""

    title = "time"
    template = "admin/period_filter.html"
    names = ("from", "to")

    def __init__(self, request: HttpRequest, params: dict[str, list[str]], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self.field = model_admin.date_hierarchy
        self.used_parameters = {name: value for name in self.names if (value := params.pop(name, [""])[-1].strip())}

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(self.names)

    def choices(self, changelist: ChangeList) -> Iterator[dict[str, Any]]:
        others = {name: value for name, value in changelist.params.items() if name not in self.names}
        without = changelist.get_query_string(remove=list(self.names))
        yield {"given": self.used_parameters, "others": others, "without": without}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Raises IncorrectLookupParameters for a value that is no time."""
        try:
            times = {name: _parse_time(str(value)) for name, value in self.used_parameters.items()}
        except (ValueError, OverflowError) as error:
            raise IncorrectLookupParameters(str(error)) from error
        if "from" in times:
            queryset = queryset.filter(**{f"{self.field}__gte": times["from"]})
        if "to" in times:
            queryset = queryset.filter(**{f"{self.field}__lt": times["to"]})
        return queryset


def _parse_time(text: str) -> datetime:
    """A time without an offset is in UTC. Raises ValueError or OverflowError."""
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def date_links(changelist: ChangeList) -> dict[str, Any]:
    """Links to the years since the oldest row, to the months of the chosen year, or to the days of the chosen month.

    Django's own date hierarchy runs DISTINCT over the table to find which of them have rows. This one reads only the
    oldest row, through an index, and has links to days without rows too.
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
