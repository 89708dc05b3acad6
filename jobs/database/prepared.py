"""Reads that are built with the ORM once, compiled once, and after that only bound and run.

Building, compiling and running an ORM query costs several times what the database takes for it. A ``PreparedQuery``
keeps the compiled text, so a request pays for binding and the round trip alone; the database keeps the statement
prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache, partial
from time import perf_counter
from typing import Any

from django.conf import settings
from django.db import connections, models
from django.db.backends.utils import CursorDebugWrapper
from django.db.models import Expression, Func, Subquery
from django.db.models.fields.tuple_lookups import Tuple
from django.db.models.sql.compiler import SQLCompiler
from prometheus_client import Histogram

from jobs.database import pipeline
from tenants.replica import replica_first

SECONDS = Histogram(
    "gateway_database_seconds",
    "Time that reads of the API wait for a database, by its alias.",
    ["database"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
_seconds = cache(SECONDS.labels)


class Param(Expression):
    """A value that is not known yet: bound by ``name`` each time a ``PreparedQuery`` runs."""

    def __init__(self, name: str, output_field: models.Field[Any, Any] | None = None) -> None:
        super().__init__(output_field=output_field or models.IntegerField())
        self.name = name

    def as_sql(self, compiler: SQLCompiler, connection: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        return "%s", [self]


class RFC3339(Func):
    """A time as the API writes it: RFC 3339 in UTC with ``Z``, and a fraction only where there is one.

    Rendered by the database because reading a timestamp into Python and writing it again costs more than the row.
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

    At the top of a queryset wrap it in :class:`AsText`, so that both drivers hand the document over unread.
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


class KeyAtOffset(Subquery):
    """The columns of one row of a queryset, the one at the param ``offset``."""

    template = "%(subquery)s"

    def as_sql(self, compiler: SQLCompiler, connection: Any, *args: Any, **context: Any) -> Any:
        sql, params = super().as_sql(compiler, connection, *args, **context)
        return f"({sql} OFFSET %s)", (*params, Param("offset"))


def starts_at_offset(queryset: models.QuerySet[Any], *key: str) -> Expression:
    """A filter that leaves out what is before the param ``offset`` of a queryset in descending order of ``key``.

    An offset is paid for by the row: here an index that has ``key`` is all that is read of those which are left out.
    """
    beginning = KeyAtOffset(queryset.values(*key)[:1], output_field=models.BooleanField())
    return Func(
        Tuple(*key), beginning, arg_joiner=" <= ", template="%(expressions)s", output_field=models.BooleanField()
    )


class PreparedQuery:
    """A queryset with ``Param``\\ s in it, compiled on first use for each kind of database.

    ``offset`` adds ``OFFSET`` as the param ``offset``: a limit belongs in the text, where the planner sees it, but
    there are too many offsets for a statement each.
    """

    def __init__(self, queryset: models.QuerySet[Any], *, offset: bool = False) -> None:
        self.queryset = queryset
        self.offset = offset
        self._compiled: dict[str, tuple[str, list[Any]]] = {}
        self._statement: pipeline.Statement | None = None

    def fetch(self, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows. One statement, in one round trip; every column is text.

        On PostgreSQL the round trip also tells row security whose rows these may be: ``values`` names the ``tenant``.
        """
        if settings.API_REPLICA:
            return replica_first(partial(self._fetch, values))
        return self._fetch(values, settings.API_DATABASE)

    def fetch_document(
        self, values: Mapping[str, Any], is_enough: Callable[[str | None], bool] | None = None
    ) -> str | None:
        """The JSON text of the one row, whose single column is a :class:`JSONRow`; None for no row.

        A replica's counts where ``is_enough`` says so, else the primary is asked.
        """
        if settings.API_REPLICA:
            return replica_first(partial(self._fetch_document, values), is_enough)
        return self._fetch_document(values, settings.API_DATABASE)

    def _fetch(self, values: Mapping[str, Any], alias: str) -> list[tuple[Any, ...]]:
        connection: Any = connections[alias]
        began = perf_counter()
        try:
            return (self._fetch_in_scope if connection.vendor == "postgresql" else self._fetch_plain)(
                values, connection
            )
        finally:
            _seconds(alias).observe(perf_counter() - began)

    def _fetch_plain(self, values: Mapping[str, Any], connection: Any) -> list[tuple[Any, ...]]:
        sql, template = self.compiled(connection)
        params = [
            part.output_field.get_db_prep_value(values[part.name], connection) if isinstance(part, Param) else part
            for part in template
        ]
        with connection.cursor() as cursor:
            return list(cursor.execute(sql, params).fetchall())

    def _fetch_in_scope(self, values: Mapping[str, Any], connection: Any) -> list[tuple[Any, ...]]:
        statement = self._statement or self._state(connection)
        params = statement.bound(values)
        connection.ensure_connection()
        with connection.wrap_database_errors:
            if connection.queries_logged:
                with self._logged(connection, params):
                    return pipeline.read(connection.connection, statement, params, values["tenant"])
            return pipeline.read(connection.connection, statement, params, values["tenant"])

    def _fetch_document(self, values: Mapping[str, Any], alias: str) -> str | None:
        rows = self._fetch(values, alias)
        return rows[0][0] if rows else None

    def compiled(self, connection: Any) -> tuple[str, list[Any]]:
        """The statement for databases of the kind of ``connection``, and what it is bound with: values and Params."""
        return self._compiled.get(connection.vendor) or self._compile(connection)

    def _compile(self, connection: Any) -> tuple[str, list[Any]]:
        sql, params = self.queryset.query.get_compiler(connection=connection).as_sql()
        if self.offset:
            sql, params = f"{sql} OFFSET %s", (*params, Param("offset"))
        # Choices as plain strings: the drivers take a slow path for members of an enumeration.
        compiled = sql, [str(part) if isinstance(part, str) else part for part in params]
        self._compiled[connection.vendor] = compiled
        return compiled

    def _state(self, connection: Any) -> pipeline.Statement:
        sql, template = self.compiled(connection)
        names = {position: part.name for position, part in enumerate(template) if isinstance(part, Param)}
        constants = [None if position in names else part for position, part in enumerate(template)]
        self._statement = pipeline.Statement(sql, constants, names)
        return self._statement

    def _logged(self, connection: Any, params: list[bytes | None]) -> AbstractContextManager[None]:
        """Django's own log of statements, which knows cursors only."""
        texts = [None if each is None else each.decode() for each in params]
        told = connection.ops.compose_sql(self.compiled(connection)[0], texts)
        log: AbstractContextManager[None] = CursorDebugWrapper(None, connection).debug_sql(told, texts)
        return log
