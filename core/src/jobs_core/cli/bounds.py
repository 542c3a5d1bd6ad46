"""The number of workers that this machine can probably run."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ..operating.formatting import count, size
from ..scoreboard.state import Board, SupervisorState

PER_CORE = 32
"""Most workers per core: workers mostly wait for other systems, but more of them would only cause context switches."""

USUAL_SIZE = 50_000_000
"""Assumed size of a worker in bytes, until one has been measured."""


def too_many(board: Board, pool: str, workers: int) -> str:
    """Return why this machine probably cannot run so many workers in a pool; "" if it can."""
    it = board.supervisor
    mine = next((each for each in it.pools if each.name == pool), None) if it else None
    if it is None or mine is None or workers <= max(mine.max, mine.wanted):
        return ""
    each, cores, free = _size_of_worker(it, pool), _cores(), free_memory()
    most = min(cores * PER_CORE, mine.wanted + free // each)
    if workers <= most:
        return ""
    memory = f"{size(free)} of memory" if free else "no memory"
    return (
        f"{workers:,} workers in pool {pool} are more than the {most:,} that this machine is likely to bear: it has "
        f"{count(cores, 'core')} and {memory} free, and a worker takes {size(each)}"
    )


def _size_of_worker(it: SupervisorState, pool: str) -> int:
    sizes = [worker.memory for worker in it.workers if worker.pool == pool and worker.memory]
    return sum(sizes) // len(sizes) if sizes else USUAL_SIZE


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(root: Path = Path("/")) -> int:
    """Return how many bytes of memory are free in the machine, or in this process's control group if that is less."""
    found = []
    with contextlib.suppress(OSError):
        match = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
        found += [int(match[1]) * 1024] if match else []
    for group, limit, used in (
        (root / "sys/fs/cgroup", "memory.max", "memory.current"),
        (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # there is no control group, or its limit is "max"
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
            free = int((group / limit).read_text()) - int((group / used).read_text())
            found.append(max(0, free + (int(cached[1]) if cached else 0)))
    return min(found, default=10**12)
