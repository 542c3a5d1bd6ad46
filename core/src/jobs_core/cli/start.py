"""`jobsctl start`: check for likely mistakes in the configuration, then become the supervisor."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from .. import private
from ..errors import ConfigError
from ..escapes import in_one_line
from ..events import TopicUnserved
from ..scoreboard.state import BACKLOG, STATE, Backlog, SupervisorState, TopicState, read
from ..scoreboard.view import waits_for
from ..supervisor.housekeeper.alerts import ineffective_limits
from ..supervisor.pidfile import running
from ..units import format_duration
from . import output
from .common import Context, fail, pass_context
from .exits import Exit
from .preflight import preflight
from .types import DURATION
from .waiting import waiting

DAEMON_LOG = "jobs.log"

COUNT_PATIENCE = 1.5
"""Seconds that a command waits for the housekeeper's first counts, to warn of topics without a pool."""


wait_option = click.option(
    "--wait",
    type=DURATION,
    default=30.0,
    metavar="TIME",
    help="How long --daemon waits for the workers (default: 30s); then the exit code is 69.",
)
give_up_option = click.option("--give-up", is_flag=True, help="With --daemon: stop it then, instead of letting it keep trying.")


@click.command("start")
@click.option(
    "--daemon", is_flag=True, help="Return once workers are serving, and leave the supervisor running in the background."
)
@wait_option
@give_up_option
@click.option(
    "--reload", is_flag=True, help="For development: reload when a .py or .toml file changes, and log each job that is done."
)
@pass_context
def start_command(context: Context, daemon: bool, wait: float, give_up: bool, reload: bool) -> None:
    """Start the supervisor and its workers: in the foreground, logging to standard error or to logs.file.

    In the background (--daemon) it logs to logs.file, or jobs.log in the run directory. If a supervisor is already
    running, nothing happens and the exit code is 0: a crontab line may run this every minute. If the backend does not
    answer, the supervisor waits for it: --daemon says so, and returns after --wait.
    """
    _open_standard_descriptors()
    config = context.effective.config
    if daemon and reload:
        fail("--reload is for development and runs in the foreground: leave out --daemon", Exit.USAGE)
    run_dir = config.base_dir / config.run_dir
    pid = running(run_dir)
    if pid is not None:
        output.echo(f"jobs: a supervisor is already running here: process {pid}, run directory {run_dir}", err=True)
        return
    ready_to_start(context)
    run_dir = private.directory_of_installation(run_dir)
    command = [sys.executable, "-m", "jobs_core.supervisor"]
    if context.effective.file is not None:
        command += ["--config", str(context.effective.file)]
    if reload:
        from .reloading import watch  # late: watchfiles is installed for development only

        watch(config.base_dir, run_dir)
        command += ["--developing", "yes"]
    if not daemon:
        if config.logs.file is not None:
            output.echo(f"jobs: running in the foreground, logging to {config.base_dir / config.logs.file}", err=True)
        _become(command)
    log = config.base_dir / (config.logs.file or run_dir / DAEMON_LOG)
    if config.logs.file is None:
        os.environ["JOBS_LOGS__FILE"] = str(log)
    _in_the_background(command, run_dir, log, wait, give_up)


def ready_to_start(context: Context) -> None:
    """Raise ConfigError or PluginError for anything that would keep a supervisor from starting.

    The application is not imported.
    """
    preflight(context.app, address=False)
    private.directory_of_installation(context.app.run_dir)
    backend = context.app.new_backend()
    if "multiprocess" not in backend.features:
        raise ConfigError(
            f"backend: {backend.name}:// lives in one process, and start creates many: choose another backend "
            "(sqlite:///jobs.db needs no server), or run one worker with `jobsctl worker`"
        )
    for problem in ineffective_limits(context.app.config, backend):
        raise ConfigError(problem)


def warn_of_unserved(run_dir: Path, generation: int = 1) -> None:
    """Warn of topics that no pool serves, once the housekeeper of this generation has counted jobs."""
    deadline = time.monotonic() + COUNT_PATIENCE
    while True:
        backlog, it = read(run_dir / BACKLOG, Backlog), read(run_dir / STATE, SupervisorState)
        counted = backlog and it and backlog.pid == it.housekeeper_pid and backlog.generation >= generation
        if backlog and counted and (backlog.answers or backlog.error):
            break
        if time.monotonic() > deadline:  # the backend is slow or away: the log will report them
            return
        time.sleep(0.02)
    for topic, senders in backlog.unserved.items():
        waiting = backlog.topics.get(topic, TopicState()).waiting
        output.echo(f"jobs: {TopicUnserved(topic, waiting, senders)}", err=True)


def _open_standard_descriptors() -> None:
    """Open standard descriptors that the parent has closed, because the next opened files would otherwise get their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _become(command: list[str]) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: the parent had closed it
            stream.flush()
    os.execv(command[0], command)


def _in_the_background(command: list[str], run_dir: Path, log: Path, wait: float, give_up: bool) -> None:
    """Fork, detach, and wait at most `wait` seconds for the report that workers are serving."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(reader)
        os.set_inheritable(writer, True)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.close(nothing)
        os.write(writer, f"{os.getpid()}\n".encode())
        os.execv(command[0], [*command, "--ready-fd", str(writer)])
    os.close(writer)
    os.wait()
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        pid = int(pipe.readline())
        with waiting(lambda: _waits_for(run_dir)):
            told = bool(select.select([pipe], [], [], wait)[0])
        if not told:
            _not_in_time(run_dir, pid, log, wait, give_up)
        with waiting(lambda: _waits_for(run_dir)):  # until the supervisor serves or reports an error
            said = pipe.read().decode()
    if said == "ready":
        output.echo(f"jobs: started, process {running(run_dir)}, which logs to {log}")
        output.echo("jobs: `jobsctl status` shows it, `jobsctl stop` stops it")
        warn_of_unserved(run_dir)
    elif said:
        for line in said.splitlines():
            output.echo(f"jobs: {line}", err=True)
        raise click.exceptions.Exit(Exit.USAGE)
    else:
        fail(f"the supervisor exited before workers were serving; {log} says why")


def _not_in_time(run_dir: Path, pid: int, log: Path, wait: float, give_up: bool) -> NoReturn:
    reason = _waits_for(run_dir)
    if give_up:
        _end(run_dir, pid)
        fail(
            f"no workers were serving within {format_duration(wait)}, so it was stopped; it was waiting for {reason}",
            Exit.UNAVAILABLE,
        )
    fail(
        f"process {pid} is not serving after {format_duration(wait)}. It keeps trying, and logs to {log}: "
        f"`jobsctl status` shows it, `jobsctl exit` stops it. It is waiting for {reason}",
        Exit.UNAVAILABLE,
    )


def _end(run_dir: Path, pid: int) -> None:
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGQUIT if running(run_dir) == pid else signal.SIGTERM)
        with waiting(f"the end of process {pid}"):
            select.select([handle], [], [])
    finally:
        os.close(handle)


def _waits_for(run_dir: Path) -> str:
    it = read(run_dir / STATE, SupervisorState)
    return in_one_line(waits_for(it if it and it.pid == running(run_dir) else None, read(run_dir / BACKLOG, Backlog)))
