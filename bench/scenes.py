"""What several scenarios do alike: enqueue in bulk, race bare loops against the clock, measure the way to a job's start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from jobs_core import App

from .support import percentile

Rows = dict[str, float]

JOBS_OF_A_BULK = 1000
STAMPS = 300


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def enqueue(job: Any, count: int) -> float:
    """Enqueue jobs without arguments, a thousand at a time; seconds."""
    begin = time.perf_counter()
    for _ in range(count // JOBS_OF_A_BULK):
        job.enqueue_many([()] * JOBS_OF_A_BULK)
    return time.perf_counter() - begin


def race(code: str, arguments: Sequence[str], ended: Callable[[], float], count: int = 2) -> float:
    """Seconds from a common start of so many programs until `ended` returns its moment. A program says that it is ready
    by a line, starts at one, and is killed if it runs still."""
    command = [sys.executable, "-c", code, *arguments]
    loops = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for loop in loops:
            assert loop.stdout
            assert loop.stdout.readline(), "a bare loop failed"
        begin = time.perf_counter()
        for loop in loops:
            assert loop.stdin
            loop.stdin.write("go\n")
            loop.stdin.flush()
        return ended() - begin
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()


def latency(app: App, name: str, pause: float) -> Rows:
    """From enqueue to start, with workers of this application idle beside us; `pause` seconds between two jobs."""
    from . import jobs_to_run

    ledger = app.config.base_dir / "ledger"
    for _ in range(STAMPS):
        jobs_to_run.stamp.enqueue(time.time())
        time.sleep(pause)
    while len(delays := ledger.read_text().split()) < STAMPS:
        time.sleep(0.01)
    milliseconds = [float(delay) * 1e3 for delay in delays]
    return {
        f"{name}: enqueue to start, p50, ms": percentile(milliseconds, 0.50),
        f"{name}: enqueue to start, p99, ms": percentile(milliseconds, 0.99),
    }
