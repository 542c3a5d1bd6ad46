"""`jobsctl demo`: enqueue the jobs of a small shop, run them with real workers, and show the results."""

from __future__ import annotations

import csv
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec

from ..app import App, set_current_app
from ..backends.base import Backend, JobRecord, State
from ..config_sources import load
from ..job import Call
from ..scoreboard.reader import alive
from ..scoreboard.state import read_board
from ..units import are, count, format_duration
from . import output
from .types import FILE

DATA = Path(__file__).parent.parent / "demo" / "data"
WIDTHS = (320, 160, 64)
TOPICS = ["mails", "texts", "photos"]
CONFIG = """\
# Written by `jobsctl demo`.
modules = ["jobs_core.demo.shop"]

[pools.default]
topics = ["mails", "texts", "photos"]
workers = {workers}

[logs]
file = "jobs.log"
format = "json"
"""
KILL_AT = 0.3
"""Share of the jobs that are done when a worker is killed."""


@click.command("demo")
@click.option(
    "--directory", metavar="DIR", type=FILE, help=("The directory for its files and results (default: a new temporary one).")
)
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True, help="Worker processes.")
@click.option(
    "--seconds",
    type=click.IntRange(0, 3600),
    default=0,
    show_default=True,
    help=("Keep running for at least this long, so that you can look at it."),
)
def demo_command(directory: str | None, workers: int, seconds: int) -> None:
    """Enqueue and run real jobs on sample files: thumbnails, word counts, emails.

    Some fail and are retried, one ends in the dead letters; a worker is killed on the way. It uses SQLite and a real
    supervisor.
    """
    raise click.exceptions.Exit(show(_place(directory), workers=workers, seconds=seconds))


def _place(directory: str | None) -> Path:
    """Return the directory to work in, after filling it with the sample files."""
    place = Path(directory or tempfile.mkdtemp(prefix="jobs-demo-")).resolve()
    try:
        for name in ("outbox", "thumbnails"):
            (place / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"--directory: {place} cannot be used: {error.strerror}") from None
    return place


def show(place: Path, *, workers: int, seconds: float = 0.0) -> int:
    """Run the demonstration and return its exit code."""
    (place / "jobs.toml").write_text(CONFIG.format(workers=workers), encoding="utf-8")
    app = App(load(place / "jobs.toml", environ={}).config)
    set_current_app(app)
    calls = _calls(place)
    total = len(app.enqueue_many(calls))
    output.echo(f"{are(total, 'job')} enqueued in {place / '.jobs' / 'jobs.db'}, for {count(workers, 'worker')}.")
    if seconds:
        output.echo(f"For {seconds:g} s, more jobs keep arriving. From another terminal:\n")
        for command in ("top", "status", "topics"):
            output.echo(f"  {_jobsctl(place)} {command}")
        output.echo()
    begin = time.monotonic()
    supervisor = _start(place)
    try:
        rounds = _watch(app, calls, supervisor, begin + seconds)
        lasted = time.monotonic() - begin
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(timeout=30)
    dead = app.operate(_dead)
    _report(place, total * rounds, dead, lasted)
    finished = app.operate(_unfinished) == 0
    app.close()
    return 0 if finished and len(dead) == rounds else 1


def _jobsctl(place: Path) -> str:
    """Return this installation's `jobsctl` command line with the demonstration's configuration, for use in any directory."""
    beside = Path(sys.executable).with_name("jobsctl")
    program = [str(beside)] if beside.exists() else [sys.executable, "-m", "jobs_core"]
    return shlex.join([*program, "-c", str(place / "jobs.toml")])


def _calls(place: Path) -> list[Call[Any]]:
    from ..demo import shop

    calls: list[Call[Any]] = []
    photos = sorted((DATA / "photos").glob("*.jpg"))
    if importlib.util.find_spec("PIL"):
        for photo in photos:
            for width in WIDTHS:
                target = place / "thumbnails" / f"{photo.stem}-{width}.png"
                calls.append(shop.thumbnail.call(photo, width, target))
    else:
        output.echo("No thumbnails this time: they need `pip install pillow`.")
    calls += [shop.count_words.call(text) for text in sorted((DATA / "texts").glob("*.txt"))]
    template = DATA / "mail.txt"
    with (DATA / "customers.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            calls.append(shop.send_mail.call(shop.Customer(**row), template, place / "outbox"))
    return calls


def _start(place: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
    command = [sys.executable, "-m", "jobs_core", "-c", str(place / "jobs.toml"), "start"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, cwd=place)


def _watch(app: App, calls: list[Call[Any]], supervisor: subprocess.Popen[bytes], until: float) -> int:
    """Show progress until all jobs have ended and the time is up.

    Kill a worker meanwhile, to show how its jobs are recovered.

    Returns how often the whole set of jobs was enqueued.
    """
    killed, rounds = False, 1
    with _progress(len(calls)) as update:
        while True:
            left, total = app.operate(_unfinished), len(calls) * rounds
            update(total - left, total)
            if not killed and total - left > len(calls) * KILL_AT:
                killed = _kill_busy_worker(app.run_dir)
            if supervisor.poll() is not None:
                raise click.ClickException("the supervisor has exited: its log, jobs.log, is next to jobs.toml")
            if left == 0:
                if time.monotonic() >= until:
                    return rounds
                app.enqueue_many(calls)
                rounds += 1
            time.sleep(0.01)


def _kill_busy_worker(run_dir: Path) -> bool:
    for view in read_board(run_dir).workers:
        if view.running and alive(view.header):
            os.kill(view.header.pid, signal.SIGKILL)
            return True
    return False


def _report_kill(events: list[dict[str, Any]]) -> None:
    """Report how the jobs of the killed worker were recovered."""

    def first(name: str, since: float = 0.0) -> dict[str, Any] | None:
        return next((event for event in events if event.get("event") == name and event["time"] >= since), None)

    died = first("WorkerDied")
    if died is None:
        return
    back, handed = first("WorkerStarted", died["time"]), first("JobsHandedBack", died["time"])
    text = f"Worker {died['pid']} was killed (kill -9)"
    if back is not None:
        text += f"; another served {1000 * (back['time'] - died['time']):.0f} ms later"
    if handed is not None:
        held = handed["released"]
        text += f", and the {'job' if held == 1 else count(held, 'job')} it had reserved returned to the backend for the others"
    output.echo(f"{text}.\n")


def _progress(total: int) -> AbstractContextManager[Callable[[int, int], None]]:
    if not output.on_terminal():
        return nullcontext(lambda done, total: None)
    return _Bar(total)


class _Bar(AbstractContextManager[Callable[[int, int], None]]):
    """A progress bar on the terminal."""

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(TextColumn("running"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._task = self._progress.add_task("jobs", total=total)

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return lambda done, total: self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()


def _unfinished(backend: Backend) -> int:
    return sum(count.ready + count.limited + count.scheduled + count.reserved for count in backend.counts(TOPICS).values())


def _dead(backend: Backend) -> list[JobRecord]:
    return [record for topic in TOPICS for record in backend.browse(topic, State.DEAD, 10_000)]


def _report(place: Path, total: int, dead: list[JobRecord], seconds: float) -> None:
    """Print the summary, and where to look next."""
    events = [msgspec.json.decode(line) for line in (place / "jobs.log").read_bytes().splitlines()]
    retried = len({event["job_id"] for event in events if event.get("event") == "JobFailed"})
    output.echo()
    _report_kill(events)
    output.table(
        ["done", "retried", "dead", "time", "jobs/s"],
        [(total - len(dead), retried, len(dead), format_duration(round(seconds, 2)), f"{total / seconds:,.0f}")],
        plain=False,
    )
    output.echo("\nWhere to look next:")
    config = _jobsctl(place)
    commands = [(f"{config} dead show {record.id}", "why it is dead, with its tracebacks") for record in dead[:1]]
    commands += [
        (f"{config} dead list", "all dead letters"),
        (f"{config} topics", "every topic by state"),
        (shlex.join(["ls", str(place)]), "outbox, thumbnails, jobs.log"),
    ]
    for command, what in commands:
        output.echo(f"  {command}\n      {what}")
