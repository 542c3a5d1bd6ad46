"""Every hook a plugin may implement: mark a function with `jobs_core.hookimpl` and name it as here.

A plugin is a module (or object) that an entry point of the group `jobs` names. Hooks that say "fatal: no"
are guarded: an exception is logged with the plugin's name and the work goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from .backends.base import BackendFactory, Counts
    from .config import Config
    from .loaders.base import AlertChannelFactory, BootstrapperFactory, LoaderFactory
    from .message import Message
    from .worker.context import JobContext, RunOutcome, WorkerInfo

PROJECT = "jobs"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# -- What a plugin provides: each returns {name: factory}, and the configuration chooses by name ----


@hookspec
def jobs_queue_backends() -> Mapping[str, BackendFactory]:  # type: ignore[empty-body]
    """Provide queue backends.

    :return: URL scheme to factory(url, options) -> Backend.

    Called in every process that opens a backend, once. Fatal: only if the configuration needs the scheme.
    """


@hookspec
def jobs_job_loaders() -> Mapping[str, LoaderFactory]:  # type: ignore[empty-body]
    """Provide job loaders, chosen by `loader = "name"`.

    :return: name to factory(config) -> JobLoader.

    Called in the template, or in a worker without preload, once. Fatal: only if the configuration needs it.
    """


@hookspec
def jobs_framework_bootstrappers() -> Mapping[str, BootstrapperFactory]:  # type: ignore[empty-body]
    """Provide framework bootstrappers, chosen by `framework = "name"`.

    :return: name to factory(config) -> Bootstrapper.

    Called in the template, or in a worker without preload, once. Fatal: only if the configuration needs it.
    """


@hookspec
def jobs_alert_channels() -> Mapping[str, AlertChannelFactory]:  # type: ignore[empty-body]
    """Provide alert channels, chosen by the tables of `[alerts.channels]`.

    :return: name to factory(settings) -> AlertChannel.

    Called in the housekeeper, once. Fatal: only if the configuration needs it.
    """


@hookspec
def jobs_cli_commands() -> Mapping[str, click.Command]:  # type: ignore[empty-body]
    """Add commands to `jobs`.

    :return: name to click command; in it, `current_app()` is the application as configured.

    Called when the command line starts. Fatal: no.
    """


# -- Beside the workers -------------------------------------------------------------------------------


@hookspec
def jobs_broker_commands(config: Config) -> list[Sequence[str]]:  # type: ignore[empty-body]
    """Name programs that the supervisor runs beside its workers, such as a broker of your own.

    Each runs in the foreground, as one more child: it reads the configuration that JOBS_CONFIG names, writes a byte to
    the descriptor in JOBS_READY_FD once it serves (workers are started after that), stops at TERM, and ends with its
    parent. One that dies is started again.

    :param config: the configuration.
    :return: the command line of each; none where the configuration asks for none.

    Called in the template, once a generation (at the start and at every reload); the supervisor starts what is named.
    Fatal: no.
    """


# -- In a producer ---------------------------------------------------------------------------------


@hookspec
def jobs_before_enqueue(message: Message) -> Message | None:
    """See, or replace, a message before it is encoded; for headers such as trace ids.

    :param message: the message as it would be sent.
    :return: a message to send instead, or None.

    Called in the process that enqueues, in the enqueuing thread. Fatal: yes, the enqueue fails with PluginError.
    """


@hookspec
def jobs_hold_enqueue(config: Config, on_commit: bool | None, send: Callable[[], None]) -> bool | None:
    """Hold back what is about to be sent until the transaction that surrounds it commits.

    :param config: the configuration.
    :param on_commit: what `using` or `@job` says; None where neither says anything.
    :param send: sends it; raises as an enqueue does.
    :return: True if `send` was called or will be, None to leave it to others.

    Called in the process that enqueues, in the enqueuing thread; not for follow-ups of `current_job()`, which commit
    with its acknowledgement. Fatal: yes, the enqueue fails.
    """


# -- In a worker -----------------------------------------------------------------------------------


@hookspec
def jobs_worker_started(worker: WorkerInfo) -> None:
    """A worker is about to take its first job.

    :param worker: its owner id, pool, topics and mode.

    Called in the worker, after the fork and after the framework's after_fork. Fatal: no.
    """


@hookspec
def jobs_worker_stopping(worker: WorkerInfo) -> None:
    """A worker has finished its last job and is about to exit.

    :param worker: its owner id, pool, topics and mode.

    Called in the worker. Fatal: no.
    """


# -- Round one run ---------------------------------------------------------------------------------


@hookspec
def jobs_run_context(
    run: JobContext,
) -> AbstractContextManager[object] | AbstractAsyncContextManager[object] | None:
    """Wrap every run: middleware. An exception raised here is the run's own.

    :param run: the job about to run.
    :return: a context manager (for `async def` jobs also an asynchronous one), or None.

    Called in the worker, in the thread or task that runs the job. Fatal: no, the run fails.
    """


@hookspec
def jobs_job_started(run: JobContext) -> None:
    """A run begins.

    :param run: the job about to run.

    Called in the worker, in the thread or task that runs the job. Fatal: no.
    """


@hookspec
def jobs_job_finished(run: JobContext, outcome: RunOutcome) -> None:
    """A run has ended, and how; it is not yet acknowledged.

    :param run: the job that ran.
    :param outcome: the settlement's kind, the exception if any, seconds it took.

    Called in the worker, in the thread or task that ran the job. Fatal: no.
    """


# -- In the housekeeper ----------------------------------------------------------------------------


@hookspec
def jobs_supervisor_started(facts: dict[str, Any]) -> None:
    """The supervisor's workers serve.

    :param facts: pid, run_dir, generation, pools.

    Called in the housekeeper. Fatal: no.
    """


@hookspec
def jobs_supervisor_stopping(facts: dict[str, Any]) -> None:
    """The supervisor was asked to stop.

    :param facts: pid, run_dir, generation, pools.

    Called in the housekeeper. Fatal: no.
    """


@hookspec
def jobs_worker_crashed(report: dict[str, Any]) -> None:
    """A worker died of something other than its own decision.

    :param report: owner, pool, signal, exit code, peak memory, stacks, last log lines, started jobs.

    Called in the housekeeper, after its jobs went back. Fatal: no.
    """


@hookspec
def jobs_topic_backlog(topic: str, counts: Counts) -> None:
    """A topic has been over its alert limit for `alerts.after`.

    :param topic: its name.
    :param counts: its jobs by state, and the age of the oldest ready one.

    Called in the housekeeper. Fatal: no.
    """
