"""The jobs of the script, in their own module, which a worker can import."""

from __future__ import annotations

from pathlib import Path

from jobs_core import job


@job(store_result=True)
def count(path: Path) -> int:
    """Return the number of words in a file. Jobs run in the worker's directory: pass absolute paths."""
    return len(path.read_text(encoding="utf-8").split())
