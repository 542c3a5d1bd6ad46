"""A worker process from its first instruction to its last, as the supervisor's child."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from ... import boundary, schedule, soundness
from ...app import App
from ...config import Config
from ...errors import BackendError, ConfigError, LoadError, PluginError
from ...events import JobTooFast
from ...loaders import importing
from ...loaders.base import Bootstrapper, add_to_path
from ...scoreboard.layout import MODES, Phase
from ...scoreboard.state import STACKS, WORKERS
from ...scoreboard.writer import FileScoreboard
from ...worker import log_pipe, stacks
from ...worker.isolation import Isolation
from ...worker.main import Worker, prepare
from ...worker.settings import Listener
from ..housekeeper import alerts
from ..system.channel import Channel
from ..system.messages import (
    Due,
    Exiting,
    Failed,
    FromChild,
    Importing,
    RanTooFast,
    Ready,
    Serve,
    Stop,
    StopReserving,
    ToWorker,
    WorkerSpec,
)
from . import child_setup, exit_functions
from .child_setup import Ends
from .exit_codes import WorkerExit

EXECUTORS = {mode: f"jobs_core.worker.executors.{mode.replace('async', 'asyncio')}" for mode in MODES}


class Made(Struct, frozen=True):
    """A template's result: the application, with its framework set up and its jobs imported."""

    app: App
    bootstrapper: Bootstrapper | None


def load(config: Config) -> Made:
    """Find the plugins and import the application; raises PluginError, LoadError or ConfigError.

    ConfigError is also raised for an invalid schedule, alert channel or dashboard, so that a start or reload is refused, and
    no helper dies again and again. Modules that every worker needs are imported, too: once, before the fork, and shared.
    """
    importlib.invalidate_caches()  # the same name may be another directory by now
    add_to_path(config.base_dir)
    app = App(config)
    app.warns_of_unserved = False  # the housekeeper warns
    made = Made(app, prepare(app))
    app.new_backend()
    schedule.entries(app)
    alerts.channels(config, app.plugins)
    if config.http.dashboard:
        app.plugins.dashboard(config)
    for pool in config.pools.values():
        importlib.import_module(EXECUTORS[pool.mode])
    log_pipe.take_over()  # the application may have set up its own logging
    return made


def main(spec: WorkerSpec, ends: Ends, config: Config, run_dir: Path, supervisor: int, made: Made | None) -> NoReturn:
    """Run a worker until it stops. `made` comes from the template; None: import the application here."""
    channel = None
    try:
        child_setup.set_up(f"worker {spec.pool} starting", spec.owner, ends, config.logs, supervisor)
        channel = Channel[ToWorker].of(ends.control, ToWorker)
        code = _WorkerProcess(spec, channel).run(config, run_dir, made)
    except BaseException:
        traceback.print_exc()
        code = WorkerExit.FAILED
    if channel is not None:
        channel.send(Exiting())
    exit_functions.exit_process(code, exit_functions.PATIENCE)
    raise AssertionError  # pragma: no cover - exit_process does not return


class _WorkerProcess(Listener):
    """A worker's communication with the supervisor."""

    def __init__(self, spec: WorkerSpec, channel: Channel[ToWorker]) -> None:
        self._spec = spec
        self._channel = channel
        self._serving = not spec.standby
        self._opened = False
        self._worker: Worker | None = None

    def _make_worker(self, config: Config, run_dir: Path, made: Made | None) -> Worker:
        """Arm the stack file, publish a scoreboard, and import the application unless the template has done so."""
        spec = self._spec
        pool = config.pools[spec.pool]
        file = run_dir / WORKERS / spec.owner
        stacks.arm(file.with_name(file.name + STACKS))
        self._board = FileScoreboard(
            file,
            owner=spec.owner,
            pool=spec.pool,
            generation=spec.generation,
            mode=pool.mode,
            slots=1 if pool.mode == "sync" else pool.concurrency,
        )
        if made is None:
            importing.on_import = lambda module: self._tell(Importing(module))
            made = load(config)
        return Worker(
            made.app,
            spec.pool,
            pool,
            made.bootstrapper,
            owner=spec.owner,
            keeps_house=False,
            max_jobs=spec.max_jobs,
            quiet=spec.standby,
            board=self._board,
            isolation=Isolation(run_dir / f"{spec.pool}.suspects"),
            listener=self,
        )

    def run(self, config: Config, run_dir: Path, made: Made | None) -> int:
        try:
            self._worker = self._make_worker(config, run_dir, made)
            soundness.watch([self._channel.fileno()])
            threading.Thread(target=self._obey, args=(self._worker,), name="jobs-control", daemon=True).start()
            self._worker.run()
        except Exception as error:
            if self._opened:
                raise
            # These errors name their fix: a traceback would add nothing.
            if isinstance(error, BackendError | ConfigError | LoadError | PluginError):
                self._tell(Failed(str(error)[:4000]))
            else:
                self._tell(Failed(boundary.told(error)[:4000]))
                traceback.print_exc()
            return WorkerExit.CANNOT_BOOT
        return WorkerExit.FINE

    def opened(self) -> None:
        """Report that the backend is open: from now on the worker serves, or stands by."""
        self._opened = True
        self._show(Phase.SERVING if self._serving else Phase.STANDBY)
        self._tell(Ready())

    def due(self, why: str) -> None:
        self._tell(Due(why))

    def too_fast(self, report: JobTooFast) -> None:
        """Pass the report to the supervisor, whose housekeeper sends alerts."""
        self._tell(RanTooFast(report.job, report.topic, report.seconds, report.min_time, report.more))

    def abandoned(self, replace: bool) -> None:
        """Report that the process ends by its own decision, or its end would count as a crash of the jobs that still run."""
        self._tell(Exiting())

    def _obey(self, worker: Worker) -> None:
        """Obey the control channel. Its end means that the supervisor is dead: kill this process and all that it started."""
        while True:
            order, _ = self._channel.receive()
            match order:
                case None:
                    os.killpg(0, signal.SIGKILL)
                    sys.exit(1)
                case Stop(timeout):
                    self._show(Phase.STOPPING)
                    worker.courier.stop(timeout)
                    worker.give_up_lifespan()
                case StopReserving():
                    worker.courier.quiet()
                    self._serving = False
                    self._show(Phase.QUIET)
                case Serve():
                    self._serving = True
                    worker.courier.serve()
                    if self._opened:
                        self._show(Phase.SERVING)

    def _show(self, phase: Phase) -> None:
        self._board.phase(phase)
        child_setup.title(f"worker {self._spec.pool} {phase.name.lower()}")

    def _tell(self, message: FromChild) -> None:
        self._channel.send(message)
