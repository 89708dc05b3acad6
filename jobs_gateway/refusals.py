"""What the access log sees of refused requests, for the console's page of the tenant."""

from __future__ import annotations

from jobs.api.request import Scope
from jobs_gateway.logs import caller_of
from tenants.refusals import RefusalKey, note_refusal


def record_refusal(scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
    """An observer of ``AccessLogMiddleware``. Keeps refusals of requests whose tenant is known.

    It is known of a valid credential, and of a token whose prefix exists.
    """
    if not 400 <= status < 499:  # 499: the caller hung up
        return
    request = scope["gateway"]["request"]
    reason = getattr(request, "rejection", None) or ""
    if caller := caller_of(request):
        key = RefusalKey(caller.tenant_id, route, status, reason, caller.token_prefix or "")
    elif rejected := getattr(request, "rejected", None):
        key = RefusalKey(rejected.tenant_id, route, status, reason, rejected.token_prefix)
    else:
        return
    note_refusal(key)
