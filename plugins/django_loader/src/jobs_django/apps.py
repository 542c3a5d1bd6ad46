"""The Django app: connects `enqueue` with the project's settings, and checks them."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed

from jobs_core import set_app_source
from jobs_core.errors import ConfigError

from . import settings


class JobsConfig(AppConfig):
    """The app behind `"jobs_django"` in INSTALLED_APPS."""

    name = "jobs_django"
    verbose_name = "Background jobs"

    def ready(self) -> None:
        set_app_source(settings.application)
        checks.register(check_settings, "jobs")
        setting_changed.connect(_setting_changed, dispatch_uid="jobs_django")


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Check the configuration in JOBS and jobs.toml, as a part of `manage.py check`."""
    try:
        settings.load(settings.complete())
    except ConfigError as error:
        return [checks.Error(line, id="jobs.E001") for line in str(error).splitlines()]
    return []


def _setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "JOBS":
        settings.forget()
