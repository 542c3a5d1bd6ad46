"""What scenarios share: an application in a temporary directory, workers beside it, medians."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from jobs_core import App, set_current_app
from jobs_core.config_sources import load

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def application(backend: str, toml: str = "") -> Iterator[App]:
    """An application whose configuration, queue and ledger lie in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory:
        config = Path(directory) / "jobs.toml"
        config.write_text(f'backend = "{backend}"\nmodules = ["bench.jobs_to_run"]\n{toml}\n')
        app = App(load(config, environ={}).config)
        set_current_app(app)
        try:
            yield app
        finally:
            set_current_app(None)
            app.close()


@contextlib.contextmanager
def workers(app: App, count: int, *options: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Worker processes, ready to serve; ended with the block."""
    directory = app.config.base_dir
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BENCH_LEDGER": str(directory / "ledger")}
    command = [sys.executable, "-m", "jobs_core", "-c", str(directory / "jobs.toml"), "worker", *options]
    started = [
        subprocess.Popen(command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stderr
            while " serves " not in process.stderr.readline():
                assert process.poll() is None, "a worker did not start"
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def run_python(code: str, *arguments: str, directory: Path | None = None) -> str:
    """What a Python process of its own prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, cwd=directory, check=True
    )
    return done.stdout


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


median = statistics.median
