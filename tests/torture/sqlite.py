"""The rows for SQLite, which has no broker: workers, housekeepers and supervisors are killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from . import flows, limits
from .stage import Row
from .supervised import Supervision


@contextlib.contextmanager
def supervised(kind: type[Supervision], directory: Path, toml: str) -> Iterator[Supervision]:
    """Yield machines that share one queue file."""
    with kind(directory / "machines", f"sqlite:///{directory}/queue.db", toml=toml) as stage:
        yield stage


ROWS: dict[str, Row] = {
    "1,000 limits, every process killed": limits.row(supervised),
    "10,000 flows, every process killed": flows.row(supervised),
}
