"""The DRF peer's check of a bearer token, against the gateway's own table."""

from __future__ import annotations

import hashlib
import hmac
from types import SimpleNamespace
from typing import Any

from django.utils import timezone
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from benchmarks.peers.models import ApiToken


class TokenAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Any, ApiToken]:
        token = request.META.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
        prefix = token.split("_")[1] if token.count("_") > 1 else ""
        row = ApiToken.objects.select_related("tenant").filter(prefix=prefix).first()
        known = row and hmac.compare_digest(row.token_hash, hashlib.sha256(token.encode()).hexdigest())
        if row is None or not known or row.revoked_at or not row.tenant.is_active:
            raise exceptions.AuthenticationFailed
        if row.expires_at and row.expires_at <= timezone.now():
            raise exceptions.AuthenticationFailed
        return SimpleNamespace(tenant_id=row.tenant_id, is_authenticated=True), row

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
