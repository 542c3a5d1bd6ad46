"""The jobs of the script, in a module of their own, which a worker can import."""

from __future__ import annotations

from pathlib import Path

from jobs_core import job


@job(store_result=True)
def count(path: Path) -> int:
    """How many words a file has. A job runs where the worker does: paths are best absolute, or the same there."""
    return len(path.read_text(encoding="utf-8").split())
