"""A function by which the role of the API learns that a tenant's position moved, of many tenants in one statement.

The role sees the rows of one tenant at a time. The function runs as its owner, and returns two numbers of each tenant
that is named. Roles that may read the counts may call it; ``grant_api_role`` lets later ones.
"""

from django.db import migrations

FUNCTION = """
CREATE OR REPLACE FUNCTION jobs_last_positions(tenants bigint[])
RETURNS TABLE (tenant_id bigint, last_position bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = {schema}, pg_temp
AS 'SELECT counts.tenant_id, counts.last_position FROM jobs_jobcounts AS counts WHERE counts.tenant_id = ANY(tenants)'
"""
READERS = """
SELECT DISTINCT grantee FROM information_schema.role_table_grants
WHERE table_schema = current_schema() AND table_name = 'jobs_jobcounts' AND privilege_type = 'SELECT'
  AND grantee NOT IN (current_user, 'PUBLIC')
"""


def create(apps, schema_editor):
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        cursor.execute(FUNCTION.format(schema=connection.ops.quote_name(cursor.fetchone()[0])))
        cursor.execute("REVOKE ALL ON FUNCTION jobs_last_positions(bigint[]) FROM PUBLIC")
        cursor.execute(READERS)
        for (role,) in cursor.fetchall():
            name = connection.ops.quote_name(role)
            cursor.execute(f"GRANT EXECUTE ON FUNCTION jobs_last_positions(bigint[]) TO {name}")


def drop(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP FUNCTION jobs_last_positions(bigint[])")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0012_event_position")]

    operations = [migrations.RunPython(create, drop)]
