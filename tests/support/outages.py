"""Checks that fault tests of several brokers share: work continues after an outage, and nothing has run twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from .project import Process, Project
from .proxy import Proxy
from .stopwatch import Stopwatch

SOON = 3.0
"""Seconds within which work continues once a broker can be reached again."""


def assert_work_continues(project: Project) -> None:
    """Assert that a job that is pushed now runs soon."""
    watch = Stopwatch()
    project.push("note", "after")
    project.until_noted("note after")
    assert watch.stop() <= SOON


def assert_work_continues_after_flapping(project: Project, proxy: Proxy, url: str) -> None:
    """Cut the connection of a worker again and again, and assert that work continues; `url` leads through the proxy."""
    project.configure(backend=f'backend = "{url}"')
    worker = project.worker()
    project.push("note", "before")
    project.until_noted("note before")
    for _ in range(20):
        proxy.cut()
        time.sleep(0.05)  # the pace of the flapping
    assert_work_continues(project)
    assert worker.stop() == 0


def assert_nothing_ran_twice(project: Project, workers: Iterable[Process]) -> None:
    """Wait until the queue is empty; assert that no job has started twice, and that no worker's lease had expired."""
    project.until_empty()
    starts = Counter(line.split()[1] for line in project.ledger() if line.startswith("start"))
    assert set(starts.values()) == {1}
    for worker in workers:
        worker.until_said("answers again")
        assert "as well" not in worker.output
