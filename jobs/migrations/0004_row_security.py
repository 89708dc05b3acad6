"""The second line of defence on PostgreSQL: a role that owns nothing sees the rows of the tenant it named, or none.

``jobs.database.prepared`` names the tenant with each read. The owner of the tables (migrations, commands, the console) is
not bound by the policies; the role in ``DATABASE_API_URL`` is. Tenants and tokens have none: a caller's credential is
looked up before there is a tenant to name.
"""

from django.db import migrations

TABLES = ("jobs_job", "jobs_jobevent", "jobs_artifact", "jobs_jobcounts")
# Empty and unset both mean no tenant: a setting that was local to a transaction reads '' after it.
OWN_ROWS = "tenant_id = NULLIF(current_setting('app.tenant', true), '')::bigint"


def enable(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for table in TABLES:
            schema_editor.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            schema_editor.execute(f"CREATE POLICY own_rows ON {table} USING ({OWN_ROWS}) WITH CHECK ({OWN_ROWS})")


def disable(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for table in TABLES:
            schema_editor.execute(f"DROP POLICY own_rows ON {table}")
            schema_editor.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0003_tenant_of_its_job")]

    operations = [migrations.RunPython(enable, disable)]
