"""Whether PostgreSQL's row security binds the role that answers the API: the second line of defence."""

from __future__ import annotations

import logging

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections

from jobs.models import Job

logger = logging.getLogger("jobs.row_security")


def is_in_force() -> bool:
    """False on SQLite, which has none, and for a superuser or the owner of the tables, whom it does not bind."""
    connection = connections[settings.API_DATABASE]
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_security_active(%s)", [Job._meta.db_table])
        return bool(cursor.fetchone()[0])


def check_before_serving() -> None:
    """Warns where the scope of the code is the only line of defence on PostgreSQL.

    Raises ImproperlyConfigured instead where ``REQUIRE_ROW_SECURITY`` asks for it, or where that cannot be found out.
    """
    required = settings.REQUIRE_ROW_SECURITY
    if not required and connections[settings.API_DATABASE].vendor != "postgresql":
        return
    try:
        if is_in_force():
            return
        problem = (
            "Row security does not bind the role that answers /v1 and /job, so one mistake in the code could show a "
            "tenant another's jobs. Make a role with `manage.py grant_api_role NAME` and name it in DATABASE_API_URL."
        )
    except DatabaseError as error:
        problem = f"Whether row security binds the role of the API could not be found out: {error}"
    finally:
        connections[settings.API_DATABASE].close()
    if required:
        raise ImproperlyConfigured(problem)
    logger.warning(problem)
