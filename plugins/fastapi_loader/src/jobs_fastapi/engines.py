"""The connections of SQLAlchemy at a fork: shared by two processes, each would read the other's rows."""

from __future__ import annotations

import gc
import sys
from typing import Any


def disconnect() -> None:
    """Close the pooled connections of all engines. Called by: the template, before it forks."""
    for engine in _engines():
        # Those of an async engine are closed by their event loop, which does not run here.
        engine.dispose(close=not engine.dialect.is_async)


def forget() -> None:
    """Give all engines empty pools: any connection that is left belongs to the parent. Called by: a worker, after the fork."""
    for engine in _engines():
        engine.dispose(close=False)


def _engines() -> list[Any]:
    """Find the engines of this process, also those inside async engines.

    SQLAlchemy has no list of them, and the application should not have to write one: one pass over the objects of the
    process, some 50 ms, before the first fork and in each worker that starts.
    """
    base = sys.modules.get("sqlalchemy.engine.base")
    return [each for each in gc.get_objects() if isinstance(each, base.Engine)] if base is not None else []
