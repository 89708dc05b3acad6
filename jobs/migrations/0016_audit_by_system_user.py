"""Audit entries by the system user who ran a command. Built beside writers. It can be repeated after an interruption."""

from django.db import migrations, models
from django.db.models import F, Q

INDEX = models.Index(
    "system_user", F("at").desc(), F("id").desc(), name="audit_system_user", condition=~Q(system_user="")
)


def add_index(apps, schema_editor):
    # In quotes, because SYSTEM_USER is a function of SQL.
    columns = 'jobs_auditentry ("system_user", at DESC, id DESC) WHERE NOT "system_user" = \'\''
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX CONCURRENTLY IF EXISTS audit_system_user")  # of a build that was interrupted
        schema_editor.execute(f"CREATE INDEX CONCURRENTLY audit_system_user ON {columns}")
    else:
        schema_editor.execute(f"CREATE INDEX IF NOT EXISTS audit_system_user ON {columns}")


def remove_index(apps, schema_editor):
    schema_editor.execute("DROP INDEX audit_system_user")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("jobs", "0015_acts_by_commands")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(add_index, remove_index)],
            state_operations=[migrations.AddIndex("auditentry", INDEX)],
        )
    ]
