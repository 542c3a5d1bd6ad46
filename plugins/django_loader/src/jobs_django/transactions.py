"""Enqueue inside the surrounding transaction, or hold enqueues until it commits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs_core import Config


def open_transactions(config: Config) -> Sequence[object]:
    """Return the connections to PostgreSQL that have a transaction in this thread; the core picks that of the job store."""
    if "django.db" not in sys.modules or config.plugins.get("django", {}).get("transactional", True) is False:
        return ()
    return [connection for connection in _in_transaction() if connection.vendor == "postgresql"]


def hold(config: Config, on_commit: bool | None, send: Callable[[], None]) -> bool | None:
    """Send when the innermost transaction commits, if the enqueue or `[django] on_commit` requests that; else do nothing.

    Outside `atomic`, the job is sent at once. A rollback discards it. As with every on_commit function of Django, a failure
    (an outage of the backend) is raised at the end of the block, after the commit.
    """
    if "django.db" not in sys.modules:
        return None
    wanted = config.plugins.get("django", {}).get("on_commit", False) if on_commit is None else on_commit
    if not wanted:
        return None
    found = _in_transaction()
    if not found:
        send()
        return True
    from django.db import transaction

    transaction.on_commit(send, using=found[0].alias)
    return True


def _in_transaction() -> list[Any]:
    """Return the connections with a transaction in this thread, that of the default database first. Opens no connection."""
    from django.conf import settings
    from django.db import DEFAULT_DB_ALIAS, connections

    if not settings.configured:
        return []
    found = [connection for connection in connections.all(initialized_only=True) if connection.in_atomic_block]
    return sorted(found, key=lambda connection: bool(connection.alias != DEFAULT_DB_ALIAS))
