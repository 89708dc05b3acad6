"""Tenants and their API tokens: the page of a tenant, issuing and revoking tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import F, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache

from jobs.admin.audit import record_audit_entry
from jobs.admin.changelist import ConsoleAdmin, ReadOnlyAdmin
from jobs.admin.charts import job_counts_by_day, job_counts_by_status
from jobs.admin.dashboard import tenant_url
from jobs.admin.formatting import format_last_used, format_time_ago, format_timestamp
from jobs.models import AuditAction
from tenants import tokens
from tenants.models import ApiToken, Tenant

# Tokens that are valid, or were until they expired, before those that are revoked; of each those that were used last.
LAST_USED_FIRST = (F("revoked_at").asc(nulls_first=True), F("last_used_at").desc(nulls_last=True), "-created_at")
# Rows of refused requests on a tenant's page.
MAX_REFUSALS = 20


def is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)


def token_status(token: ApiToken) -> str:
    """``active``, ``expired`` or ``revoked``."""
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= timezone.now() else "active"


class TenantForm(forms.ModelForm):
    """The form of a tenant. An empty storage prefix becomes ``tenants/<slug>/``.

    Stored as empty, it would switch off the check that artifacts belong to the tenant.
    """

    class Meta:
        model = Tenant
        fields: ClassVar = ["slug", "name", "shop_domain", "storage_prefix", "is_active"]
        labels: ClassVar = {"is_active": "Active"}
        # The model's help text contains “<slug>”, which the admin would render as an HTML tag.
        help_texts: ClassVar = {
            "storage_prefix": "The folder in the artifact store that has this tenant's artifacts. "
            "If empty: tenants/, the slug and a slash."
        }

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if "storage_prefix" in self.fields and not cleaned.get("storage_prefix") and cleaned.get("slug"):
            cleaned["storage_prefix"] = f"tenants/{cleaned['slug']}/"
        return cleaned


class TokenForm(forms.Form):
    label = forms.CharField(max_length=200, required=False, help_text="For your own use, for example “storefront”.")
    expires_at = forms.DateTimeField(
        required=False,
        label="Expires at (UTC)",
        help_text="If empty, the token is valid until it is revoked.",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
    )

    def clean_expires_at(self) -> datetime | None:
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise forms.ValidationError("This time is in the past. Choose a later one.")
        return expires_at


@admin.register(Tenant)
class TenantAdmin(ConsoleAdmin):
    """Read-only for support. Superusers add, rename and deactivate tenants. The command ``erase_tenant`` deletes."""

    form = TenantForm
    ordering = ("slug",)
    list_display = ("slug", "name", "shop_domain", "active", "created")
    search_fields = ("slug", "shop_domain", "name")
    search_help_text = "Search by slug, shop domain or name, or a part of them."

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Tenant], search_term: str
    ) -> tuple[QuerySet[Tenant], bool]:
        if "\0" in search_term:  # PostgreSQL cannot store NUL in text; autocomplete does not check for it
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="created")
    def created(self, tenant: Tenant) -> SafeString:
        return format_time_ago(tenant.created_at)

    @admin.display(description="active", boolean=True)
    def active(self, tenant: Tenant) -> bool:
        return tenant.is_active

    def get_form(
        self, request: HttpRequest, obj: Tenant | None = None, change: bool = False, **kwargs: Any
    ) -> type[forms.ModelForm]:
        if not self.has_change_permission(request, obj):  # help texts are about entering values
            kwargs["help_texts"] = dict.fromkeys(TenantForm.Meta.fields, "")
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Tenant | None = None) -> Any:
        if obj is None:
            return ["slug", "name", "shop_domain", "storage_prefix", "is_active"]
        return ["slug", "name", "shop_domain", "is_active", "created"]

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> list[str]:
        # URLs, folders and interchange records name a tenant by its slug, so it cannot be changed.
        return ["slug", "created"] if obj else []

    def save_model(self, request: HttpRequest, obj: Tenant, form: forms.ModelForm, change: bool) -> None:
        super().save_model(request, obj, form, change)
        record_audit_entry(request, AuditAction.TENANT_CHANGED if change else AuditAction.TENANT_ADDED, obj)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        tenant = self.get_object(request, unquote(object_id))
        if tenant is not None and self.has_view_permission(request, tenant):
            extra_context = {
                "title": tenant.name or tenant.slug,
                "subtitle": None,
                "tenant": tenant,
                "statuses": job_counts_by_status(tenant),
                "days": job_counts_by_day(tenant),
                "refusals": tenant.refusals.order_by("-last_at", "-pk")[:MAX_REFUSALS],
                "tokens": [(token, token_status(token)) for token in tenant.tokens.order_by(*LAST_USED_FIRST)],
                "may_revoke": request.user.has_perm("tenants.revoke_apitoken"),
                "may_issue": is_superuser(request),
                **(extra_context or {}),
            }
        return super().change_view(request, object_id, form_url, extra_context)

    def get_urls(self) -> list[URLPattern]:
        issue = path(
            "<int:tenant_id>/issue-token/", self.admin_site.admin_view(self.issue_view), name="tenants_tenant_issue"
        )
        return [issue, *super().get_urls()]

    # The response contains the token. It is not cached, and no other page shows the token.
    @method_decorator(never_cache)
    def issue_view(self, request: HttpRequest, tenant_id: int) -> HttpResponse:
        if not is_superuser(request):
            raise PermissionDenied
        tenant = get_object_or_404(Tenant, pk=tenant_id)
        form = TokenForm(request.POST or None)
        token = ""
        if request.method == "POST" and form.is_valid():
            with transaction.atomic():
                token = tokens.issue(tenant, form.cleaned_data["label"], form.cleaned_data["expires_at"])
                record_audit_entry(request, AuditAction.TOKEN_ISSUED, tenant, token.split("_")[1])
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Issue a token to {tenant.slug}",
            "tenant": tenant,
            "form": form,
            "token": token,
        }
        return TemplateResponse(request, "admin/tenants/apitoken/issue.html", context)


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """Read-only, but tokens can be revoked. They are issued on the page of their tenant."""

    ordering = ("-created_at", "-pk")
    list_display = ("masked_token", "tenant_link", "label", "status", "created", "last_used", "expires")
    list_select_related = ("tenant",)
    search_fields = ("prefix",)
    search_help_text = "Search by token prefix or tenant slug (whole values only)."
    fields = ("tenant", "masked_token", "label", "status", "created", "last_used", "expires", "revoked")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        return super().get_queryset(request).defer("token_hash")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ApiToken], search_term: str
    ) -> tuple[QuerySet[ApiToken], bool]:
        """A whole token is found too: only its prefix is used in the query, never its secret."""
        term = search_term.strip()
        if not term:
            return queryset, False
        prefix = term.split("_")[1] if term.startswith("jgw_") else term
        return queryset.filter(prefix=prefix) | queryset.filter(tenant__slug=term), False

    @admin.display(description="tenant")
    def tenant_link(self, token: ApiToken) -> SafeString:
        return format_html('<a href="{}">{}</a>', tenant_url(token.tenant_id), token.tenant.slug)

    @admin.display(description="token")
    def masked_token(self, token: ApiToken) -> str:
        return str(token)

    @admin.display(description="state")
    def status(self, token: ApiToken) -> SafeString:
        status = token_status(token)
        return format_html(
            '<span class="badge badge-{}">{}</span>', "good" if status == "active" else "waiting", status
        )

    @admin.display(description="created")
    def created(self, token: ApiToken) -> SafeString:
        return format_time_ago(token.created_at)

    @admin.display(description="last used")
    def last_used(self, token: ApiToken) -> SafeString | str:
        return format_last_used(token.last_used_at)

    @admin.display(description="expires")
    def expires(self, token: ApiToken) -> SafeString | str:
        return format_timestamp(token.expires_at) if token.expires_at else "never"

    @admin.display(description="revoked")
    def revoked(self, token: ApiToken) -> SafeString | str:
        return format_timestamp(token.revoked_at) if token.revoked_at else "–"

    def get_urls(self) -> list[URLPattern]:
        revoke = path(
            "<int:token_id>/revoke/", self.admin_site.admin_view(self.revoke_view), name="tenants_apitoken_revoke"
        )
        return [revoke, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        token = self.get_object(request, unquote(object_id))
        may_revoke = token is not None and token_status(token) != "revoked"
        extra_context = {
            "may_revoke": may_revoke and request.user.has_perm("tenants.revoke_apitoken"),
            **(extra_context or {}),
        }
        return super().change_view(request, object_id, form_url, extra_context)

    @method_decorator(never_cache)
    def revoke_view(self, request: HttpRequest, token_id: int) -> HttpResponse:
        """GET asks for confirmation, POST revokes. Revoking cannot be undone."""
        if not request.user.has_perm("tenants.revoke_apitoken"):
            raise PermissionDenied
        token = get_object_or_404(ApiToken.objects.select_related("tenant"), pk=token_id)
        if request.method == "POST":
            with transaction.atomic():
                if tokens.revoke(token.prefix):
                    record_audit_entry(request, AuditAction.TOKEN_REVOKED, token.tenant, token.prefix)
                    messages.success(request, f"{token} was revoked. The API now rejects it.")
                else:
                    messages.info(request, f"{token} was already revoked.")
            return HttpResponseRedirect(tenant_url(token.tenant_id))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Revoke {token}?",
            "token": token,
            "status": token_status(token),
        }
        return TemplateResponse(request, "admin/tenants/apitoken/revoke.html", context)
