"""``manage.py grant_api_role NAME``: grants the role of the API. It owns no table, and row security applies to it."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError, connection, transaction
from psycopg import sql

from jobs.management.errors import reason

# The tables that the API reads. Tenants and tokens too, because a credential is looked up before its tenant is known.
READS = ("tenants_tenant", "tenants_apitoken", "jobs_job", "jobs_jobevent", "jobs_artifact", "jobs_jobcounts")

# What helps, by PostgreSQL's code of the error.
HINTS = {
    "42P01": " Make the tables first: manage.py serve --prepare-only",
    "42501": " The role of DATABASE_URL has to own the tables and, where the role is new, to have CREATEROLE.",
}


class Command(BaseCommand):
    help = (
        "Grants a PostgreSQL role the right to read the tables that the API needs. Row security shows it the rows of "
        "one tenant at a time. If the role does not exist, it is created, with LOGIN and without a password. Running "
        "the command again changes nothing."
    )

    def create_parser(self, *args: Any, **kwargs: Any) -> Any:
        example = (
            "Example:\n  manage.py grant_api_role gateway_api\n"
            "  DATABASE_API_URL=postgres://gateway_api:PASSWORD@db/jobs REQUIRE_ROW_SECURITY=1 make serve"
        )
        return super().create_parser(
            *args, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", help="The role, such as gateway_api.")

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor != "postgresql":
            raise CommandError("Only PostgreSQL has roles and row security; DATABASE_URL names another database.")
        try:
            self.grant(options["name"])
        except ProgrammingError as error:
            hint = HINTS.get(getattr(error.__cause__, "sqlstate", ""), "")
            raise CommandError(f"Nothing was granted: {reason(error)}.{hint}") from error
        if options["verbosity"]:
            self.stdout.write(f"{options['name']} can read {', '.join(READS)}, the rows of one tenant at a time.")

    @transaction.atomic
    def grant(self, name: str) -> None:
        role = sql.Identifier(name)
        with connection.cursor() as cursor:
            cursor.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = %s", [name])
            found = cursor.fetchone()
            if found and found[0]:
                raise CommandError(f"{name} is a superuser or bypasses row security; name another role.")
            if not found:
                cursor.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
            cursor.execute("SELECT current_schema()")
            schema = sql.Identifier(cursor.fetchone()[0])
            cursor.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role))
            tables = sql.SQL(", ").join(map(sql.Identifier, READS))
            cursor.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(tables, role))
            # Made by migration 0013: the last positions of any tenants, and nothing else of them.
            cursor.execute(sql.SQL("GRANT EXECUTE ON FUNCTION jobs_last_positions(bigint[]) TO {}").format(role))
