"""Queries that are built with the ORM and compiled once, before a worker serves.

Building and compiling an ORM query costs several times as much as the database needs for it. A ``PreparedQuery`` keeps
the compiled SQL, so a request costs only binding and the round trip. PostgreSQL keeps the statement prepared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.db import connections, models
from django.db.models import Expression, Func, Subquery
from django.db.models.fields.tuple_lookups import Tuple
from django.db.models.sql.compiler import SQLCompiler

from jobs.database import pipeline, readers
from jobs.database.replica import primary_first, replica_first
from tenants.fast_settings import settings

# A placeholder for a limit that is chosen at each read. PreparedQuery replaces it in the SQL by the real number, so
# that the planner sees it. The number is unusual, so that it occurs nowhere else.
ANY_LIMIT = 1_000_000_007


class Param(Expression):
    """A parameter of a ``PreparedQuery``: its value is bound by ``name`` at each run."""

    def __init__(self, name: str, output_field: models.Field[Any, Any] | None = None) -> None:
        super().__init__(output_field=output_field or models.IntegerField())
        self.name = name

    def as_sql(self, compiler: SQLCompiler, connection: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        return "%s", [self]


class RFC3339(Func):
    """A time as the API writes it: RFC 3339 in UTC with ``Z``, and a fraction only where there is one.

    The database formats it, because parsing and formatting a timestamp in Python costs more than the rest of the row.
    """

    output_field = models.TextField()

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        form = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
        template = f"replace(to_char(%(expressions)s AT TIME ZONE 'UTC', '{form}'), '.000000Z', 'Z')"
        return self.as_sql(compiler, connection, template=template, **context)

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="replace(%(expressions)s, ' ', 'T') || 'Z'", **context)


class AsText(Func):
    """The database's own text of a value: an id's hexadecimal digits, a JSON document as stored."""

    output_field = models.TextField()
    template = "CAST(%(expressions)s AS text)"


class JSONRow(Func):
    """A JSON array of columns, in order; without member names, which would cost a quarter of the read.

    In the outermost SELECT wrap it in :class:`AsText`, so that both drivers return the text without parsing it.
    """

    output_field = models.JSONField()

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, function="json_build_array", **context)

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        # Stored JSON is text on SQLite, and would otherwise be quoted like any other text.
        clone = self.copy()
        clone.set_source_expressions(
            [
                Func(source, function="json") if isinstance(source.output_field, models.JSONField) else source
                for source in self.get_source_expressions()
            ]
        )
        return Func.as_sql(clone, compiler, connection, function="json_array", **context)


class JSONRows(Subquery):
    """All rows of an ordered queryset as one JSON array; its single column is a :class:`JSONRow`. ``[]`` for none."""

    output_field = models.JSONField()

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="array_to_json(ARRAY(%(subquery)s))", **context)

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        template = "(SELECT json_group_array(json(row)) FROM (%(subquery)s))"
        return self.as_sql(compiler, connection, template=template, **context)


def json_rows(queryset: models.QuerySet[Any], *columns: Any) -> JSONRows:
    """``columns`` of every row of ``queryset``, in its order, as a JSON array of arrays."""
    return JSONRows(queryset.values(row=JSONRow(*columns)))


class IsOneOf(Func):
    """Whether a text is in a JSON array of texts: a filter of any number of values in one statement.

    For conditions that no index serves; where one does, ``…__in=[Param("name_0")]`` lets the planner see the number.
    """

    output_field = models.BooleanField()

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        return self.as_sql(
            compiler,
            connection,
            template="%(expressions)s AS json))))",
            arg_joiner=" = ANY(ARRAY(SELECT json_array_elements_text(CAST(",
            **context,
        )

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        return self.as_sql(
            compiler,
            connection,
            template="%(expressions)s))",
            arg_joiner=" IN (SELECT value FROM json_each(",
            **context,
        )


class KeyAtOffset(Subquery):
    """The columns of one row of a queryset, the one at the param ``offset``."""

    template = "%(subquery)s"

    def as_sql(self, compiler: SQLCompiler, connection: Any, *args: Any, **context: Any) -> Any:
        sql, params = super().as_sql(compiler, connection, *args, **context)
        return f"({sql} OFFSET %s)", (*params, Param("offset"))


def starts_at_offset(queryset: models.QuerySet[Any], *key: str) -> Expression:
    """A filter that skips the first ``offset`` (a param) rows of a queryset in descending order of ``key``.

    The cost of an offset grows with each skipped row. This filter reads only an index on ``key`` for them.
    """
    beginning = KeyAtOffset(queryset.values(*key)[:1], output_field=models.BooleanField())
    return Func(
        Tuple(*key), beginning, arg_joiner=" <= ", template="%(expressions)s", output_field=models.BooleanField()
    )


Statement = pipeline.Statement | readers.SQLiteStatement

# Of one query, by their limits and numbers of values.
MAX_STATEMENTS = 64


class PreparedQuery:
    """A queryset with ``Param``\\ s in it, which :func:`compile_queries` builds and compiles once.

    Every column is text. A limit of ``ANY_LIMIT`` is chosen at each read, and so is the number of values of a filter
    ``…__in=[Param("name_0")]``: the statement is written for as many as there are. ``offset`` adds ``OFFSET`` as the
    param ``offset``: a limit belongs in the text, but there are too many offsets for a statement each.
    """

    def __init__(self, make_queryset: Callable[[], models.QuerySet[Any]], *, offset: bool = False) -> None:
        self.make_queryset = make_queryset
        self.offset = offset
        self._compiled: tuple[str, list[Any]] | None = None
        self._statements: dict[tuple[int, int], Statement] = {}
        _queries.append(self)

    async def fetch(self, values: Mapping[str, Any], limit: int = ANY_LIMIT, one_of: int = 1) -> list[tuple[Any, ...]]:
        """The rows, by one statement in one round trip, from the replica if there is one that can answer.

        ``values["tenant"]`` is the tenant of row security. Without it row security shows no rows.
        """
        statement = self.statement(limit, one_of)
        if settings.API_REPLICA:
            return await replica_first(partial(read, statement, values))
        return await read(statement, values, settings.API_DATABASE)

    async def fetch_document(
        self,
        values: Mapping[str, Any],
        is_enough: Callable[[str | None], bool] | None = None,
        limit: int = ANY_LIMIT,
    ) -> str | None:
        """The JSON text of the one row, whose single column is a :class:`JSONRow`; None for no row.

        If ``is_enough`` rejects the replica's row, the primary is read.
        """
        if settings.API_REPLICA:
            return await replica_first(partial(self.read_document, values, limit=limit), is_enough)
        return await self.read_document(values, settings.API_DATABASE, limit)

    async def fetch_latest_document(self, values: Mapping[str, Any], limit: int = ANY_LIMIT) -> str | None:
        """As :meth:`fetch_document`, of the primary or, while that is down, of the replica."""
        return await primary_first(partial(self.read_document, values, limit=limit))

    async def read_document(self, values: Mapping[str, Any], alias: str, limit: int = ANY_LIMIT) -> str | None:
        """As :meth:`fetch_document`, from the database ``alias``."""
        rows = await read(self.statement(limit), values, alias)
        return rows[0][0] if rows else None

    def statement(self, limit: int = ANY_LIMIT, one_of: int = 1) -> Statement:
        """What a reader runs. Raises RuntimeError before :func:`compile_queries`."""
        try:
            return self._statements[limit, one_of]
        except KeyError:
            if len(self._statements) >= MAX_STATEMENTS:
                del self._statements[next(iter(self._statements))]
            self._statements[limit, one_of] = statement = self._make_statement(limit, one_of)
            return statement

    def compile(self, connection: Any) -> tuple[str, list[Any]]:
        """The statement for databases of the kind of ``connection``, and its parameters: values and ``Param``\\ s."""
        sql, params = self.make_queryset().query.get_compiler(connection=connection).as_sql()
        if self.offset:
            sql, params = f"{sql} OFFSET %s", (*params, Param("offset"))
        # Choices as plain strings: the drivers take a slow path for members of an enumeration.
        return sql, [str(part) if isinstance(part, str) else part for part in params]

    @property
    def is_compiled(self) -> bool:
        return self._compiled is not None

    def keep_compiled(self, connection: Any) -> None:
        self._compiled = self.compile(connection)
        self._statements.clear()
        self.statement()

    def _make_statement(self, limit: int, one_of: int) -> Statement:
        if self._compiled is None:
            raise RuntimeError("A query is not compiled: compile_queries() runs before a worker serves.")
        sql, params = self._compiled
        sql = sql.replace(str(ANY_LIMIT), str(limit))
        if one_of > 1:
            sql, params = with_values(sql, params, one_of)
        connection = connections[settings.API_DATABASE]
        if connection.vendor == "sqlite":
            return readers.SQLiteStatement(sql, params, connection)
        names = {position: part.name for position, part in enumerate(params) if isinstance(part, Param)}
        return pipeline.Statement(
            sql, [None if position in names else part for position, part in enumerate(params)], names
        )


async def read(statement: Statement, values: Mapping[str, Any], alias: str) -> list[tuple[Any, ...]]:
    """The rows, from the database ``alias``."""
    reader = readers.readers.get(alias) or await readers.reader(alias)
    return await reader.read(statement, values)


def with_values(sql: str, params: list[Any], number: int) -> tuple[str, list[Any]]:
    """A statement with its ``IN (%s)`` written for so many values: their Params are named ``…_0``, ``…_1`` and so on.

    A page with an offset has the filter twice.
    """
    written, given, place = "", [], 0
    for part in re.split(r"(IN \(%s\)|%%|%s)", sql):
        if part in ("", "%%") or not part.endswith(("%s", "(%s)")):
            written += part
            continue
        first = params[place]
        place += 1
        if part == "%s":
            written += part
            given.append(first)
        else:
            written += f"IN ({', '.join(['%s'] * number)})"
            stem = first.name.removesuffix("0")
            given += [Param(f"{stem}{n}", first.output_field) for n in range(number)]
    return written, given


_queries: list[PreparedQuery] = []


def compile_queries() -> None:
    """Compiles every query, in one thread, before a worker serves: Django's query objects are not thread-safe."""
    connection = connections[settings.API_DATABASE]
    for query in _queries:
        if not query.is_compiled:
            query.keep_compiled(connection)
