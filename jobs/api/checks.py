"""A system check of the settings of DRF that the API's own dispatch does not follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core import checks
from rest_framework.settings import DEFAULTS, api_settings

# TenantViewSet.dispatch authenticates by BearerAuthentication and calls the action. It reads none of these.
IGNORED = (
    "DEFAULT_AUTHENTICATION_CLASSES",
    "DEFAULT_PERMISSION_CLASSES",
    "DEFAULT_THROTTLE_CLASSES",
    "DEFAULT_THROTTLE_RATES",
    "DEFAULT_CONTENT_NEGOTIATION_CLASS",
    "DEFAULT_VERSIONING_CLASS",
    "EXCEPTION_HANDLER",
)


@checks.register
def check_ignored_settings(**_: Any) -> Iterator[checks.CheckMessage]:
    defaults: dict[str, Any] = {**DEFAULTS}
    for name in IGNORED:
        if api_settings.user_settings.get(name, defaults[name]) != defaults[name]:
            yield checks.Error(
                f"REST_FRAMEWORK has {name}, which the API would ignore: it dispatches requests itself.",
                hint="Leave it out: see tenants/authentication.py and tenants/throttling.py.",
                id="jobs.E007",
            )
