"""Tenants of the job store, and their API tokens."""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone


def check_storage_prefix(prefix: str) -> None:
    """A prefix is empty (no prefix check for this tenant) or a relative folder path that ends in ``/``."""
    if prefix == "":
        return
    segments = prefix.split("/")
    if segments[-1] != "" or "" in segments[:-1] or ".." in segments or "." in segments or "\0" in prefix:
        raise ValidationError(
            "A storage prefix is a folder path such as “tenants/acme/”: it ends with “/”, does not start with one, "
            "and has no empty, “.” or “..” segment.",
            code="storage_prefix",
        )


# A host name as Shopify writes it in session tokens: lower case, no port. Another spelling would never match.
SHOP_DOMAIN = re.compile(r"(?=.{4,255}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


class Tenant(models.Model):
    """A customer of the studio. Its jobs, tokens and pictures are visible to no other tenant."""

    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200, blank=True, default="")
    shop_domain = models.CharField(
        max_length=255, unique=True, null=True, blank=True, help_text="Such as acme.myshopify.com, in lower case."
    )
    storage_prefix = models.CharField(
        max_length=255,
        blank=True,
        validators=[check_storage_prefix],
        help_text="The folder in the artifact store that holds this tenant's pictures; tenants/<slug>/ unless given.",
    )
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["slug"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An empty prefix switches the prefix check off, so it must be given explicitly.
        if kwargs and "storage_prefix" not in kwargs and kwargs.get("slug"):
            kwargs["storage_prefix"] = f"tenants/{kwargs['slug']}/"
        super().__init__(*args, **kwargs)

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        """Rejects a shop domain that no session token can contain, and a prefix that overlaps another tenant's.

        With overlapping prefixes the gateway would sign URLs of one tenant's pictures for the other tenant.
        """
        if self.shop_domain and not SHOP_DOMAIN.fullmatch(self.shop_domain):
            raise ValidationError(
                {"shop_domain": f"“{self.shop_domain}” is not a host name in lower case, such as acme.myshopify.com."}
            )
        if not self.storage_prefix:
            return
        for slug, prefix in (
            Tenant.objects.exclude(pk=self.pk).exclude(storage_prefix="").values_list("slug", "storage_prefix")
        ):
            if prefix.startswith(self.storage_prefix) or self.storage_prefix.startswith(prefix):
                raise ValidationError(
                    {"storage_prefix": f"“{self.storage_prefix}” overlaps the prefix “{prefix}” of tenant {slug}."}
                )


class ApiToken(models.Model):
    """A gateway token of one tenant. The secret is shown once, when it is issued; only its hash is kept."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="tokens")
    prefix = models.CharField(max_length=16, unique=True, help_text="The part of the token that may be shown.")
    token_hash = models.CharField(max_length=64, help_text="SHA-256 of the whole token, hexadecimal.")
    label = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "API token"
        permissions = [("revoke_apitoken", "Can revoke API token")]

    def __str__(self) -> str:
        return f"jgw_{self.prefix}_…"


class Refusal(models.Model):
    """Equal refused requests of a tenant: how many, and when the last was. The gateway writes them after the response.

    A row has no path and no parameter of a request, because they can contain anything.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="refusals", db_index=False)
    route = models.CharField(max_length=100, help_text="The pattern of the route.")
    status = models.PositiveSmallIntegerField()
    reason = models.CharField(max_length=32, blank=True, help_text="Why the credential was rejected, if it was.")
    token_prefix = models.CharField(max_length=16, blank=True)
    times = models.PositiveBigIntegerField()
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        constraints = [
            # Also the index behind the refusals of a tenant.
            models.UniqueConstraint(
                fields=["tenant", "route", "status", "reason", "token_prefix"], name="refusal_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.status} {self.route} {self.reason}".rstrip()
