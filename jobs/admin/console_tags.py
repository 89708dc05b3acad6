"""Template tags and filters of the console."""

from __future__ import annotations

from django import template

from jobs.admin import audit, changelist, dashboard, formatting

register = template.Library()
register.filter(formatting.status_badge)
register.filter(formatting.format_duration)
register.filter(formatting.format_timestamp)
register.filter(formatting.format_time_ago)
register.filter(formatting.format_time_of_day)
register.filter(formatting.format_last_used)
register.filter(formatting.format_number)
register.filter(formatting.refusal_reason)
register.filter(formatting.word_breaks)
register.simple_tag(audit.recently_viewed)
register.simple_tag(dashboard.failures_by_tenant_and_type)
register.simple_tag(dashboard.stuck_by_tenant)
register.simple_tag(dashboard.failures_by_reason)
register.inclusion_tag("admin/folded.html")(formatting.folded)
register.inclusion_tag("admin/date_links.html")(changelist.date_links)
