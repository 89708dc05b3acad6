"""Every migration can be applied while the previous code serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from django_migration_linter import MigrationLinter
from django_migration_linter.sql_analyser.analyser import analyse_sql_statements, get_sql_analyser_class

ROOT = Path(__file__).resolve().parent.parent

# Made before there was a release, so on tables without rows and with no code before them.
BEFORE_THE_FIRST_RELEASE = ["0002_support_console"]

pytestmark = pytest.mark.postgresql  # SQLite serves one process, which is not upgraded while it runs


def test_no_migration_breaks_the_code_before_it_or_locks_a_table_for_long(db, capsys):
    linter = MigrationLinter(
        path=str(ROOT),
        include_apps=["jobs", "tenants", "webhooks"],
        ignore_name=BEFORE_THE_FIRST_RELEASE,
        all_warnings_as_errors=True,
        no_cache=True,
    )
    linter.lint_all_migrations()
    linter.print_summary()
    assert not linter.has_errors, capsys.readouterr().out
    assert linter.nb_valid >= 6


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ('ALTER TABLE "jobs_job" DROP COLUMN "request"', "DROP_COLUMN"),
        ('ALTER TABLE "jobs_job" RENAME COLUMN "request" TO "asked"', "RENAME_COLUMN"),
        ('ALTER TABLE "jobs_job" ADD COLUMN "cost" integer NOT NULL', "NOT_NULL"),
        ('DROP TABLE "jobs_artifact"', "DROP_TABLE"),
        ('CREATE INDEX "job_cost" ON "jobs_job" ("cost")', "CREATE_INDEX"),
    ],
)
def test_what_would_break_it_is_seen(db, statement, what):
    from django.db import connection

    analyser = get_sql_analyser_class(connection.vendor)
    errors, _ignored, warnings = analyse_sql_statements(analyser, [statement], exclude_migration_tests=[])
    assert what in {found.code for found in (*errors, *warnings)}
