from django.db import migrations


def fill(apps, schema_editor):
    apps.get_model("orders", "Product").objects.create(name="teapot", left=2)


class Migration(migrations.Migration):
    """Puts two teapots on the shelf."""

    dependencies = [("orders", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
