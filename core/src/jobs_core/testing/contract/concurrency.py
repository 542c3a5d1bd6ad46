"""Several processes, and threads, on one queue at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ...backends.base import Backend, Outcome
from .rig import PATIENCE, Rig, RigCase, T

PROCESSES = 8
JOBS = 400


class Concurrency(RigCase):
    """No job is delivered twice, and none is left behind."""

    def test_processes_that_reserve_at_once_share_the_jobs(self, rig: Rig, tmp_path: Path) -> None:
        ids = rig.push_many(rig.producer(), JOBS)
        if rig.has("multiprocess"):
            ledgers = [tmp_path / f"ledger-{n}" for n in range(PROCESSES)]
            _run_at_once(rig, "drain", *map(str, ledgers))
            seen = [line for ledger in ledgers if ledger.exists() for line in ledger.read_text().split()]
        else:
            workers = [rig.worker() for _ in range(PROCESSES)]
            with ThreadPoolExecutor(PROCESSES) as pool:
                seen = [job_id for part in pool.map(lambda worker: _drain(rig, worker), workers) for job_id in part]
        assert [job_id for job_id, times in Counter(seen).items() if times > 1] == []
        assert set(seen) == set(ids)

    def test_processes_that_push_at_once_lose_nothing(self, rig: Rig) -> None:
        if not rig.has("multiprocess"):
            return
        _run_at_once(rig, "push", *["50"] * 4)
        assert len(rig.drain(rig.worker())) == 4 * 50

    def test_connections_on_threads_do_not_disturb_each_other(self, rig: Rig) -> None:
        def produce(_: int) -> list[str]:
            producer = rig.producer()
            return [job_id for _ in range(10) for job_id in rig.push_many(producer, 5)]

        with ThreadPoolExecutor(6) as pool:
            produced = [job_id for part in pool.map(produce, range(3)) for job_id in part]
            workers = [rig.worker() for _ in range(3)]
            consumed = [job_id for part in pool.map(lambda worker: _drain(rig, worker), workers) for job_id in part]
        assert sorted(consumed) == sorted(produced)

    def test_a_job_on_its_way_is_counted_once(self, rig: Rig) -> None:
        watcher = rig.producer()
        if rig.lacks(watcher, "exact_counts"):
            return
        worker = rig.worker()
        rig.push_many(watcher, 1)

        def move() -> None:
            for _ in range(100):
                rig.settle(worker, rig.take_one(worker), Outcome.RELEASE)

        seen: set[int] = set()
        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(move)
            while not (moving.done() and seen):
                counts = watcher.counts([T])[T]
                seen.add(counts.ready + counts.scheduled + counts.reserved)
            moving.result()
        assert seen == {1}, "a caller that waits for the last job to end would take a count of zero for the end"


def _drain(rig: Rig, worker: Backend) -> list[str]:
    seen: list[str] = []
    while True:
        deliveries = rig.take(worker, 7)
        if not deliveries:
            return seen
        seen += [delivery.id for delivery in deliveries]
        rig.done(worker, *deliveries)


def _run_at_once(rig: Rig, verb: str, *arguments: str) -> None:
    """Run a process for each argument; if one fails, end the others and fail."""
    with _child(rig, verb, *arguments) as child:
        try:
            output, _ = child.communicate(timeout=PATIENCE * 3)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        assert child.returncode == 0, output


def _child(rig: Rig, *arguments: str, failpoint: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "JOBS_FAILPOINT": failpoint, "JOBS_CONTRACT_RESULTS": rig.results_url}
    lease = str(rig.lease if not rig.clock else 30.0)
    command = [sys.executable, "-m", "jobs_core.testing.contract_child", rig.url, lease, T, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


start_child = _child
run_at_once = _run_at_once
