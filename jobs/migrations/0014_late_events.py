"""Whether webhooks push an event, which is decided when it is recorded. Those that are stored by now are pushed too,
but every endpoint is made after them, and begins at the position of that moment.
"""

from django.db import migrations, models


class AddColumn(migrations.AddField):
    """AddField that leaves the table in place on SQLite, for the reason that migration 0008 gives."""

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == "sqlite":
            schema_editor.execute(f'ALTER TABLE jobs_jobevent ADD COLUMN "{self.name}" bool DEFAULT 0 NOT NULL')
        else:
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == "sqlite":
            schema_editor.execute(f'ALTER TABLE jobs_jobevent DROP COLUMN "{self.name}"')
        else:
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    dependencies = [("jobs", "0013_last_positions")]

    operations = [
        AddColumn(
            "jobevent",
            "is_late",
            models.BooleanField(
                db_default=False,
                default=False,
                editable=False,
                help_text="Its time lay more than 24 hours back when it was recorded: webhooks do not push it.",
            ),
        ),
        migrations.AlterField(
            "auditentry",
            "action",
            models.CharField(
                choices=[
                    ("job_viewed", "viewed a job"),
                    ("token_issued", "issued a token"),
                    ("token_revoked", "revoked a token"),
                    ("tenant_added", "added a tenant"),
                    ("tenant_changed", "changed a tenant"),
                    ("webhook_added", "added a webhook"),
                    ("webhook_changed", "changed a webhook"),
                    ("webhook_removed", "removed a webhook"),
                    ("webhook_tested", "tested a webhook"),
                    ("webhook_resent", "had webhooks sent again"),
                ],
                max_length=16,
            ),
        ),
    ]
