"""Access to the demo: a token for the API and a password for the console, saved for the next start."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.contrib.auth import get_user_model

from tenants import tokens
from tenants.models import ApiToken, Tenant

# The environment variable that lets the workers of a server show the live page; see :func:`page_token`.
PAGE_VARIABLE = "JOBS_GATEWAY_LIVE_PAGE"
DEMO = "demo"  # the slug of the demo's tenant, the label of its token and the name of its user


class Access(NamedTuple):
    token: str
    password: str


def demo_access() -> Access | None:
    """A valid token of the demo tenant, and the password of the user “demo”. None without a demo tenant.

    The store has only hashes, so both are saved in ``DATA_DIR``, in a file that only its owner can read. A token that
    is no longer valid is replaced, and the demo's other tokens are revoked.
    """
    tenant = Tenant.objects.filter(slug=DEMO, is_active=True).first()
    if tenant is None:
        return None
    path, access = _path(), _saved()
    users = get_user_model().objects
    if not tokens.is_valid(access.token, tenant):
        for prefix in ApiToken.objects.filter(tenant=tenant, label=DEMO, revoked_at=None).values_list(
            "prefix", flat=True
        ):
            tokens.revoke(prefix)
        access = access._replace(token=tokens.issue(tenant, label=DEMO))
        _keep(path, access)
    if not access.password or not users.filter(username=DEMO).exists():
        access = access._replace(password=secrets.token_urlsafe(9))
        user, _ = users.get_or_create(username=DEMO, defaults={"is_staff": True, "is_superuser": True})
        user.set_password(access.password)
        user.save()
        _keep(path, access)
    return access


def page_token() -> str | None:
    """The token that the page at ``/`` reads the demo tenant's jobs with. None where the page shows no jobs.

    `manage.py serve --demo` writes its process id to ``PAGE_VARIABLE`` and becomes the server: the variable counts in
    the workers of that server, and in no process that merely has it in its environment. The token is that of
    :func:`demo_access` and never another tenant's. Nothing is issued or written here.
    """
    if os.environ.get(PAGE_VARIABLE) != str(os.getppid()):
        return None
    tenant, token = Tenant.objects.filter(slug=DEMO).first(), _saved().token
    return token if tenant and tokens.is_valid(token, tenant) else None


def _path() -> Path:
    path: Path = settings.DATA_DIR / "demo.json"
    return path


def _saved() -> Access:
    try:
        return Access(**json.loads(_path().read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return Access("", "")


def _keep(path: Path, access: Access) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(access._asdict(), file)
