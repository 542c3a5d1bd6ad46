"""Find the jobs of a Django project: in `jobs.py` and `tasks.py` of every installed app."""

from __future__ import annotations

from importlib.util import find_spec

from jobs_core.loaders.base import import_module

NAMES = ("jobs", "tasks")


def discover() -> list[str]:
    """Import `jobs.py` and `tasks.py` of the installed apps; return the modules' names. Raises LoadError."""
    from django.apps import apps

    found = []
    for app in apps.get_app_configs():
        for name in NAMES:
            module = f"{app.name}.{name}"
            if app.name != "jobs_django" and find_spec(module) is not None:
                import_module(module, "INSTALLED_APPS")
                found.append(module)
    return found
