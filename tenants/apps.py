from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Who is asking: tenants, their tokens, and the scope every query of the API runs in."""

    name = "tenants"
    default_auto_field = "django.db.models.BigAutoField"
