"""The helpers that several scenarios share: enqueueing in bulk, timing bare loops, measuring the time until a job starts."""

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
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def enqueue(job: Any, count: int) -> float:
    """Enqueue jobs without arguments, a thousand at a time; return the seconds."""
    begin = time.perf_counter()
    for _ in range(count // JOBS_OF_A_BULK):
        job.enqueue_many([()] * JOBS_OF_A_BULK)
    return time.perf_counter() - begin


def race(code: str, arguments: Sequence[str], ended: Callable[[], float], count: int = 2) -> float:
    """Return the seconds from the common start of this many programs until the moment that `ended` returns.

    A program prints a line when it is ready, starts when it reads one, and is killed if it still runs in the end.
    """
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
    """Measure the time from enqueue to start, with idle workers of this application; `pause` seconds between two jobs."""
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
