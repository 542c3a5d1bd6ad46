"""The growth at which a worker is replaced."""

from __future__ import annotations

import pytest

from jobs_core.config import Pool
from jobs_core.supervisor.pools import worker as module
from jobs_core.supervisor.pools.worker import GROWTH, SETTLED, WorkerRecord
from jobs_core.supervisor.system.messages import WorkerSpec
from jobs_core.units import Size

START = 3_000_000_000  # for example of an application that holds a model


@pytest.mark.parametrize(
    ("limit", "age", "memory", "too_large"),
    [
        (None, SETTLED + 1, START + GROWTH + 1, True),
        (None, SETTLED + 1, START + GROWTH - 1, False),
        (None, SETTLED + 1, START, False),  # a large initial size is not a leak
        (None, SETTLED - 1, START + GROWTH + 1, False),  # it may still be allocating what it needs
        (Size(0), SETTLED + 1, START + 10 * GROWTH, False),  # 0: no limit
        (Size(START + 1), 1.0, START + 2, True),  # settings take effect at once
        (Size(START + 1), SETTLED + 1, START, False),
    ],
)
def test_growth_is_distinguished_from_size(monkeypatch, limit: Size | None, age: float, memory: int, too_large: bool):
    worker = WorkerRecord(WorkerSpec("owner", "default", 1), Pool(max_memory=limit))
    worker.ready_at = 100.0
    for size in (START, memory):
        monkeypatch.setattr(module.linux, "resident", lambda pid, size=size: size)
        worker.read_memory()
    assert worker.is_too_large(100.0 + age) is too_large


def test_no_default_counts_jobs():
    assert Pool().max_jobs == 0
    assert Pool().max_age > 0
