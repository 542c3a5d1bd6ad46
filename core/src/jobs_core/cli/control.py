"""Commands to a running supervisor: stop, exit, restart, reload, quiet, scale."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..app import App
from ..errors import ConfigError, JobsError, LoadError
from ..operating.formatting import count
from ..scoreboard.layout import Phase
from ..scoreboard.state import read_board
from ..supervisor.control import NoAnswer, NotRunning, ask, number_here
from ..supervisor.pidfile import running
from ..supervisor.system.linux import stopped
from ..units import format_duration
from . import output
from .bounds import too_many
from .common import Context, confirm, exit_code, fail, pass_context
from .exits import Exit
from .run_directory import RunDirectory
from .start import give_up_option, ready_to_start, start_command, wait_option, warn_of_unserved
from .types import TEXT
from .waiting import waiting

MOST_WORKERS = 10_000


@click.command("stop")
@pass_context
def stop_command(context: Context) -> None:
    """Stop: take no new jobs, finish the running ones, and release the rest.

    Jobs that are still running after the pool's stop_timeout are killed, and return to their topics with no attempt
    counted. Returns once everything has ended, and says meanwhile what it is waiting for.
    """
    _stop(context.place.run_dir, "stop")


@click.command("exit")
@pass_context
def exit_command(context: Context) -> None:
    """Stop immediately: workers are killed, and the jobs they were running return to their topics."""
    _stop(context.place.run_dir, "exit")


@click.command("restart")
@click.option("--daemon/--foreground", default=True, help="Where the new supervisor runs (default: in the background).")
@wait_option
@give_up_option
@pass_context
@click.pass_context
def restart_command(ctx: click.Context, context: Context, daemon: bool, wait: float, give_up: bool) -> None:
    """Stop, wait until everything has ended, and start. To load new code without a gap, use `jobsctl reload`.

    Returns once the new workers are serving, or after --wait, and says what it is waiting for.
    Nothing is stopped that could not start again: with a broken configuration, or code that cannot be imported, nothing
    happens.
    """
    with _refused("restart"):
        place = _sound(context)
        ready_to_start(context)
        run_dir = place.run_dir
        runs = running(run_dir) is not None
        if runs:
            _importable(context.app)
    if runs:
        _stop(run_dir, "stop")
    ctx.invoke(start_command, daemon=daemon, wait=wait, give_up=give_up)


@click.command("reload")
@pass_context
def reload_command(context: Context) -> None:
    """Load new code and configuration without a gap in service.

    New workers start beside the old ones, which finish their jobs. If the new code cannot be imported, or its workers
    cannot boot, the reload is refused and the old code keeps running.
    """
    with _refused("reload"):
        _sound(context)
    effective = context.effective
    wish = {
        "do": "reload",
        "config": str(effective.file or ""),
        "directory": str(effective.directory),
        "settings": os.environ.get("JOBS_SETTINGS", ""),
    }
    run_dir = _running_dir(context)
    with waiting("the new code to be imported, and its workers to serve"):
        answer = ask(run_dir, wish, timeout=None)
    if not answer["done"]:
        fail(f"reload refused, the old code keeps running: {answer['error']}")
    output.echo(f"jobs: reloaded, generation {answer['generation']} is serving")
    warn_of_unserved(run_dir, answer["generation"])


@click.command("quiet")
@click.option("--off", is_flag=True, help="Take jobs again.")
@pass_context
def quiet_command(context: Context, off: bool) -> None:
    """Take no new jobs on this machine and finish the running ones; the supervisor stays."""
    _ask(_running_dir(context), {"do": "quiet", "on": not off})
    output.echo("jobs: workers take jobs again" if off else "jobs: quiet, workers take no new jobs; --off ends it")


@click.command("scale")
@click.argument("pool", type=TEXT)
@click.argument("workers", type=click.IntRange(min=0), required=False)
@click.option("--auto", is_flag=True, help="Return the pool to its configured size.")
@click.option("--force", is_flag=True, help="Allow more workers than the machine has cores and memory for.")
@pass_context
def scale_command(context: Context, pool: str, workers: int | None, auto: bool, force: bool) -> None:
    """Set the number of workers in a pool, until the next reload or restart. Busy workers end after their job.

    It applies to the machine where you run it. `jobsctl machines scale` sets a lasting size for several machines.

    More workers than the machine can probably run need a confirmation, or `--force`. The limits are 32 workers per core, and as
    many workers as fit into the free memory at their present size. A number that the configuration allows is never too many.
    """
    if (workers is None) != auto:
        fail("give a number of workers, or --auto", Exit.USAGE)
    if workers is not None and workers > MOST_WORKERS:
        raise click.BadParameter(f"{workers:,}: a pool has at most {MOST_WORKERS:,}", param_hint="WORKERS")
    run_dir = _running_dir(context)
    if workers is not None and not force and (doubt := too_many(read_board(run_dir, most_entries=0), pool, workers)):
        confirm(f"{doubt}. Start them anyway?", False, "--force")
    answer = _ask(run_dir, {"do": "scale", "pool": pool, "workers": workers})
    if not answer["done"]:
        fail(str(answer["error"]), Exit.USAGE)
    output.echo(f"jobs: pool {pool} is set to {count(answer['wanted'], 'worker')}")


def _sound(context: Context) -> RunDirectory:
    """Return the supervisor's run directory; raise ConfigError if the configuration is invalid or missing.

    Without a file, the defaults would name another backend.
    """
    _ = context.effective
    if context.place.trouble and not context.place.moved:
        raise ConfigError(context.place.trouble)
    return context.place


def _importable(app: App) -> None:
    """Import the application in a child, because the import may end its process. Raises LoadError if the import fails."""
    from ..loaders import importing  # late: stop, quiet and scale import no worker code
    from ..schedule import entries
    from ..worker.main import prepare
    from .in_child import IMPORT_TIMEOUT, Say, TookTooLong, run_in_child

    module = problem = ""

    def work(say: Say) -> None:
        importing.on_import = lambda name: say({"module": name})
        try:
            prepare(app)
            entries(app)
        except JobsError as error:
            say({"problem": str(error)})

    def hear(said: dict[str, Any]) -> None:
        nonlocal module, problem
        module, problem = said.get("module", module), said.get("problem", problem)

    try:
        how = run_in_child(work, hear, "the new code to be imported", lambda: IMPORT_TIMEOUT)
    except TookTooLong as error:
        remedy = "if it is only slow, `stop` and `start` wait for it"
        raise LoadError(importing.not_imported(module, IMPORT_TIMEOUT, error.place, remedy)) from None
    if how or problem:
        raise LoadError(problem or importing.ended_importing(module, how))


def _running_dir(context: Context) -> Path:
    run_dir = context.place.run_dir
    if running(run_dir) is None:
        fail(f"no supervisor runs in {run_dir}", Exit.NOT_RUNNING)
    return run_dir


def _ask(run_dir: Path, message: dict[str, Any]) -> dict[str, Any]:
    with waiting(f"the supervisor, process {running(run_dir)}, to answer"):
        return ask(run_dir, message)


@contextlib.contextmanager
def _refused(what: str) -> Iterator[None]:
    """Print an error of the block, add that all processes keep running, and end the command."""
    try:
        yield
    except JobsError as error:
        for line in str(error).splitlines():
            output.echo(f"jobs: {line}", err=True)
        fail(f"{what} refused: everything keeps running as it is", exit_code(error))


def _stop(run_dir: Path, how: str) -> None:
    told = running(run_dir)
    if told is None:
        fail(f"no supervisor runs in {run_dir}", Exit.NOT_RUNNING)
    pid = number_here(run_dir, told)
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with waiting(lambda: _waiting_for(run_dir, pid)):
            try:
                ask(run_dir, {"do": how}, timeout=5.0)
            except (NotRunning, NoAnswer):  # the supervisor is too busy to answer, or not yet listening: signals always arrive
                if running(run_dir) == told:
                    signal.pidfd_send_signal(handle, signal.SIGTERM if how == "stop" else signal.SIGQUIT)
            select.select([handle], [], [])
    finally:
        os.close(handle)
    output.echo("jobs: stopped")


def _waiting_for(run_dir: Path, pid: int) -> str:
    """Return for what `stop` is waiting, such as `3 workers busy: send_email 12 s, …`."""
    board = read_board(run_dir)
    busy = [worker for worker in board.workers if worker.running and worker.header.phase is not Phase.STARTING]
    if stopped(pid):
        return f"process {pid}, which is stopped (SIGSTOP) and receives nothing: `kill -CONT {pid}` wakes it"
    if not busy:
        return f"the end of process {pid}"
    now = time.monotonic()
    jobs = sorted((entry for worker in busy for entry in worker.running), key=lambda entry: entry.started)
    named = ", ".join(f"{entry.job} {format_duration(round(entry.seconds(now)))}" for entry in jobs[:3])
    left = sum(worker.running_count for worker in busy) - 3
    more = f" and {count(left, 'more job')}" if left > 0 else ""
    return f"{count(len(busy), 'worker')} busy: {named}{more}"
