"""The login form of the console: each attempt counts as a failed credential of its address."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.admin.forms import AdminAuthenticationForm

from tenants.throttling import count_failure


class LoginForm(AdminAuthenticationForm):
    def clean(self) -> dict[str, Any]:
        """Raises RateLimited over the limit, before the password is checked: a right one is refused too.

        Raises LimitsUnavailable if the cache that counts is down.
        """
        if self.request is not None:
            async_to_sync(count_failure)(self.request)
        return super().clean()
