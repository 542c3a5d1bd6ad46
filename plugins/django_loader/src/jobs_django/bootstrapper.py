"""Run jobs inside a Django project: set up once, with database connections managed as around a request."""

from __future__ import annotations

import difflib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from jobs_core.errors import ConfigError, LoadError
from jobs_core.loaders.base import Bootstrapper, add_to_path, import_module, load_error

if TYPE_CHECKING:
    from jobs_core import Config, JobContext

KEYS = ("settings", "on_commit", "transactional")


class DjangoBootstrapper(Bootstrapper):
    """Sets Django up; closes old and broken connections around every run, and all connections before the fork."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def setup(self) -> None:
        add_to_path(self._config.base_dir)
        _name_settings(self._config)
        import django
        from django.apps import apps

        try:
            if not apps.ready:
                django.setup()
        except Exception as error:
            raise load_error("django.setup() failed", error) from error
        _compare(self._config)

    def before_fork(self) -> None:
        """Disconnect from databases and caches: two processes that share a connection read each other's rows."""
        from django.core.cache import close_caches
        from django.db import connections

        for connection in connections.all(initialized_only=True):
            connection.close()
            if hasattr(connection, "close_pool"):  # PostgreSQL's pool, from Django 5.1 on, has threads of its own
                connection.close_pool()
        close_caches()

    def around(self, run: JobContext) -> AbstractContextManager[object]:
        return _connections()

    def aaround(self, run: JobContext) -> AbstractAsyncContextManager[object]:
        return _aconnections()


def _name_settings(config: Config) -> None:
    """Set DJANGO_SETTINGS_MODULE from `[django] settings` unless the environment has it."""
    from django.conf import ENVIRONMENT_VARIABLE, settings

    table = config.plugins.get("django", {})
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            raise ConfigError(f"django.{key}: unknown key" + (f'; did you mean "{near[0]}"?' if near else ""))
    if settings.configured:
        return
    module = os.environ.get(ENVIRONMENT_VARIABLE) or table.get("settings")
    if not isinstance(module, str) or not module:
        raise ConfigError(
            'django.settings: no settings are named: set DJANGO_SETTINGS_MODULE, or [django] settings = "shop.settings", '
            "or start through `manage.py jobs …`, which sets it"
        )
    import_module(module, "django.settings")
    os.environ[ENVIRONMENT_VARIABLE] = module


def _compare(config: Config) -> None:
    """Check that the worker and the views have the same configuration.

    Otherwise, a worker on another backend would leave the views' jobs waiting without any error.
    """
    from . import settings

    values = settings.given()
    wanted = settings.load(settings.complete())
    for key in values:
        if hasattr(config, key) and getattr(wanted, key) != getattr(config, key):
            raise LoadError(
                f"{settings.name()} sets {key!r}, which this process was started without: restart it through `manage.py jobs "
                "…`, which reads both, or move the setting to jobs.toml"
            )


@contextmanager
def _connections() -> Iterator[None]:
    """Reset queries and close old connections, as Django does around a request."""
    from django.db import close_old_connections, reset_queries

    reset_queries()
    close_old_connections()
    try:
        yield
    finally:
        _leave()


def _leave() -> None:
    """Close old and broken connections, and those that an interrupted run left inside a transaction."""
    from django.db import close_old_connections, connections

    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            connection.close()
            del connections[connection.alias]
    close_old_connections()


@asynccontextmanager
async def _aconnections() -> AsyncIterator[None]:
    """Do the same as `_connections` for an async job, whose `sync_to_async` calls have their own thread and connections."""
    from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
    from django.db import connections

    async with ThreadSensitiveContext() as context:
        try:
            yield
        finally:
            if context in SyncToAsync.context_to_thread_executor:  # the job has used that thread: close its connections there
                await sync_to_async(connections.close_all)()
