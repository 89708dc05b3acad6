from typing import Any

from django.apps import AppConfig
from django.db import transaction
from django.db.models.signals import post_delete, post_save


class TenantsConfig(AppConfig):
    """Tenants, their tokens, and the scope in which every query of the API runs."""

    name = "tenants"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from tenants import checks  # noqa: F401 - registers them
        from tenants.models import ApiToken, Tenant

        for signal in (post_save, post_delete):
            for model in (ApiToken, Tenant):
                signal.connect(clear_credential_cache, sender=model, dispatch_uid=f"credential_cache_{model.__name__}")


def clear_credential_cache(using: str, **_: Any) -> None:
    """After a token or a tenant changed in this process, cached credentials are checked again at once."""
    from tenants.callers import credential_cache

    credential_cache.clear()
    # Cleared again on commit, because until then other requests read the old row.
    transaction.on_commit(credential_cache.clear, using=using)
