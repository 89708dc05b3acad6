from typing import Any

from django.apps import AppConfig
from django.db import transaction
from django.db.models.signals import post_delete, post_save


class TenantsConfig(AppConfig):
    """Who is asking: tenants, their tokens, and the scope every query of the API runs in."""

    name = "tenants"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from tenants import checks  # noqa: F401 - registers them
        from tenants.models import ApiToken, Tenant

        for signal in (post_save, post_delete):
            for model in (ApiToken, Tenant):
                signal.connect(clear_credential_cache, sender=model, dispatch_uid=f"credential_cache_{model.__name__}")


def clear_credential_cache(using: str, **_: Any) -> None:
    """A revoked token or a closed tenant is refused at once in this process, wherever the change was made."""
    from tenants.callers import credential_cache

    credential_cache.clear()
    # Again when it is committed: until then a request still reads the old row.
    transaction.on_commit(credential_cache.clear, using=using)
