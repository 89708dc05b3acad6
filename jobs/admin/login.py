"""Signing in to the console: guesses count as failed credentials, and checking a password takes half a second."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.admin.forms import AdminAuthenticationForm

from tenants.throttling import count_failure


class LoginForm(AdminAuthenticationForm):
    def clean(self) -> dict[str, Any]:
        """Raises RateLimited, whatever the password: it is checked only within the limit."""
        if self.request is not None:
            async_to_sync(count_failure)(self.request)
        return super().clean()
