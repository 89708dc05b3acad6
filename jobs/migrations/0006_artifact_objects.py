"""Room for what the artifact store knows of each artifact; ``backfill_artifacts`` fills it. Old code leaves it empty."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0005_room_for_counts")]

    operations = [
        migrations.AddField(
            "artifact", "size", models.PositiveBigIntegerField(blank=True, null=True, help_text="Bytes.")
        ),
        migrations.AddField("artifact", "content_type", models.TextField(blank=True, null=True)),
        migrations.AddField(
            "artifact",
            "checksum",
            models.TextField(blank=True, null=True, help_text="sha256: of the content, or the store's own etag:"),
        ),
        migrations.AddField(
            "artifact", "width", models.PositiveIntegerField(blank=True, null=True, help_text="Pixels.")
        ),
        migrations.AddField(
            "artifact", "height", models.PositiveIntegerField(blank=True, null=True, help_text="Pixels.")
        ),
    ]
