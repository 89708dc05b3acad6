"""What the console's templates say beyond Django's own tags."""

from __future__ import annotations

from typing import Any

from django import template
from django.contrib.admin.views.main import ChangeList

from jobs.admin import attention, audit, words
from jobs.admin.listing import date_links

register = template.Library()
register.filter("badge", words.badge)
register.filter("lasted", words.lasted)
register.filter("moment", words.moment)
register.filter("ago", words.ago)
register.filter("clock", words.clock)
register.filter("breakable", words.breakable)
register.simple_tag(audit.lately_viewed)
register.simple_tag(attention.failures_by_tenant_and_type)
register.simple_tag(attention.stuck_by_tenant)


@register.inclusion_tag("admin/dates.html")
def dates(changelist: ChangeList) -> dict[str, Any]:
    return date_links(changelist)
