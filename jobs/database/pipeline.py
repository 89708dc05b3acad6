"""A prepared read on PostgreSQL in one round trip, row security's tenant included: libpq's pipeline without a cursor.

psycopg's own pipeline and cursors do the same in 130 µs more, half as long as a whole request may take.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from psycopg import Connection, errors, pq
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.waiting import Ready, Wait
from ulid import ULID

Row = tuple[str | None, ...]

# The statements that each connection has prepared.
_prepared: WeakKeyDictionary[Connection[Any], set[bytes]] = WeakKeyDictionary()


def numbered(sql: str) -> bytes:
    """``sql`` with PostgreSQL's own placeholders, ``$1`` and so on, where the ORM writes ``%s``."""
    numbers = iter(range(1, sql.count("%s") + 1))
    return re.sub("%[s%]", lambda found: "%" if found[0] == "%%" else f"${next(numbers)}", sql).encode()


def encoded(value: object) -> bytes | None:
    """``value`` as PostgreSQL reads it where it knows the type: so one prepared statement takes any integer."""
    if value is None:
        return None
    return (value.hex if isinstance(value, ULID) else str(value)).encode()


class Statement:
    """A read whose columns are all text, written with the ORM's placeholders.

    ``constants`` are what it is bound with by position; ``names`` says which of them are values to be named.
    """

    __slots__ = ("_constants", "_names", "name", "sql")

    def __init__(self, sql: str, constants: Sequence[object], names: Mapping[int, str]) -> None:
        self.sql = numbered(sql)
        self.name = hashlib.blake2b(self.sql, digest_size=16).hexdigest().encode()
        self._constants = [encoded(each) for each in constants]
        self._names = list(names.items())

    def bound(self, values: Mapping[str, object]) -> list[bytes | None]:
        params = self._constants.copy()
        for position, name in self._names:
            params[position] = encoded(values[name])
        return params


Pipeline = tuple[tuple[Statement, list[bytes | None]], ...]

# Local to the transaction, so that no connection carries a tenant back into the pool. What is sent up to one
# synchronisation point is one transaction.
SCOPE = Statement(
    "SELECT set_config('app.tenant', %s, true), set_config('statement_timeout', %s, true)", [None, None], {}
)


def read(connection: Connection[Any], statement: Statement, params: list[bytes | None], tenant: int) -> list[Row]:
    """The rows of ``statement`` for ``tenant``, within ``STATEMENT_TIMEOUT_MS``. Raises psycopg's errors.

    It is prepared at its first use on a connection, unless the connection is not to prepare.
    """
    scope = [encoded(tenant), encoded(settings.STATEMENT_TIMEOUT_MS)]
    pipeline = ((SCOPE, scope), (statement, params))
    try:
        return connection.wait(_read(connection, pipeline))
    except errors.InvalidSqlStatementName:
        # Something else on this connection, such as psycopg after a rollback, had it forget all that was prepared.
        _prepared.pop(connection, None)
        return connection.wait(_read(connection, pipeline))


def _read(connection: Connection[Any], pipeline: Pipeline) -> PQGen[list[Row]]:
    pgconn = connection.pgconn
    known = _prepared.get(connection)
    if known is None:
        known = _prepared[connection] = set()
    # Not within a transaction of somebody else's, which a statement that was forgotten would break.
    prepares = connection.prepare_threshold is not None and pgconn.transaction_status == pq.TransactionStatus.IDLE
    sent: list[bytes | None] = []  # for each message that is answered, the name that it prepares
    pgconn.enter_pipeline_mode()
    try:
        # One after the other: preparing waits for locks too, and the first statement says how long is too long.
        for statement, params in pipeline:
            if not prepares:
                pgconn.send_query_params(statement.sql, params)
            else:
                if statement.name not in known:
                    pgconn.send_prepare(statement.name, statement.sql)
                    sent.append(statement.name)
                pgconn.send_query_prepared(statement.name, params)
            sent.append(None)
        pgconn.pipeline_sync()
        results = yield from _results(pgconn)
        pgconn.exit_pipeline_mode()
    except BaseException:
        pgconn.finish()  # answers to come would be taken for those to the next question
        raise
    for name, result in zip(sent, results, strict=False):
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result)
        if name:
            known.add(name)
    return _rows(results[-1])


def _results(pgconn: Any) -> Generator[Any, Any, list[Any]]:
    while pgconn.flush():  # more than fits into the socket at once
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    results: list[Any] = []
    while True:
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:  # between two statements
            continue
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)


def _rows(result: Any) -> list[Row]:
    rows = Transformer()  # psycopg's, of which the compiled one reads 50 rows in 10 µs
    rows.set_pgresult(result)
    return rows.load_rows(0, result.ntuples, tuple)
