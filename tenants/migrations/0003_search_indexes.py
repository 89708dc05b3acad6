"""The beginnings of slugs, names, shop domains and labels, for the console's search; built beside readers and writers.

On PostgreSQL only: Django asks there for ``UPPER(column::text) LIKE 'ACM%'``. SQLite, for stores of one machine with few
tenants, looks at each of them.
"""

from django.db import migrations

COLUMNS = {
    "tenant_slug_start": ("tenants_tenant", "slug"),
    "tenant_name_start": ("tenants_tenant", "name"),
    "tenant_domain_start": ("tenants_tenant", "shop_domain"),
    "token_label_start": ("tenants_apitoken", "label"),
}


def add_indexes(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for name, (table, column) in COLUMNS.items():
            schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # of a build that was interrupted
            schema_editor.execute(
                f"CREATE INDEX CONCURRENTLY {name} ON {table} (UPPER({column}::text) text_pattern_ops)"
            )


def remove_indexes(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for name in COLUMNS:
            schema_editor.execute(f"DROP INDEX {name}")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("tenants", "0002_revoke_permission")]

    operations = [migrations.RunPython(add_indexes, remove_indexes)]
