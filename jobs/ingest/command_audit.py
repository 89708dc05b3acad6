"""Audit entries of what commands do. They name the operating system's user, and the command without secrets."""

from __future__ import annotations

import os
import pwd
from typing import Any

from jobs.models import AuditAction, AuditEntry
from tenants.models import Tenant


def system_user() -> str:
    """The name of the user whose process this is; its number if it has no name, as in some containers."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def record_command_act(action: AuditAction, tenant: Tenant | None, command: str, subject: str = "") -> None:
    """Writes an audit entry of ``action``, in the transaction of the act. ``tenant`` is None for an act on all tenants.

    A ``command`` that is longer than its column, by the name of a file, is cut off.
    """
    AuditEntry.objects.create(
        action=action,
        tenant_slug=tenant.slug if tenant else "",
        system_user=system_user()[:64],
        command=command[:300],
        subject=subject[:64],
    )


def record_signal(action: str, tenant: Tenant, subject: str, command: str, **_: Any) -> None:
    """The receiver of ``tenants.acts.command_acted``."""
    record_command_act(AuditAction(action), tenant, command, subject)
