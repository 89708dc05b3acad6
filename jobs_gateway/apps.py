from typing import Any

from django.apps import AppConfig
from django.contrib import admin
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks
from django.core.checks import CheckMessage


class GatewayConfig(AppConfig):
    """The wiring: it has no models, only what Django looks for in apps."""

    name = "jobs_gateway"
    default = True  # of the two in this file

    def ready(self) -> None:
        from jobs_gateway import checks  # noqa: F401 - registers them


class ConsoleConfig(SimpleAdminConfig):
    """Django's admin. The console's classes, and with them the API, are imported by the routes and by ``check``.

    So commands that need neither start in half the time.
    """

    def ready(self) -> None:
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(check_console, checks.Tags.admin)


def check_console(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Django's own check of the admin, after what it is about is there."""
    admin.autodiscover()
    return check_admin_app(app_configs, **options)
