"""Django's admin of users, without filters by fields that its list does not offer."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.http import HttpRequest

admin.site.unregister(User)


@admin.register(User)
class ConsoleUserAdmin(UserAdmin):
    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allows the lookups of ``list_filter`` only. With others a link can cause a server error: a year of -1."""
        return lookup in {f"{name}__id__exact" if name == "groups" else f"{name}__exact" for name in self.list_filter}
