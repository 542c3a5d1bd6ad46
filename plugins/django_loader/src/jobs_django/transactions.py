"""Hold enqueues until the surrounding transaction commits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs_core import Config


def hold(config: Config, on_commit: bool | None, send: Callable[[], None]) -> bool | None:
    """Send when the innermost transaction commits, if the enqueue or `[django] on_commit` requests that; else do nothing.

    Outside `atomic`, the job is sent at once. A rollback discards it. As with every on_commit function of Django, a failure
    (an outage of the backend) is raised at the end of the block, after the commit.
    """
    if "django.db" not in sys.modules:
        return None
    wanted = config.plugins.get("django", {}).get("on_commit", False) if on_commit is None else on_commit
    alias = _in_transaction() if wanted else None
    if not wanted:
        return None
    if alias is None:
        send()
        return True
    from django.db import transaction

    transaction.on_commit(send, using=alias)
    return True


def _in_transaction() -> str | None:
    """Return the database with a transaction in this thread, the default one first. Opens no connection."""
    from django.conf import settings
    from django.db import DEFAULT_DB_ALIAS, connections

    if not settings.configured:
        return None
    found = [connection.alias for connection in connections.all(initialized_only=True) if connection.in_atomic_block]
    return DEFAULT_DB_ALIAS if DEFAULT_DB_ALIAS in found else next(iter(found), None)
