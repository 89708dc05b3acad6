"""Half of each page of the counts stays free, so that an update of a row finds room beside it and touches no index."""

from django.db import migrations


def make_room(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE jobs_jobcounts SET (fillfactor = 50)")


def take_room_back(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE jobs_jobcounts RESET (fillfactor)")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0004_row_security")]

    operations = [migrations.RunPython(make_room, take_room_back)]
