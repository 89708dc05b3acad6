"""Signing in to the console: guesses count as failed credentials, and checking a password takes half a second."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm

from tenants.side_lane import side_lane
from tenants.throttling import count_failure


class SignIn(AdminAuthenticationForm):
    def clean(self) -> dict[str, Any]:
        """Raises RateLimited, whatever the password: it is looked at only within the limit. SideLaneTaken."""
        if self.request is not None:
            count_failure(self.request)
        with side_lane():
            return super().clean()
