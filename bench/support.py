"""The helpers that scenarios share: an application in a temporary directory, a supervisor beside it, medians."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jobs_core import App, set_current_app
from jobs_core.config_sources import load
from jobs_core.scoreboard.state import read_board

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def application(backend: str, toml: str = "") -> Iterator[App]:
    """Yield an application whose configuration, queue and ledger lie in their own directory."""
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
def supervised(app: App, count: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a supervisor with this many serving workers and defaults otherwise; stop it with the block.

    Everything is measured like this, and not with bare workers: users pay for the defaults too, recycling for one.
    """
    directory = app.config.base_dir
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BENCH_LEDGER": str(directory / "ledger"),
        "JOBS_POOLS__DEFAULT__WORKERS": str(count),
    }
    command = [sys.executable, "-m", "jobs_core", "-c", str(directory / "jobs.toml"), "start"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, env=environment, stderr=log)
    try:
        until_state(app, "serving", process)
        yield process
    finally:
        process.terminate()
        process.wait()


def until_state(app: App, wanted: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until `state.json` shows a state of the supervisor."""
    while (state := read_board(app.run_dir).supervisor) is None or state.state != wanted:
        assert process.poll() is None, (app.config.base_dir / "log").read_text()
        time.sleep(0.01)


def run_python(code: str, *arguments: str, directory: Path | None = None) -> str:
    """Return the output of a separate Python process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, cwd=directory, check=True
    )
    return done.stdout


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


median = statistics.median
