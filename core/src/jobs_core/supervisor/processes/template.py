"""The template: a process that imports the application once, and starts children by a double fork.

A worker's first parent exits at once, so that the supervisor, the nearest subreaper above, becomes its parent: the kernel
reports the worker's end to it, and workers outlive the template.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ... import boundary
from ...config import Config
from ...errors import JobsError
from ...failpoints import failpoint
from ...loaders import importing
from ...plugins import Plugins
from ..system import linux
from ..system.channel import Channel
from ..system.messages import Failed, FailedToStart, Forked, Importing, TemplateReady, WorkerSpec
from . import child_setup, dashboard_process, exit_functions, housekeeper_process, worker_process
from .child_setup import Ends
from .worker_process import Made

HOUSEKEEPER = ""
"""The pool name that stands for the housekeeper."""

DASHBOARD = "\0dashboard"
"""The pool name that stands for the dashboard."""

SPARE = "\0spare"
"""The pool name that stands for a spare template, which replaces a killed one: the code on disk may have changed."""

ANSWERED = 64
"""Exit code of the intermediate process once it has reported the outcome to the supervisor."""


def main(ends: Ends, config: Config, run_dir: Path, supervisor: int) -> NoReturn:
    """Run a template until its control channel ends."""
    code = 1
    try:
        child_setup.set_up("template", "template", ends, config.logs, supervisor)
        Template(Channel[WorkerSpec].of(ends.control, WorkerSpec), ends.log, config, run_dir, supervisor).run()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        exit_functions.exit_process(code)
    raise AssertionError  # pragma: no cover - exit_process does not return


def run_spare(spec: WorkerSpec, ends: Ends, config: Config, run_dir: Path, supervisor: int, made: Made | None) -> NoReturn:
    """Run a template that was forked from another, with the application already imported."""
    try:
        child_setup.set_up("template spare", "template", ends, config.logs, supervisor)
        Template(Channel[WorkerSpec].of(ends.control, WorkerSpec), ends.log, config, run_dir, supervisor, made).obey()
    except BaseException:
        traceback.print_exc()
    finally:
        exit_functions.exit_process(0)
    raise AssertionError  # pragma: no cover - exit_process does not return


class Template:
    """The work of a template. It has one thread and starts no other, since a fork would not copy it."""

    def __init__(
        self, channel: Channel[WorkerSpec], log: int, config: Config, run_dir: Path, supervisor: int, made: Made | None = None
    ) -> None:
        self._channel = channel
        self._log = log
        self._config = config
        self._run_dir = run_dir
        self._supervisor = supervisor
        self._made = made

    def run(self) -> None:
        importing.on_import = lambda module: self._channel.send(Importing(module))
        try:
            self._get_ready()
        except JobsError as error:
            self._channel.send(Failed(str(error)[:8000]))
            return
        except BaseException as error:
            self._channel.send(Failed(f"{boundary.told(error)}\n{boundary.traceback_of(error)}"[:8000]))
            return
        self.obey()

    def obey(self) -> None:
        """Start children until the channel ends."""
        while True:
            spec, descriptors = self._channel.receive()
            if spec is None:
                return
            self._make(spec, Ends(*descriptors))

    def _get_ready(self) -> None:
        """Import the application; report whether this process can be forked, and which brokers plugins want run."""
        pools = self._config.pools.values()
        preload = any(pool.preload for pool in pools)
        plugins = None
        if preload:
            self._made = worker_process.load(self._config)
            plugins = self._made.app.plugins
            self._made.app.close()  # no connection must cross a fork
        fit, found = self._fitness()
        if plugins is not None:
            plugins.log_troubles()
        brokers: list[list[str]] = []
        if self._config.broker.embedded:  # a broker that cannot be started is reported, not left out
            brokers = (plugins or Plugins.discover(self._config.prefer)).broker_commands(self._config)
        gc.collect()
        gc.freeze()  # the collector would write to every object, and so copy every shared page
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        self._channel.send(TemplateReady(preload, fit, found, brokers))

    def _fitness(self) -> tuple[bool, list[str]]:
        """Return whether this process may be forked, and the names of the threads that may prevent it."""
        found = linux.threads()
        python = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        allowed = all(pool.preload_allow_native for pool in self._config.pools.values() if pool.preload)
        return not found or (allowed and not python), python or found

    def _make(self, spec: WorkerSpec, ends: Ends) -> None:
        """Start a child. Every request is answered: `Forked` by the intermediate process, else `FailedToStart`."""
        try:
            middle = os.fork()
        except OSError as error:
            self._failed_to_start(spec, f"cannot fork: {error.strerror}")
        else:
            if middle == 0:
                self._fork_again(spec, ends)
            _, status = os.waitpid(middle, 0)
            if os.waitstatus_to_exitcode(status) != ANSWERED:
                self._failed_to_start(spec, "the process between it and the template was killed")
        ends.close()

    def _fork_again(self, spec: WorkerSpec, ends: Ends) -> NoReturn:
        """Run the intermediate process, which is the child's parent for an instant."""
        failpoint("birth.between")
        try:
            child = os.fork()
        except OSError as error:
            self._failed_to_start(spec, f"cannot fork: {error.strerror}")
            os._exit(ANSWERED)
        if child:
            failpoint("birth.untold")
            if not self._channel.send(Forked(spec.owner, child)):
                os.kill(child, signal.SIGKILL)  # no process would know of it
                os._exit(1)
            failpoint("birth.told")
            os._exit(ANSWERED)
        failpoint("birth.child")
        try:
            self._channel.close()
            os.close(self._log)
            role_of(spec)(spec, ends, self._config, self._run_dir, self._supervisor, self._made)
        finally:
            os._exit(1)

    def _failed_to_start(self, spec: WorkerSpec, error: str) -> None:
        self._channel.send(FailedToStart(spec.owner, error))


def role_of(spec: WorkerSpec) -> Callable[..., NoReturn]:
    """Return the main function of the child that a specification describes."""
    roles = {HOUSEKEEPER: housekeeper_process.main, DASHBOARD: dashboard_process.main, SPARE: run_spare}
    return roles.get(spec.pool, worker_process.main)
