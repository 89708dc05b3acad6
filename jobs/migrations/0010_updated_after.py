"""The index for ``GET /v1/jobs?updated_after=`` on PostgreSQL: a BRIN index, built beside writers.

A b-tree on a column that every event changes would make every event write to all indexes of the job. PostgreSQL 16 and
later leave BRIN out of that rule (updates stay heap-only), so older versions get no index. SQLite has only b-trees, and
filters what its other indexes find.

tests/test_updated_after.py counts the heap-only updates of a job on PostgreSQL 18. The size of the index, its plans and
``pages_per_range`` have not been measured.
"""

from django.db import migrations

NAME = "job_updated"


def add_index(apps, schema_editor):
    connection = schema_editor.connection
    if connection.vendor == "postgresql" and connection.pg_version >= 160_000:
        schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")  # of a build that was cut short
        schema_editor.execute(
            f"CREATE INDEX CONCURRENTLY {NAME} ON jobs_job USING brin (updated_at) WITH (pages_per_range = 32)"
        )


def remove_index(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"DROP INDEX IF EXISTS {NAME}")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("jobs", "0009_events_of_agents")]

    operations = [migrations.RunPython(add_index, remove_index)]
