"""Checks whether PostgreSQL's row security applies to the role of the API. It is the second line of defence."""

from __future__ import annotations

import logging

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections

from jobs.database import readers
from jobs.database.pipeline import Statement
from jobs.database.replica import monitor
from jobs.models import Job

logger = logging.getLogger("jobs.row_security")


def is_in_force(alias: str) -> bool:
    """False on SQLite, which has no row security, and for a superuser or the owner of the tables, who bypass it."""
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_security_active(%s)", [Job._meta.db_table])
        return bool(cursor.fetchone()[0])


_IN_FORCE = Statement("SELECT row_security_active(%s)::text", [Job._meta.db_table], {})


async def is_in_force_on(alias: str) -> bool:
    """As :func:`is_in_force`, through the API's own connections."""
    [(answer,)] = await (await readers.reader(alias)).read(_IN_FORCE, {})
    return answer == "true"


def check_before_serving() -> None:
    """Warns if row security does not apply on PostgreSQL, so that the scope in the code is the only defence.

    With ``REQUIRE_ROW_SECURITY`` it raises ImproperlyConfigured instead, also if no server can be reached. One server
    of two is enough to start; the other is checked before it is used.
    """
    required = settings.REQUIRE_ROW_SECURITY
    if not required and connections[settings.API_DATABASE].vendor != "postgresql":
        return
    if required:
        monitor.is_ready = is_in_force_on
    aliases = [settings.API_DATABASE, *filter(None, [settings.API_REPLICA])]
    unknown: dict[str, DatabaseError] = {}
    for alias in aliases:
        try:
            if not is_in_force(alias):
                _report(
                    "Row security does not bind the role that answers /v1 and /job, so one mistake in the code could "
                    "show a tenant another's jobs. Make a role with `manage.py grant_api_role NAME` and name it in "
                    "DATABASE_API_URL (and in DATABASE_REPLICA_URL, where there is one).",
                    required,
                )
        except DatabaseError as error:
            unknown[alias] = error
        finally:
            connections[alias].close()
    for alias, reason in unknown.items():
        _report(
            f"Whether row security binds the role of the API could not be found out: {reason}",
            required and len(unknown) == len(aliases),
        )
        if settings.API_REPLICA:
            monitor.mark_down(alias, reason)


def _report(problem: str, refuse: bool) -> None:
    if refuse:
        raise ImproperlyConfigured(problem)
    logger.warning(problem)
