"""The tenant scope: no query of the API runs without a tenant."""

from __future__ import annotations

from typing import Any

from django.db import models


class UnscopedQuery(RuntimeError):
    """A query was started through ``objects`` without ``for_tenant``."""


class TenantManager(models.Manager):
    """Allows only ``for_tenant``. Any other query raises :class:`UnscopedQuery`."""

    def get_queryset(self) -> models.QuerySet[Any]:
        raise UnscopedQuery(f"{self.model.__name__}.objects: call for_tenant() first")

    def for_tenant(self, tenant: Any) -> Any:
        """The rows of ``tenant``: a Tenant, its id, or an expression that stands for the id."""
        return super().get_queryset().filter(tenant=tenant)
