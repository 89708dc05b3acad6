from django.apps import AppConfig


class JobsConfig(AppConfig):
    """What is asked for: jobs, their events and artifacts, the ways in and the ways out."""

    name = "jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from jobs.artifacts import checks  # noqa: F401 - registers them
