"""An operation's agents by state, so that an event is appended without a look at all events of the job.

The counts of existing jobs stay empty: the ledger counts a job's agents at its next event. Old code leaves ``agents_seq``
behind, so that what it writes during an upgrade is counted again too.
"""

from django.db import migrations, models


class AddColumn(migrations.AddField):
    """AddField that leaves the table in place on SQLite.

    Django builds the table again there. SQLite refuses that, because triggers of other tables name it (migration 0003).
    """

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == "sqlite":
            schema_editor.execute(
                f'ALTER TABLE jobs_job ADD COLUMN "{self.name}" integer unsigned DEFAULT 0 NOT NULL '
                f'CHECK ("{self.name}" >= 0)'
            )
        else:
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == "sqlite":
            schema_editor.execute(f'ALTER TABLE jobs_job DROP COLUMN "{self.name}"')
        else:
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    dependencies = [("jobs", "0007_artifacts_by_key")]

    operations = [
        AddColumn("job", "agents_seq", models.PositiveIntegerField(db_default=0, default=0)),
        AddColumn("job", "agents_submitted", models.PositiveIntegerField(db_default=0, default=0)),
        AddColumn(
            "job",
            "agents_active",
            models.PositiveIntegerField(db_default=0, default=0, help_text="Acknowledged or started."),
        ),
        AddColumn("job", "agents_failed", models.PositiveIntegerField(db_default=0, default=0)),
        AddColumn(
            "job",
            "agents_completed",
            models.PositiveIntegerField(db_default=0, default=0, help_text="Completed or skipped."),
        ),
    ]
