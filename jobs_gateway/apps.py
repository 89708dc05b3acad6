from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """The wiring: it has no models, only what Django looks for in apps."""

    name = "jobs_gateway"

    def ready(self) -> None:
        from jobs_gateway import checks  # noqa: F401 - registers them
