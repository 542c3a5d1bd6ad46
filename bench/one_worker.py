"""Scenarios of the core: one or two workers, on memory and SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from jobs_core.config import Pool
from jobs_core.worker.main import Worker, prepare

from .scenes import Rows, enqueue, latency, race
from .support import application, run_python, supervised

JOBS = 60_000

BARE = """
import sys
from pathlib import Path
from jobs_core.backends.base import BackendOptions, Outcome, Settlement
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.ids import new_token
backend = SqliteBackend(sys.argv[1], BackendOptions())
backend.open(new_token())
print("ready", flush=True)
sys.stdin.readline()
while True:
    deliveries = backend.reserve(["default"], 500, new_token())
    if not deliveries:
        break
    backend.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_token())
backend.close()
"""


def memory_cpu() -> Rows:
    """Measure the CPU time of a no-op job in one sync worker on memory: decoding, bookkeeping and settling included."""
    from . import jobs_to_run

    with application("memory://") as app:
        prepare(app)
        enqueue(jobs_to_run.noop, JOBS)
        worker = Worker(app, "bench", Pool(), None, drain=True)
        cpu, begin = time.process_time(), time.perf_counter()
        worker.run()
        return {
            "memory, 1 worker: CPU a no-op job, µs": (time.process_time() - cpu) / JOBS * 1e6,
            "memory, 1 worker: no-op jobs/s": JOBS / (time.perf_counter() - begin),
        }


def sqlite_drain() -> Rows:
    """Measure no-op jobs through two workers, and through two bare loops of the same storage calls."""
    from . import jobs_to_run

    with application("sqlite:///queue.db") as app:
        queue = app.config.base_dir / "queue.db"
        pushed = enqueue(jobs_to_run.noop, JOBS)
        app.operate(lambda backend: backend.pause("default"))
        with supervised(app, 2):
            begin = time.perf_counter()
            app.operate(lambda backend: backend.resume("default"))
            drained = _until_empty(queue) - begin
        enqueue(jobs_to_run.noop, JOBS)
        bare = race(BARE, [f"sqlite:///{queue}"], lambda: _until_empty(queue))
        return {
            "sqlite: bulk push, jobs/s": JOBS / pushed,
            "sqlite, 2 workers: no-op jobs/s": JOBS / drained,
            "sqlite, 2 bare loops: jobs/s": JOBS / bare,
            "sqlite: workers to bare loops, ratio": bare / drained,
        }


def _until_empty(queue: Path) -> float:
    """Return the time at which the file holds no more jobs."""
    db = sqlite3.connect(queue, isolation_level=None, timeout=10)
    try:
        while db.execute("SELECT EXISTS (SELECT 1 FROM job)").fetchone()[0]:
            time.sleep(0.002)
        return time.perf_counter()
    finally:
        db.close()


def sqlite_latency() -> Rows:
    """Measure the time from enqueue to start, with one idle worker."""
    with application("sqlite:///queue.db") as app, supervised(app, 1):
        return latency(app, "sqlite", 0.005)


MANY = """
import resource, sys, time
from pathlib import Path
from jobs_core import App, set_current_app
from jobs_core.config_sources import load
from jobs_core.config import Pool
from jobs_core.worker.main import Worker, prepare
app = App(load(sys.argv[1], environ={}).config)
set_current_app(app)
prepare(app)
worker = Worker(app, "bench", Pool(mode="async", concurrency=10_000), None, drain=True)
begin = time.perf_counter()
worker.run()
print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def many_at_once() -> Rows:
    """Measure ten thousand async jobs that each sleep for a second, in one worker."""
    from . import jobs_to_run

    with application("sqlite:///queue.db") as app:
        jobs_to_run.nap.enqueue_many([(1.0,)] * 10_000)
        seconds, peak = map(float, run_python(MANY, str(app.config.base_dir / "jobs.toml")).split())
    return {"10,000 async jobs of 1 s: seconds": seconds, "10,000 async jobs of 1 s: peak MB": peak}


def import_time() -> Rows:
    """Measure `import jobs_core` in a fresh process."""
    code = "import time; b = time.perf_counter(); import jobs_core; print(time.perf_counter() - b)"
    return {"import jobs_core, ms": min(float(run_python(code)) for _ in range(3)) * 1e3}


SCENARIOS: dict[str, Callable[[], Rows]] = {
    "memory": memory_cpu,
    "drain": sqlite_drain,
    "latency": sqlite_latency,
    "many": many_at_once,
    "import": import_time,
}

GOALS: dict[str, tuple[str, float]] = {
    "memory, 1 worker: CPU a no-op job, µs": ("≤", 20),
    "sqlite: bulk push, jobs/s": ("≥", 50_000),
    "sqlite, 2 workers: no-op jobs/s": ("≥", 25_000),
    "sqlite: workers to bare loops, ratio": ("≥", 0.5),
    "sqlite: enqueue to start, p50, ms": ("≤", 1),
    "sqlite: enqueue to start, p99, ms": ("≤", 5),
    "10,000 async jobs of 1 s: seconds": ("≤", 2),
    "10,000 async jobs of 1 s: peak MB": ("≤", 150),
    "import jobs_core, ms": ("≤", 60),
}
