"""Events by agent: the ledger finds the state of one agent without a look at the other events. Built beside writers."""

from django.db import migrations, models

INDEX = models.Index("job", "hostname", "event_type", name="event_of_agent", condition=models.Q(hostname__isnull=False))


def add_index(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX CONCURRENTLY IF EXISTS event_of_agent")  # of a build that was interrupted
        schema_editor.execute(
            "CREATE INDEX CONCURRENTLY event_of_agent ON jobs_jobevent (job_id, hostname, event_type) "
            "WHERE hostname IS NOT NULL"
        )
    else:
        schema_editor.execute(
            "CREATE INDEX IF NOT EXISTS event_of_agent ON jobs_jobevent (job_id, hostname, event_type) "
            "WHERE hostname IS NOT NULL"
        )


def remove_index(apps, schema_editor):
    schema_editor.execute("DROP INDEX event_of_agent")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("jobs", "0008_agent_counts")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(add_index, remove_index)],
            state_operations=[migrations.AddIndex("jobevent", INDEX)],
        )
    ]
