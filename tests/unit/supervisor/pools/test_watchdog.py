"""A hanging worker is killed because of the job that hangs, never because of one that it started later."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs_core.scoreboard.layout import Phase
from jobs_core.scoreboard.reader import RunEntry
from jobs_core.supervisor.pools.watchdog import Watchdog

LONG_AGO = 100.0


class Hanging:
    """A worker with one job far over its time, as the watchdog sees it; asked for its stacks, it may continue."""

    def __init__(self, beat: float, entries: list[RunEntry], then: Any) -> None:
        self.killed: list[tuple[str, str]] = []
        self.beat, self.entries, self._then = beat, entries, then
        self.settings = SimpleNamespace(timeout_grace=1.0, max_age=None)
        self.spec = SimpleNamespace(pool="default")
        self.state, self.owner, self.pid = "serving", "w1", 1
        self.stop_by = self.idle_since = self.offline_since = None
        self.ready_at = 0.0
        self.killed_for, self.kill_pending, self.exiting, self.leaving = "", False, False, False

    def file(self, run_dir: Path) -> Any:
        header = lambda: SimpleNamespace(beat=self.beat, phase=Phase.SERVING, done=0, failed=0, in_flight=1)
        return SimpleNamespace(header=header, running=lambda: len(self.entries), entries=lambda: iter(self.entries))

    def read_memory(self) -> None: ...

    def is_too_large(self, now: float) -> bool:
        return False

    def dump_stacks(self) -> None:
        self._then(self)

    def kill(self, why: str, *, culprit: str, **how: Any) -> None:
        self.killed_for = why
        self.killed.append((why, culprit))


def entry(job_id: str, deadline: float) -> RunEntry:
    return RunEntry(0, job_id, "job", "default", deadline - 1, deadline, 0)


def goes_on(worker: Hanging) -> None:
    """End the late job; the worker has begun another, which has time left."""
    worker.beat = time.monotonic()
    worker.entries = [entry("next", time.monotonic() + 60)]


def goes_on_without_time(worker: Hanging) -> None:
    worker.beat = time.monotonic()
    worker.entries = [entry("next", 0.0)]


def is_idle(worker: Hanging) -> None:
    worker.beat = time.monotonic()
    worker.entries = []


def hangs_on(worker: Hanging) -> None: ...


@pytest.mark.parametrize("reason", ["late", "silent"])
@pytest.mark.parametrize(
    ("then", "spared"), [(goes_on, True), (goes_on_without_time, True), (is_idle, True), (hangs_on, False)]
)
def test_a_worker_that_continues_when_its_stacks_are_requested_is_spared(reason, then, spared):
    now = time.monotonic()
    late = entry("late", now - LONG_AGO) if reason == "late" else entry("late", 0.0)
    worker = Hanging(now - LONG_AGO - 1, [late], then)
    pool = SimpleNamespace(name="default", workers={"w1": worker}, check=lambda now: None)
    after: list[Any] = []
    loop = SimpleNamespace(after=lambda seconds, call: after.append(call))
    watchdog = Watchdog(loop, Path(), [pool], lambda: 1e9 if reason == "late" else 10.0)  # type: ignore[arg-type,list-item]
    watchdog._awake_since = 0.0
    watchdog.check()
    assert worker.kill_pending
    (kill,) = after
    kill()
    assert worker.killed == ([] if spared else worker.killed)
    assert bool(worker.killed) is not spared
    assert worker.kill_pending is not spared
    if not spared and reason == "late":
        assert worker.killed[0][1] == "late"
    after.clear()
    watchdog.check()
    assert not after  # once is enough, and a worker that continues is left alone
