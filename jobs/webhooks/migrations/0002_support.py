"""What support may do: look at endpoints and attempts, and have events sent again."""

from django.db import migrations

MAY = {"endpoint": ["view"], "attempt": ["view"], "redelivery": ["add"]}


def extend_support_group(apps, schema_editor):
    def rows(app_label, model):
        return apps.get_model(app_label, model).objects.using(schema_editor.connection.alias)

    group, _ = rows("auth", "Group").get_or_create(name="support")
    for model, actions in MAY.items():
        # Django makes these rows once all migrations have run, which is too late here; it then finds them made.
        content_type, _ = rows("contenttypes", "ContentType").get_or_create(app_label="webhooks", model=model)
        for action in actions:
            permission, _ = rows("auth", "Permission").get_or_create(
                codename=f"{action}_{model}",
                content_type=content_type,
                defaults={"name": f"Can {action} {apps.get_model('webhooks', model)._meta.verbose_name}"},
            )
            group.permissions.add(permission)


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0001_initial"), ("jobs", "0002_support_console")]

    operations = [migrations.RunPython(extend_support_group, migrations.RunPython.noop)]
