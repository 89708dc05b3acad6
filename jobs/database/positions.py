"""The tenants' last positions, as the task asks for them that wakes waiting readers."""

from __future__ import annotations

from collections.abc import Iterable

from django.conf import settings
from django.db import connections
from django.db.models import BigIntegerField, TextField

from jobs.database.artifacts import TENANT
from jobs.database.pipeline import Statement
from jobs.database.prepared import AsText, Param, PreparedQuery, read
from jobs.database.readers import SQLiteStatement
from jobs.models import JobEvent

# The role of the API sees one tenant at a time. This function, which migration 0013 makes, shows it these two numbers
# of each tenant that is named, and nothing else.
_POSTGRESQL = Statement(
    "SELECT tenant_id::text, last_position::text FROM jobs_last_positions(CAST(%s AS bigint[]))",
    [None],
    {0: "tenants"},
)
_SQLITE = (
    "SELECT tenant_id, last_position FROM jobs_jobcounts WHERE tenant_id IN (SELECT value FROM json_each(%s))",
    [Param("tenants", TextField())],
)


async def last_positions(tenants: Iterable[int]) -> dict[int, int]:
    """The last position of each tenant that has one, from the primary by one statement. Raises DatabaseError."""
    listed = ",".join(map(str, tenants))
    connection = connections[settings.API_DATABASE]
    if connection.vendor == "postgresql":
        rows = await read(_POSTGRESQL, {"tenants": f"{{{listed}}}"}, settings.API_DATABASE)
    else:
        statement = SQLiteStatement(*_SQLITE, connection)
        rows = await read(statement, {"tenants": f"[{listed}]"}, settings.API_DATABASE)
    return {int(tenant): int(position) for tenant, position in rows}


_JOBS = PreparedQuery(
    lambda: (
        JobEvent.objects.for_tenant(TENANT)
        .filter(
            position__gt=Param("after", BigIntegerField()),
            position__lte=Param("up_to", BigIntegerField()),
        )
        .values_list(AsText("job_id"))
    )
)


async def jobs_of_positions(tenant: int, after: int, up_to: int) -> list[str]:
    """The job of each event at a position above ``after`` and up to ``up_to``: its id in hexadecimal digits."""
    values = {"tenant": tenant, "after": after, "up_to": up_to}
    rows = await read(_JOBS.statement(), values, settings.API_DATABASE)
    return [job for (job,) in rows]
