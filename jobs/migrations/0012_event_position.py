"""Events by position, for ``GET /v1/events``. Built beside writers. It can be repeated after an interruption."""

from django.db import migrations, models

CONSTRAINT = models.UniqueConstraint(
    fields=["tenant", "position"], condition=models.Q(position__isnull=False), name="event_position"
)


def add_index(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX CONCURRENTLY IF EXISTS event_position")  # of a build that was interrupted
        schema_editor.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY event_position ON jobs_jobevent (tenant_id, position) "
            "WHERE position IS NOT NULL"
        )
    else:
        schema_editor.execute(
            "CREATE UNIQUE INDEX IF NOT EXISTS event_position ON jobs_jobevent (tenant_id, position) "
            "WHERE position IS NOT NULL"
        )


def remove_index(apps, schema_editor):
    schema_editor.execute("DROP INDEX event_position")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("jobs", "0011_positions")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(add_index, remove_index)],
            state_operations=[migrations.AddConstraint("jobevent", CONSTRAINT)],
        )
    ]
