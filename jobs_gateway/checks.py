"""System checks of the settings that say how the gateway is served, and what stands before and behind it.

Of who may come in, ``tenants.checks``; of how artifacts leave, ``jobs.artifacts.checks``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks


def is_sqlite(alias: str) -> bool:
    return bool(settings.DATABASES[alias]["ENGINE"].endswith("sqlite3"))


@checks.register
def check_server(**_: Any) -> Iterator[checks.CheckMessage]:
    for name, least, most in (
        ("PORT", 1, 65535),
        ("METRICS_PORT", 0, 65535),
        ("WEB_WORKERS", 1, 1024),
        ("STATEMENT_TIMEOUT_MS", 1, 60_000),
        ("LEDGER_LOCK_SECONDS", 0.001, 86_400),
        ("DATABASE_WAIT_SECONDS", 0, 86_400),
        ("CONSOLE_STUCK_AFTER_SECONDS", 1, 10**9),
        ("CONSOLE_REFRESH_SECONDS", 0.1, 3600),
    ):
        if not least <= (given := getattr(settings, name)) <= most:
            yield checks.Error(
                f"{name} is {given}.", hint=f"Set it to a number from {least} to {most}.", id="jobs_gateway.E001"
            )
    if settings.METRICS_PORT and settings.METRICS_PORT == settings.PORT:
        yield checks.Error(
            f"METRICS_PORT and PORT are both {settings.PORT}.",
            hint="Give the metrics a port of their own, which callers cannot reach.",
            id="jobs_gateway.E002",
        )


@checks.register
def check_names(**_: Any) -> Iterator[checks.CheckMessage]:
    for name, meant, in_file in settings.UNKNOWN_SETTINGS:
        text = f"{name} is set{' in the settings file' if in_file else ''}, and no setting has this name."
        hint = f"Did you mean {meant}?" if meant else "docs/settings.md lists the settings."
        if in_file and meant:  # else the gateway would run without the setting that was meant
            yield checks.Error(text, hint=hint, id="jobs_gateway.E009")
        else:  # the environment may hold it for another program
            yield checks.Warning(text, hint=hint, id="jobs_gateway.W006")


@checks.register
def check_openapi(**_: Any) -> Iterator[checks.CheckMessage]:
    if settings.OPENAPI_LICENSE["url"] and not settings.OPENAPI_LICENSE["name"]:
        yield checks.Error(
            "OPENAPI_LICENSE_URL is set without OPENAPI_LICENSE_NAME, which an OpenAPI document must have beside it.",
            hint="Set OPENAPI_LICENSE_NAME to the name of the license, or leave both out.",
            id="jobs_gateway.E011",
        )
    for name in ("OPENAPI_CONTACT", "OPENAPI_LICENSE"):
        url = getattr(settings, name)["url"]
        if url and not re.fullmatch(r"https?://[^\s/]+\S*", url):
            yield checks.Error(
                f"{name}_URL is {url!r}, which is not a web address.",
                hint=f"Write {name}_URL with https://. A mail address goes into OPENAPI_CONTACT_EMAIL.",
                id="jobs_gateway.E012",
            )


@checks.register
def check_databases(**_: Any) -> Iterator[checks.CheckMessage]:
    names = {"default": "DATABASE_URL", "api": "DATABASE_API_URL", "replica": "DATABASE_REPLICA_URL"}
    for alias in settings.DATABASES:
        if not settings.DATABASES[alias]["NAME"]:
            yield checks.Error(
                f"{names[alias]} names no database.",
                hint="Write postgres://user:password@host/name, or sqlite:////path/to/file.",
                id="jobs_gateway.E003",
            )
        if not is_sqlite(alias) and settings.DATABASES[alias]["OPTIONS"]["pool"]["max_size"] < 2:
            yield checks.Error(
                "DATABASE_POOL_SIZE is too small: one slow read or page would make all others wait.",
                hint="Set it to 2 or more, or leave it out.",
                id="jobs_gateway.E004",
            )
        if is_sqlite(alias) != is_sqlite("default"):
            yield checks.Error(
                f"{names[alias]} and DATABASE_URL are of different kinds, so they cannot be the same data.",
                hint="Both name one PostgreSQL database, as two roles or by two addresses.",
                id="jobs_gateway.E005",
            )
        if not is_sqlite(alias):
            yield from check_hosts(names[alias], settings.DATABASES[alias])
    if is_sqlite("default") and settings.WEB_WORKERS > 1:
        yield checks.Warning(
            f"WEB_WORKERS is {settings.WEB_WORKERS} on SQLite, where processes wait for each other to write.",
            hint="Leave it out, or set DATABASE_URL to a PostgreSQL database.",
            id="jobs_gateway.W001",
        )
    if is_sqlite("default") and settings.REQUIRE_ROW_SECURITY:
        yield checks.Error(
            "REQUIRE_ROW_SECURITY is on, and SQLite has none: the gateway would not start.",
            hint="Set DATABASE_URL to a PostgreSQL database, or leave REQUIRE_ROW_SECURITY out.",
            id="jobs_gateway.E006",
        )


# libpq's parameter target_session_attrs: which values never lead to a standby, and which may.
PRIMARY_ONLY = ("primary", "read-write")
MAY_BE_STANDBY = ("any", "prefer-standby", "read-only", "standby")


def check_hosts(name: str, config: dict[str, Any]) -> Iterator[checks.CheckMessage]:
    """Which server of a cluster the URL leads to."""
    options = config["OPTIONS"]
    target = options.get("target_session_attrs", "any")
    hosts = str(config.get("HOST") or options.get("host", "")).split(",")
    is_replica = name == "DATABASE_REPLICA_URL"
    if target not in (*PRIMARY_ONLY, *MAY_BE_STANDBY):
        yield checks.Error(
            f"{name} has target_session_attrs={target}, which PostgreSQL's clients refuse.",
            hint="Write prefer-standby or standby." if is_replica else "Write read-write, or leave it out.",
            id="jobs_gateway.E013",
        )
    elif is_replica and target in PRIMARY_ONLY:
        yield checks.Error(
            f"{name} has target_session_attrs={target}, so no replica is ever read.",
            hint="Write target_session_attrs=prefer-standby.",
            id="jobs_gateway.E014",
        )
    elif is_replica and len(hosts) > 1 and target == "any":
        yield checks.Warning(
            f"{name} has several hosts without target_session_attrs, so reads may all go to the primary.",
            hint="Add target_session_attrs=prefer-standby&load_balance_hosts=random.",
            id="jobs_gateway.W007",
        )
    elif not is_replica and len(hosts) > 1 and target in MAY_BE_STANDBY:
        yield checks.Error(
            f"{name} has several hosts and target_session_attrs={target}: it may lead to a server that takes no "
            "writes.",
            hint="Write target_session_attrs=read-write, or leave it out.",
            id="jobs_gateway.E015",
        )
    if (balanced := options.get("load_balance_hosts", "disable")) not in ("disable", "random"):
        yield checks.Error(
            f"{name} has load_balance_hosts={balanced}, which PostgreSQL's clients refuse.",
            hint="Write random, or leave it out.",
            id="jobs_gateway.E016",
        )
    if config.get("HOST") and "host" in options:
        yield checks.Error(
            f"{name} names hosts before the database and with host= behind it; only the first are used.",
            hint="Leave one of them out.",
            id="jobs_gateway.E017",
        )


@checks.register
def check_proxies(**_: Any) -> Iterator[checks.CheckMessage]:
    if settings.SECURE and not settings.TRUSTED_PROXIES:
        yield checks.Warning(
            "DJANGO_SECURE is on without TRUSTED_PROXIES: the gateway itself speaks no TLS, and trusts no header that "
            "says a request came by it, so every page redirects to itself.",
            hint="Set TRUSTED_PROXIES to the addresses of the proxy that ends TLS.",
            id="jobs_gateway.W002",
        )
    if settings.TRUSTED_PROXIES and not settings.SECURE:
        yield checks.Warning(
            "TRUSTED_PROXIES is set without DJANGO_SECURE: cookies may travel unencrypted, and links say http.",
            hint="Set DJANGO_SECURE=1 where the proxy ends TLS, and have it set X-Forwarded-Proto.",
            id="jobs_gateway.W003",
        )
    if any(not network.prefixlen for network in settings.TRUSTED_PROXIES):
        yield checks.Error(
            "TRUSTED_PROXIES holds every address there is, so every caller could choose theirs.",
            hint="Name the proxies, such as 10.0.0.7, or their network.",
            id="jobs_gateway.E007",
        )
    if settings.SECURE and urlsplit(settings.PUBLIC_BASE_URL).scheme == "http":
        yield checks.Warning(
            "PUBLIC_BASE_URL is http, and DJANGO_SECURE redirects all of it to https.",
            hint="Write PUBLIC_BASE_URL with https://.",
            id="jobs_gateway.W004",
        )
    for host in settings.ALLOWED_HOSTS:
        if "/" in host or (":" in host and not host.endswith("]")):
            yield checks.Error(
                f"DJANGO_ALLOWED_HOSTS holds {host!r}, which no request's host equals.",
                hint="Write names or addresses alone, without https:// and port: jobs.example.com,[2001:db8::1]",
                id="jobs_gateway.E008",
            )
    for origin in settings.CORS_ALLOWED_ORIGINS:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+", origin):
            yield checks.Error(
                f"CORS_ALLOWED_ORIGINS holds {origin!r}, which is no origin that a browser sends.",
                hint="Write scheme, host and port alone, in lower case, without a slash at the end: https://shop.example.com",
                id="jobs_gateway.E010",
            )
    if "*" in settings.ALLOWED_HOSTS:
        yield checks.Warning(
            "DJANGO_ALLOWED_HOSTS holds *, so a caller's Host header decides where links lead.",
            hint="Name the hosts, such as jobs.example.com; health probes need none.",
            id="jobs_gateway.W005",
        )
