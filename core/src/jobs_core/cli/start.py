"""`jobsctl start`: check what a person may have got wrong, then turn into the supervisor."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from ..app import private_directory
from ..errors import ConfigError
from ..events import TopicUnserved
from ..logs import sentence
from ..scoreboard.state import BACKLOG, STATE, Backlog, SupervisorState, TopicState, read
from ..supervisor.alerts import blind
from ..supervisor.pidfile import running
from . import output
from .common import Context, fail, pass_context
from .exits import Exit
from .preflight import preflight

DAEMON_LOG = "jobs.log"

COUNT_PATIENCE = 1.5
"""Seconds that a command waits for the first counts, to warn of topics that nobody serves."""

START_PATIENCE = 60.0
"""Seconds that `start --daemon` waits for the word that it serves; the supervisor itself waits out a backend that is away."""


@click.command("start")
@click.option("--daemon", is_flag=True, help="Come back when it serves, and leave it running in the background.")
@click.option(
    "--reload", is_flag=True, help="For development: reload when a .py or .toml file changes, and log each job that is done."
)
@pass_context
def start_command(context: Context, daemon: bool, reload: bool) -> None:
    """Start the supervisor and its workers: in the foreground, logging to standard error or to logs.file.

    In the background (--daemon) it logs to logs.file, or jobs.log in the run directory. Where one runs already,
    nothing happens and the exit code is 0: a crontab line may say it every minute.
    """
    _open_what_is_closed()
    config = context.effective.config
    if daemon and reload:
        fail("--reload is for development and runs in the foreground: leave out --daemon", Exit.USAGE)
    run_dir = config.base_dir / config.run_dir
    pid = running(run_dir)
    if pid is not None:
        output.echo(f"jobs: a supervisor runs here already: process {pid}, run directory {run_dir}", err=True)
        return
    ready_to_start(context)
    run_dir = private_directory(run_dir)
    command = [sys.executable, "-m", "jobs_core.supervisor"]
    if context.effective.file is not None:
        command += ["--config", str(context.effective.file)]
    if reload:
        from .reloading import watch  # late: watchfiles is there for development only

        watch(config.base_dir, run_dir)
        command += ["--developing", "yes"]
    if not daemon:
        _become(command)
    if config.logs.file is None:
        os.environ["JOBS_LOGS__FILE"] = str(run_dir / DAEMON_LOG)
    _in_the_background(command, run_dir)


def ready_to_start(context: Context) -> None:
    """Find what would keep a supervisor from starting, short of importing the application; raises ConfigError, PluginError."""
    preflight(context.app, address=False)
    private_directory(context.app.run_dir)
    backend = context.app.new_backend()
    if "multiprocess" not in backend.features:
        raise ConfigError(
            f"backend: {backend.name}:// lives in one process, and start makes many: "
            "choose another backend (sqlite:///jobs.db needs no server), or run one worker with `jobsctl worker`"
        )
    for problem in blind(context.app.config, backend):
        raise ConfigError(problem)


def warn_of_unserved(run_dir: Path, generation: int = 1) -> None:
    """Say which topics nobody serves, as soon as the housekeeper of this generation has counted."""
    deadline = time.monotonic() + COUNT_PATIENCE
    while True:
        backlog, it = read(run_dir / BACKLOG, Backlog), read(run_dir / STATE, SupervisorState)
        counted = backlog and it and backlog.pid == it.housekeeper_pid and backlog.generation >= generation
        if backlog and counted and (backlog.answers or backlog.error):
            break
        if time.monotonic() > deadline:  # the backend is slow, or away: the log will tell
            return
        time.sleep(0.02)
    for topic, senders in backlog.unserved.items():
        waiting = backlog.topics.get(topic, TopicState()).waiting
        output.echo(f"jobs: {sentence(TopicUnserved(topic, waiting, senders))}", err=True)


def _open_what_is_closed() -> None:
    """Some who start services close their standard descriptors: the next files opened here would be taken for them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _become(command: list[str]) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it was closed
            stream.flush()
    os.execv(command[0], command)


def _in_the_background(command: list[str], run_dir: Path) -> None:
    """Fork, detach, and wait for the word that it serves."""
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
        os.execv(command[0], [*command, "--ready-fd", str(writer)])
    os.close(writer)
    os.wait()
    with os.fdopen(reader, "rb") as pipe:
        if not select.select([pipe], [], [], START_PATIENCE)[0]:
            fail(
                f"process {running(run_dir)} has started and does not serve after {START_PATIENCE:g} s; it goes on trying: "
                "`jobsctl status` says what it waits for, `jobsctl exit` ends it"
            )
        said = pipe.read().decode()
    if said == "ready":
        output.echo(f"jobs: started, process {running(run_dir)}; `jobsctl status` shows it, `jobsctl stop` ends it")
        warn_of_unserved(run_dir)
    elif said:
        for line in said.splitlines():
            output.echo(f"jobs: {line}", err=True)
        raise click.exceptions.Exit(Exit.USAGE)
    else:
        fail("the supervisor ended before it served; its log says why")
