"""Handle SQLAlchemy's connections at a fork: if two processes shared one, each would read the other's rows."""

from __future__ import annotations

import gc
import sys
from typing import Any


def disconnect() -> None:
    """Close the pooled connections of all engines. The template calls it before it forks."""
    for engine in _engines():
        # An async engine's connections can only be closed by their event loop, which does not run here.
        engine.dispose(close=not engine.dialect.is_async)


def forget() -> None:
    """Give all engines empty pools. A worker calls it after the fork, because any remaining connection is the parent's."""
    for engine in _engines():
        engine.dispose(close=False)


def _engines() -> list[Any]:
    """Find the engines of this process, including those inside async engines.

    SQLAlchemy has no list of its engines, and the application should not have to write one. This searches all objects of the
    process, which takes about 50 ms before the first fork and in each worker that starts.
    """
    base = sys.modules.get("sqlalchemy.engine.base")
    return [each for each in gc.get_objects() if isinstance(each, base.Engine)] if base is not None else []
