"""An event or an artifact names the tenant of its job, and the database sees to it."""

import django.db.models.deletion
from django.db import migrations, models

CHILDREN = ("jobs_jobevent", "jobs_artifact")


def hold(apps, schema_editor):
    for table in CHILDREN:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT {table}_of_tenants_job FOREIGN KEY (job_id, tenant_id) "
                "REFERENCES jobs_job (public_id, tenant_id) DEFERRABLE INITIALLY DEFERRED"
            )
        else:
            # SQLite adds no constraint to a table that exists. A migration that rebuilds these tables (there, any that
            # alters a field) has to run this again: a test finds the triggers missing otherwise.
            for moment in ("INSERT", "UPDATE OF job_id, tenant_id"):
                schema_editor.execute(
                    f"CREATE TRIGGER {table}_of_tenants_job_{moment.split()[0].lower()} BEFORE {moment} ON {table} "
                    "WHEN NOT EXISTS (SELECT 1 FROM jobs_job WHERE public_id = NEW.job_id AND tenant_id = NEW.tenant_id) "
                    f"BEGIN SELECT RAISE(ABORT, '{table}_of_tenants_job'); END"
                )


def release(apps, schema_editor):
    for table in CHILDREN:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_of_tenants_job")
        else:
            for moment in ("insert", "update"):
                schema_editor.execute(f"DROP TRIGGER {table}_of_tenants_job_{moment}")


def unconstrained(to, related_name):
    return models.ForeignKey(
        db_constraint=False,
        db_index=False,
        on_delete=django.db.models.deletion.CASCADE,
        related_name=related_name,
        to=to,
    )


class Migration(migrations.Migration):
    dependencies = [("jobs", "0002_support_console")]

    operations = [
        migrations.AlterField("jobevent", "job", unconstrained("jobs.job", "events")),
        migrations.AlterField("jobevent", "tenant", unconstrained("tenants.tenant", "+")),
        migrations.AlterField("artifact", "job", unconstrained("jobs.job", "artifacts")),
        migrations.AlterField("artifact", "tenant", unconstrained("tenants.tenant", "+")),
        migrations.RunPython(hold, release),
    ]
