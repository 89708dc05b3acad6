"""A cursor for incremental exports: which jobs changed since an earlier export. No change is missed.

Times and sequences do not work: a transaction may commit long after it took its number. But each version of a row has
the id of the transaction that wrote it, ``xmin``, and every change of a job writes the job's row. The cursor of an
export is the oldest transaction of PostgreSQL that was still running when the export began. Every transaction with a
lower id had ended by then, so the export has its changes. Every transaction with that id or a higher one is exported
again the next time. (A savepoint has a higher id than its transaction, so both statements hold for it too.)

Transaction ids belong to one cluster and one timeline. After a restore, a failover or a move to another database the
next export has to be a full one. SQLite has no transaction ids.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from django.db import connection
from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL

from jobs.models import Job

# Rows keep 32 bits of the id. Within half of that range a new row never looks old. Old rows may look new, and are
# exported again.
REACH = 2**31
FORMAT = "1"


class ChangeCursor(NamedTuple):
    """The start of an export: the cluster's history, the tenant ("" for all tenants) and the transaction id."""

    history: str
    tenant: str
    transaction: int

    def __str__(self) -> str:
        return ".".join((FORMAT, self.history, self.tenant, str(self.transaction)))

    @classmethod
    def now(cls, tenant: str) -> Self | None:
        """The cursor of an export that begins now, before it reads a row. None on SQLite."""
        if connection.vendor != "postgresql":
            return None
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT system_identifier, oid, left(pg_walfile_name(pg_current_wal_lsn()), 8), "
                "pg_snapshot_xmin(pg_current_snapshot())::text::bigint "
                "FROM pg_control_system(), pg_database WHERE datname = current_database()"
            )
            *history, transaction = cursor.fetchone()
        return cls("-".join(map(str, history)), tenant, transaction)

    def since(self, text: str) -> Self:
        """The earlier cursor that ``text`` spells. Raises ValueError if changes since then cannot be found."""
        version, _, rest = text.partition(".")
        history, _, rest = rest.partition(".")
        tenant, _, number = rest.partition(".")
        if version != FORMAT or not (number.isascii() and number.isdecimal()):
            raise ValueError("is not a cursor of export_jobs")
        earlier = type(self)(history, tenant, int(number))
        if tenant != self.tenant:
            raise ValueError(f"is for an export of {tenant or 'all tenants'}, not of {self.tenant or 'all tenants'}")
        if history != self.history or not 0 <= self.transaction - earlier.transaction < REACH // 2:
            raise ValueError(
                "belongs to another history of this database, or is too old. Export all jobs, without --since"
            )
        return earlier

    def changed(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        """Those of ``jobs`` that changed since then. It reads every row, because xmin has no index."""
        is_new = f"((jobs_job.xmin::text::bigint - %s) & {2**32 - 1}) < {REACH}"
        return jobs.filter(RawSQL(is_new, (self.transaction % 2**32,), BooleanField()))  # noqa: S611 - numbers of our own
