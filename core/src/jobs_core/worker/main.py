"""One worker process: combine the application, a backend, a courier and an executor, and run them to the end."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from .. import boundary, events, guard
from ..app import CHECKPOINTS, App, set_current_app
from ..backends.base import Backend
from ..config import Pool
from ..errors import JobDefinitionError, LoadError, NotSupported
from ..ids import new_token
from ..limiting import define, limits_keys
from ..loaders.base import Bootstrapper, JobLoader, load_error
from ..options import DEFAULT_TOPIC, refuse_never
from ..plugins import guarded
from ..registry import AnyJob
from ..runs import context
from ..runs.context import WorkerInfo
from ..runs.running import jobs_begin, jobs_end
from ..scoreboard.writer import NOWHERE, Scoreboard
from . import on_end
from .courier import Courier
from .decoder import Decoder
from .executors.base import Executor
from .isolation import Isolation
from .kept_logs import kept_logs, kept_topics
from .middleware import Middleware
from .overlapping import OverlappingCourier
from .run_queue import RunQueue
from .settings import CourierSettings, Listener

if TYPE_CHECKING:
    from .lifespan import Lifespan

logger = logging.getLogger("jobs.worker")

GIL_SWITCH_INTERVAL = 0.0005
"""Seconds after which a busy job yields to the courier: a tenth of Python's default, for settling and heartbeats."""


def prepare(app: App, *, uses_backend: bool = True) -> Bootstrapper | None:
    """Import the framework and the jobs that a worker needs, and compile the jobs' signatures.

    With `uses_backend=False`, jobs may need features that the backend lacks. Raises PluginError. Raises LoadError, also for
    a parameter that no message could fill, and for code that calls sys.exit. If an import forks and the child returns from
    the import, the child ends here: otherwise it would become a second worker or template.
    """
    process = os.getpid()
    try:
        return _prepare(app, uses_backend)
    finally:
        if os.getpid() != process:
            os._exit(0)


def _prepare(app: App, uses_backend: bool) -> Bootstrapper | None:
    config = app.config
    app.payloads.check()
    bootstrapper: Bootstrapper | None = None
    if config.framework:
        bootstrapper = app.plugins.choose("jobs_framework_bootstrappers", config.framework, "framework")(config)
        assert bootstrapper is not None
        with _step(app, "setup"):
            bootstrapper.setup()
    name = _loader(app)
    loader: JobLoader = app.plugins.choose("jobs_job_loaders", name, "loader")(config)
    with _step(app, "load", name):
        loader.load()
    if app.config.webhooks:
        from ..webhooks.job import register  # late: most applications send none

        register(app)
    if bootstrapper is not None:
        with _step(app, "before_fork"):
            bootstrapper.before_fork()
    problems = [problem for job in app.registry for problem in _problems(app, job)] + on_end.problems(app)
    problems += _unsupported(app) if uses_backend else []
    if problems:
        raise LoadError("\n".join(problems))
    return bootstrapper


def _problems(app: App, job: AnyJob) -> list[str]:
    """Return the problems of a job: a message cannot fill its parameters, no provider can inject them, options contradict."""
    topic = DEFAULT_TOPIC if job.options.topic is UNSET else job.options.topic
    try:
        refuse_never(job.name, job.options, app.config.topic(topic))
        problems = [str(problem) for problem in job.arguments.problems]
        if job.injections:
            from ..injection.resolving import Plan  # late: most applications inject nothing

            Plan.of(job.injections, job.name, is_async=job.is_async, function=job.function)
    except JobDefinitionError as error:
        return [str(error)]
    return problems


def _unsupported(app: App) -> list[str]:
    """Return the problem of resumable jobs on a backend that cannot store their cursors."""
    resumable = next((job for job in app.registry if job.options.resumable is True), None)
    if resumable is None:
        return []
    try:
        app.require(*CHECKPOINTS)
    except NotSupported as error:
        return [f"{resumable.name}: {error}"]
    return []


@contextmanager
def _step(app: App, step: str, loader: str = "") -> Iterator[None]:
    """Guard a call of a framework's plugin or a loader: any error becomes one that names the step and the plugin."""
    hook, name = ("jobs_job_loaders", loader) if loader else ("jobs_framework_bootstrappers", app.config.framework or "")
    plugin = app.plugins.provider(hook, name)

    def error_for(error: BaseException) -> LoadError:
        ends = isinstance(error, SystemExit)
        when = "" if step in ("after_fork", "lifespan") else " when it is imported"
        what = f"the application ends the process{when}" if ends else "the application cannot be prepared"
        who = f", in {step} of {plugin}" if plugin else ""
        return load_error(f"{what}{who}", error)

    with guard.calling(plugin, step, error_for), guard.without_stdout():
        yield


def _loader(app: App) -> str:
    """Return the name of the loader: the configured one, else the framework's own, else the built-in one."""
    name, framework = app.config.loader, app.config.framework
    if name is None and framework in app.plugins.provided("jobs_job_loaders"):
        name = framework
    return name or "modules"


class Worker(Listener):
    """A worker of one pool. `run` occupies the main thread; its caller handles signals, see `stop_signals`.

    A job that ignores its timeout ends only with the process, which the listener may restart.
    """

    def __init__(
        self,
        app: App,
        pool_name: str,
        pool: Pool,
        bootstrapper: Bootstrapper | None,
        *,
        owner: str | None = None,
        keeps_house: bool = True,
        drain: bool = False,
        max_jobs: int = 0,
        quiet: bool = False,
        board: Scoreboard = NOWHERE,
        isolation: Isolation | None = None,
        listener: Listener | None = None,
        backend: Backend | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.owner = owner or f"{os.uname().nodename}-{os.getpid()}-{new_token(4)}"
        self._app = app
        self._bootstrapper = bootstrapper
        self._listener = listener or Listener()
        self._told_to_stop = False
        self._lifespan_changes: Lifespan | None = None  # while it is being entered or left
        self.info = WorkerInfo(
            self.owner, pool_name, tuple(pool.topics), pool.mode, 1 if pool.mode == "sync" else pool.concurrency
        )
        backend = backend or app.new_backend()
        if board is not NOWHERE:
            app.time_pushes(functools.partial(board.note_call, "push"))
        run_queue = RunQueue(backend.interrupt)
        middleware = Middleware(app.plugins, bootstrapper)
        self._executor = _executor(pool, run_queue, middleware, board)
        settings = CourierSettings(
            topics=pool.topics,
            lease=float(app.config.lease),
            stop_timeout=float(pool.stop_timeout),
            timeout_grace=float(pool.timeout_grace),
            keeps_house=keeps_house,
            drain=drain,
            max_jobs=max_jobs,
            logs_done=bool(app.config.logs.done),
            starts_quiet=quiet,
            limits_keys=frozenset(topic for topic in pool.topics if limits_keys(app.config, topic)),
            defines=functools.partial(define, config=app.config) if keeps_house else None,
            cleans=app.clean_payloads_soon if keeps_house and app.payloads.store is not None else None,
        )
        kind = OverlappingCourier if backend.overlaps and not drain else Courier
        self.courier = kind(backend, self.owner, self._executor, decoder or Decoder(app), settings, self, board, isolation)

    def run(self) -> None:
        """Serve until stopped. Raises the error that made the courier fail. If jobs had to be abandoned, the process ends."""
        sys.setswitchinterval(GIL_SWITCH_INTERVAL)
        set_current_app(self._app)
        context.worker_app = self._app
        if self._bootstrapper is not None:
            with _step(self._app, "after_fork"):
                self._bootstrapper.after_fork()
        try:
            with self._lifespan() as entered, self._injected_values():
                if entered:
                    self._serve()
        finally:
            self._executor.close()
        self._tell("jobs_worker_stopping")
        events.emit(events.WorkerStopped(self.owner, self.courier.done, self.courier.failed))
        self._app.close()
        if self.courier.failure:
            raise self.courier.failure

    def _serve(self) -> None:
        self._tell("jobs_worker_started")
        events.emit(events.WorkerStarted(*_fields(self.info)))
        jobs_begin()
        self.courier.start()
        try:
            with kept_logs(kept_topics(self._app.config, self.info.topics)):
                self._executor.main()
        finally:
            jobs_end()
            self.courier.stop()
            self.courier.join()

    def stop(self, timeout: float | None = None) -> None:
        """Stop as `Courier.stop` does. Called by: any thread, and signal handlers.

        Before the first job and after the last one, the lifespan of the application may take long. The first call gives
        up entering it. Another call ends the process: no job can be lost then.
        """
        again = self._told_to_stop
        self.courier.stop(timeout)
        if again and self._lifespan_changes is not None:
            boundary.log(logger, logging.WARNING, "told to stop again: the application's lifespan is cut off")
            os._exit(1)
        self.give_up_lifespan()

    def give_up_lifespan(self) -> None:
        """Run no job if the lifespan of the application has not been entered yet. Called as `stop` is."""
        self._told_to_stop = True
        if self._lifespan_changes is not None and self._lifespan_changes.give_up():
            text = (
                "told to stop while the application's lifespan begins: it is cancelled; code of it that blocks delays the stop"
            )
            boundary.log(logger, logging.INFO, text)

    @contextmanager
    def _lifespan(self) -> Iterator[bool]:
        """Keep the application's resources open that need an event loop, if its framework has any.

        Yields False if the worker was told to stop before they were open.
        """
        manager = None
        if self._bootstrapper is not None:
            with _step(self._app, "lifespan"):
                manager = self._bootstrapper.lifespan()
        if manager is None:
            yield True
            return
        from .lifespan import Lifespan  # late: asyncio, which most workers do not need

        lifespan = self._lifespan_changes = Lifespan(manager, self._executor.loop)
        with _step(self._app, "lifespan"):
            entered = not self._told_to_stop and lifespan.enter()
        self._lifespan_changes = None
        try:
            yield entered
        finally:
            self._lifespan_changes = lifespan
            if entered:
                lifespan.leave()
            self._lifespan_changes = None

    def _injected_values(self) -> AbstractContextManager[None]:
        """Keep the injected values that live as long as the worker, if any job has injected parameters."""
        if not any(job.injections for job in self._app.registry):
            return nullcontext()
        from ..injection.resolving import worker_values

        return worker_values.kept(self._executor.loop)

    # -- called by the courier --------------------------------------------------------------------

    def opened(self) -> None:
        self._listener.opened()

    def due(self, why: str) -> None:
        self._listener.due(why)

    def too_fast(self, report: events.JobTooFast) -> None:
        self._listener.too_fast(report)

    def abandoned(self, replace: bool) -> None:
        """End the process: jobs that the courier has abandoned still run on its threads, and nothing else can end them."""
        events.emit(events.WorkerStopped(self.owner, self.courier.done, self.courier.failed))
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        self._listener.abandoned(replace)
        os._exit(REPLACE if replace else 1)

    def _tell(self, hook: str) -> None:
        for implementation in self._app.plugins.implementations(hook):
            guarded(implementation, worker=self.info)


def _fields(info: WorkerInfo) -> tuple[Any, ...]:
    return tuple(getattr(info, name) for name in info.__struct_fields__)


def _executor(pool: Pool, run_queue: RunQueue, middleware: Middleware, board: Scoreboard) -> Executor:
    if pool.mode == "sync":
        from .executors.sync import SyncExecutor

        return SyncExecutor(run_queue, middleware, board=board)
    if pool.mode == "threads":
        from .executors.threads import ThreadsExecutor

        return ThreadsExecutor(run_queue, middleware, pool.concurrency, board)
    from .executors.asyncio import AsyncExecutor

    return AsyncExecutor(run_queue, middleware, pool.concurrency, board)


REPLACE = 75
"""Exit code of a worker that asks to be replaced, since a job ignored its interruption (EX_TEMPFAIL)."""
