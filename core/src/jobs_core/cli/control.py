"""Commands to a running supervisor: stop, exit, restart, reload, quiet, scale."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

import click

from ..scoreboard.layout import Phase
from ..scoreboard.state import read_board
from ..supervisor.control import NotRunning, ask
from ..supervisor.pidfile import running
from ..units import format_duration
from . import output
from .common import Context, fail, pass_context
from .exits import Exit
from .start import start_command, warn_of_unserved
from .types import TEXT

MOST_WORKERS = 10_000
TELL_EVERY = 2.0
"""Seconds between two lines on what a stop waits for."""


@click.command("stop")
@pass_context
def stop_command(context: Context) -> None:
    """Stop: no more jobs are taken, those that run are finished, what did not start goes back.

    What still runs after the pool's stop_timeout is killed, and goes back to its topic without an attempt counted.
    Comes back when everything has ended, and says meanwhile what it waits for.
    """
    _stop(_run_dir(context), "stop")


@click.command("exit")
@pass_context
def exit_command(context: Context) -> None:
    """End at once: workers are killed, the jobs that they ran go back to their topics."""
    _stop(_run_dir(context), "exit")


@click.command("restart")
@click.option("--daemon/--foreground", default=True, help="Where the new one runs (default: in the background).")
@pass_context
@click.pass_context
def restart_command(ctx: click.Context, context: Context, daemon: bool) -> None:
    """Stop, wait for the real end, and start. To load new code without a gap, use `jobsctl reload`."""
    run_dir = _run_dir(context)
    if running(run_dir) is not None:
        _stop(run_dir, "stop")
    ctx.invoke(start_command, daemon=daemon)


@click.command("reload")
@pass_context
def reload_command(context: Context) -> None:
    """Load new code and configuration without a gap in service.

    New workers are started beside the old ones, which finish what they run. If the new code cannot be imported, or its
    workers cannot boot, the reload is refused and the old code goes on.
    """
    effective = context.effective
    wish = {
        "do": "reload",
        "config": str(effective.file or ""),
        "directory": str(effective.directory),
        "settings": os.environ.get("JOBS_SETTINGS", ""),
    }
    run_dir = _running_dir(context)
    answer = ask(run_dir, wish, timeout=None)
    if not answer["done"]:
        fail(f"reload refused, the old code goes on: {answer['error']}")
    output.echo(f"jobs: reloaded, generation {answer['generation']} serves")
    warn_of_unserved(run_dir, answer["generation"])


@click.command("quiet")
@click.option("--off", is_flag=True, help="Take jobs again.")
@pass_context
def quiet_command(context: Context, off: bool) -> None:
    """Take nothing new on this machine, and finish what runs; the supervisor stays."""
    ask(_running_dir(context), {"do": "quiet", "on": not off})
    output.echo("jobs: workers take jobs again" if off else "jobs: quiet, workers take nothing new; --off ends it")


@click.command("scale")
@click.argument("pool", type=TEXT)
@click.argument("workers", type=click.IntRange(0, MOST_WORKERS), required=False)
@click.option("--auto", is_flag=True, help="Give the choice back to the configuration.")
@pass_context
def scale_command(context: Context, pool: str, workers: int | None, auto: bool) -> None:
    """Have this many workers in a pool, until the next reload or restart. Busy ones leave after their job."""
    if (workers is None) != auto:
        fail("say a number of workers, or --auto", Exit.USAGE)
    answer = ask(_running_dir(context), {"do": "scale", "pool": pool, "workers": workers})
    if not answer["done"]:
        fail(str(answer["error"]), Exit.USAGE)
    output.echo(f"jobs: pool {pool} is to have {answer['wanted']} workers")


def _run_dir(context: Context) -> Path:
    return context.app.run_dir


def _running_dir(context: Context) -> Path:
    run_dir = _run_dir(context)
    if running(run_dir) is None:
        fail(f"no supervisor runs in {run_dir}", Exit.NOT_RUNNING)
    return run_dir


def _stop(run_dir: Path, how: str) -> None:
    pid = running(run_dir)
    if pid is None:
        fail(f"no supervisor runs in {run_dir}", Exit.NOT_RUNNING)
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        try:
            ask(run_dir, {"do": how}, timeout=5.0)
        except (NotRunning, TimeoutError):  # too busy to answer, or not yet listening: signals always arrive
            if running(run_dir) == pid:
                signal.pidfd_send_signal(handle, signal.SIGTERM if how == "stop" else signal.SIGQUIT)
        _wait_for_end(handle, run_dir)
    finally:
        os.close(handle)
    output.echo("jobs: stopped")


def _wait_for_end(handle: int, run_dir: Path) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    begin = time.monotonic()
    said = ""
    while not poll.poll(TELL_EVERY * 1000 if said or time.monotonic() - begin > 0.4 else 500):
        waiting = _waiting_for(run_dir)
        if waiting and waiting != said:
            output.echo(f"jobs: waiting for {waiting}")
        said = waiting or said


def _waiting_for(run_dir: Path) -> str:
    """`3 workers busy: send_email 12 s, …`"""
    busy = [worker for worker in read_board(run_dir).workers if worker.running and worker.header.phase is not Phase.STARTING]
    if not busy:
        return ""
    now = time.monotonic()
    jobs = sorted((entry for worker in busy for entry in worker.running), key=lambda entry: entry.started)
    named = ", ".join(f"{entry.job} {format_duration(round(entry.seconds(now)))}" for entry in jobs[:3])
    count = sum(worker.running_count for worker in busy)
    more = f" and {count - 3} more jobs" if count > 3 else ""
    return f"{len(busy)} {'worker' if len(busy) == 1 else 'workers'} busy: {named}{more}"
