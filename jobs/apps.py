from django.apps import AppConfig


class JobsConfig(AppConfig):
    """The job store: jobs, their events and artifacts, how they are written and how they are read."""

    name = "jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from jobs.api import checks as api_checks  # noqa: F401 - importing registers the checks
        from jobs.artifacts import checks as artifact_checks  # noqa: F401
        from jobs.ingest.command_audit import record_signal
        from tenants.acts import command_acted

        command_acted.connect(record_signal, dispatch_uid="audit")
