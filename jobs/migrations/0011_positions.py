"""Columns for the tenant's order of changes. Code before this migration leaves them empty.

Nine tenths of each page of the counts stay free: each public event updates its tenant's row, and an update that finds
room beside the row touches no index.
"""

from django.db import migrations, models


def make_room(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE jobs_jobcounts SET (fillfactor = 10)")


def use_fillfactor_of_0005(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE jobs_jobcounts SET (fillfactor = 50)")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0010_updated_after")]

    operations = [
        migrations.AddField(
            model_name="jobcounts",
            name="last_position",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="The highest position handed out; 0 before the first."
            ),
        ),
        migrations.AddField(
            model_name="jobevent",
            name="position",
            field=models.BigIntegerField(
                blank=True,
                editable=False,
                help_text="Its place in the order of the tenant's changes; none for internal events, and for old ones.",
                null=True,
            ),
        ),
        migrations.RunPython(make_room, use_fillfactor_of_0005),
    ]
