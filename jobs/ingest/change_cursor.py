"""Which jobs have changed since an earlier copy: a cursor that loses no change, however many writers there are.

Times and sequences do not serve: a transaction may commit long after it took its number, behind a reader's back. Each
version of a row names the transaction that wrote it, ``xmin``, and every change of a job writes the job's row. The
horizon of a copy is PostgreSQL's oldest transaction that was still under way when the copy began. Whatever had a lower
number had ended by then, so the copy has seen it; whatever has that number or a higher one comes again with the next.
(A savepoint's number is higher than its transaction's, which keeps both statements true of it.)

Numbers count on in one cluster. Another one, another database, or a history that branched off in a restore or a
failover, which the timeline tells, starts with a whole copy again. SQLite keeps no such numbers.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from django.db import connection
from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL

from jobs.models import Job

# Rows keep 32 bits of the number. Within half of that, what is new never looks old; old rows may look new, and are
# copied once more.
REACH = 2**31
FORMAT = "1"


class ChangeCursor(NamedTuple):
    """Where a copy began: the history it belongs to, whose jobs it holds ("" for all), and the transaction."""

    history: str
    tenant: str
    transaction: int

    def __str__(self) -> str:
        return ".".join((FORMAT, self.history, self.tenant, str(self.transaction)))

    @classmethod
    def now(cls, tenant: str) -> Self | None:
        """None where the database keeps none. To be taken before the first row is read."""
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
        """The earlier cursor that ``text`` names. Raises ValueError where what happened since cannot be told."""
        version, _, rest = text.partition(".")
        history, _, rest = rest.partition(".")
        tenant, _, number = rest.partition(".")
        if version != FORMAT or not (number.isascii() and number.isdecimal()):
            raise ValueError("is no cursor of export_jobs")
        earlier = type(self)(history, tenant, int(number))
        if tenant != self.tenant:
            raise ValueError(f"is of a copy of {tenant or 'all tenants'}, not of {self.tenant or 'all tenants'}")
        if history != self.history or not 0 <= self.transaction - earlier.transaction < REACH // 2:
            raise ValueError("is of another history of this database, or too old. Make a whole copy, without --since")
        return earlier

    def changed(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        """Those of ``jobs`` that changed since; a look at each row, for an index of it there is none."""
        is_new = f"((jobs_job.xmin::text::bigint - %s) & {2**32 - 1}) < {REACH}"
        return jobs.filter(RawSQL(is_new, (self.transaction % 2**32,), BooleanField()))  # noqa: S611 - numbers of our own
