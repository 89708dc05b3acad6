"""Django's admin of users and groups, without filters by fields that its list does not offer, and without actions.

An action takes the ids of rows as they are sent: one that is no number causes a server error. The only one deletes, and
a user who leaves is deactivated instead.
"""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest

admin.site.unregister([User, Group])


@admin.register(User)
class ConsoleUserAdmin(UserAdmin):
    actions = None
    # Django's widgets for choosing from two lists and for a date with a time have parts without a label.
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allows the lookups of ``list_filter`` only. With others a link can cause a server error: a year of -1."""
        return lookup in {f"{name}__id__exact" if name == "groups" else f"{name}__exact" for name in self.list_filter}


@admin.register(Group)
class ConsoleGroupAdmin(GroupAdmin):
    actions = None
    filter_horizontal = ()
