from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    """The feed, pushed: endpoints of tenants, and the worker that delivers events to them."""

    name = "jobs.webhooks"
    label = "webhooks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from jobs.webhooks import checks  # noqa: F401 - importing registers the checks
