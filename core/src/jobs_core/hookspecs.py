"""Every hook that a plugin may implement: give a function the name of a hook and mark it with `jobs_core.hookimpl`.

A plugin is a module (or object) that an entry point of the group `jobs` names. If a hook with "Fatal: no" raises an
exception, it is logged with the plugin's name, and the work continues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from .alert_channels.base import AlertChannelFactory
    from .backends.base import BackendFactory, Counts
    from .backends.outbox import OutboxFactory
    from .config import Config
    from .loaders.base import BootstrapperFactory, LoaderFactory
    from .message import Message
    from .payloads.codecs import PayloadCodecFactory
    from .runs.context import JobContext, RunOutcome, WorkerInfo

PROJECT = "jobs"

hookspec: pluggy.HookspecMarker = pluggy.HookspecMarker(PROJECT)
hookimpl: pluggy.HookimplMarker = pluggy.HookimplMarker(PROJECT)


# -- Providers: each returns {name: factory}, and the configuration selects by name -----------------


@hookspec
def jobs_queue_backends() -> Mapping[str, BackendFactory]:  # type: ignore[empty-body]
    """Provide backends.

    :return: URL scheme to factory(url, options) -> Backend.

    Called in every process that opens a backend, once. Fatal: only if the configuration needs the scheme.
    """


@hookspec
def jobs_outboxes() -> Mapping[str, OutboxFactory]:  # type: ignore[empty-body]
    """Provide outboxes: jobs in a database of the application, until they are carried to the backend.

    :return: URL scheme to factory(url, prefix) -> Outbox.

    Called in every process that uses `[outbox] url`, once. Fatal: only if the configuration needs the scheme.
    """


@hookspec
def jobs_job_loaders() -> Mapping[str, LoaderFactory]:  # type: ignore[empty-body]
    """Provide job loaders, selected by `loader = "name"`.

    :return: name to factory(config) -> JobLoader.

    Called in the template, or in each worker without preload, once. Fatal: only if the configuration needs it.
    """


@hookspec
def jobs_framework_bootstrappers() -> Mapping[str, BootstrapperFactory]:  # type: ignore[empty-body]
    """Provide framework bootstrappers, selected by `framework = "name"`.

    :return: name to factory(config) -> Bootstrapper.

    Called in the template, or in each worker without preload, once. Fatal: only if the configuration needs it.
    """


@hookspec
def jobs_alert_channels() -> Mapping[str, AlertChannelFactory]:  # type: ignore[empty-body]
    """Provide alert channels, selected by the tables of `[alerts.channels]`.

    :return: name to factory(settings) -> AlertChannel.

    Called in the housekeeper, once. Fatal: only if the configuration needs it.
    """


@hookspec
def jobs_payload_codecs() -> Mapping[str, PayloadCodecFactory]:  # type: ignore[empty-body]
    """Provide codecs for the compression of large arguments and results, selected by `[payloads] compress`.

    :return: name to factory() -> PayloadCodec.

    Called in every process that packs or unpacks with the codec, once. Fatal: only if the configuration needs it.
    """


@hookspec
def jobs_cli_commands() -> Mapping[str, click.Command]:  # type: ignore[empty-body]
    """Add commands to `jobsctl`.

    :return: name to click command; in the command, `current_app()` is the configured application.

    Called when the command line starts. Fatal: no.
    """


@hookspec
def jobs_configured_hooks(config: Config) -> object | None:
    """Return an object with more hooks, which its methods implement, if this configuration wants them.

    A plugin that is active only if the configuration has its table, `[plugins.NAME]`, implements this hook alone. Without
    the table it returns None, and costs nothing. Raise ConfigError for a mistake in the table.

    :param config: the configuration.
    :return: an object whose methods are marked with `hookimpl`, or None.

    Called in every process that has an application, when the application is made: before any fork, and before the jobs are
    imported. Hooks of the command line and `jobs_configured_hooks` itself are not asked of the object. Fatal: no, except
    ConfigError.
    """


@hookspec
def jobs_check(config: Config) -> Sequence[str]:  # type: ignore[empty-body]
    """Return what this plugin lacks to do its work here, such as a missing key in the environment.

    :param config: the configuration.
    :return: sentences, each a warning of `jobsctl check` that names the key and the fix; empty if all is well.

    Called in `jobsctl check`, in a process of its own that has imported the application, after the other checks. Fatal: no, an
    exception is also a warning.
    """


# -- Beside the workers ----------------------------------------------------------------------------


@hookspec
def jobs_broker_commands(config: Config) -> list[Sequence[str]]:  # type: ignore[empty-body]
    """Return programs that the supervisor runs beside its workers, such as your own broker.

    Each program runs in the foreground, as another child. It reads the configuration that JOBS_CONFIG names, writes a
    byte to the descriptor in JOBS_READY_FD once it is serving (workers start after that), stops on TERM, and ends with
    its parent. A program that dies is restarted.

    :param config: the configuration.
    :return: the command line of each program; empty if the configuration needs none.

    Called in the template, once per generation (at the start and at every reload); the supervisor starts the programs.
    Fatal: no.
    """


@hookspec
def jobs_dashboard(config: Config) -> Callable[[Any, Callable[[], None]], None] | None:
    """Return the dashboard that `[http] dashboard = true` runs beside the workers. Raise ConfigError if it cannot be served.

    The dashboard runs as `serve(app, ready)`, as the only work of a process that has imported the application; `app` is its
    `App`. It calls `ready` once it listens, and returns after TERM, within 2 s. A process that dies is restarted.

    :param config: the configuration.
    :return: the function that serves, or None.

    Called in commands that check the configuration, in the template, and in the dashboard's process, only if the configuration
    wants a dashboard. Fatal: yes, the start or reload is refused.

    If the function has an attribute `try_address`, `jobsctl check` calls `serve.try_address(base_dir)` if no supervisor runs:
    it listens on the address, stops listening, and raises ConfigError if that is not possible.
    """


# -- In a producer ---------------------------------------------------------------------------------


@hookspec
def jobs_before_enqueue(message: Message) -> Message | None:
    """Inspect or replace a message before it is encoded, for example to add a header with a trace id.

    :param message: the message that would be sent.
    :return: a message to send instead, or None.

    Called in the process that enqueues, in the enqueuing thread. Fatal: yes, the enqueue fails with PluginError.
    """


@hookspec
def jobs_enqueue_context(what: str, job: str | None, topic: str | None) -> AbstractContextManager[object] | None:
    """Wrap an enqueue, from before the message is made until the backend has answered.

    :param what: "job", "batch" (`enqueue_many`) or "flow" (whose members were made before).
    :param job: the name of the job, None for a batch or flow.
    :param topic: its topic before any hook, None for a batch or flow.
    :return: a context manager, which gets the exception of a failed enqueue and cannot swallow it; or None.

    Called in the process that enqueues, in the enqueuing thread; not for follow-ups of `current_job()` and the jobs of a
    schedule, for which only `jobs_before_enqueue` is called. Fatal: no.
    """


@hookspec
def jobs_hold_enqueue(config: Config, on_commit: bool | None, send: Callable[[], None]) -> bool | None:
    """Hold back a message until the surrounding transaction commits.

    :param config: the configuration.
    :param on_commit: the value given to `using` or `@job`; None if neither sets it.
    :param send: sends the message; raises the same errors as an enqueue.
    :return: True if `send` has been called or will be, None to leave the message to other plugins.

    Called in the process that enqueues, in the enqueuing thread; not for follow-ups of `current_job()`, which commit
    together with its acknowledgement. Fatal: yes, the enqueue fails.
    """


@hookspec
def jobs_open_transactions(config: Config) -> Sequence[object]:  # type: ignore[empty-body]
    """Return the transactions of databases that the framework has open around the caller.

    If one is on the database in which the jobs are stored, and the backend has `transactions`, the enqueue becomes part of
    it, unless `on_commit` is False. Otherwise `jobs_hold_enqueue` decides.

    :param config: the configuration.
    :return: connections such as `using(transaction=...)` takes, the one to be preferred first; empty if none is open.

    Called in the process that enqueues, in the enqueuing thread, only if the backend has `transactions`; not for follow-ups of
    `current_job()`. Fatal: yes, the enqueue fails.
    """


# -- In a worker -----------------------------------------------------------------------------------


@hookspec
def jobs_worker_started(worker: WorkerInfo) -> None:
    """React to a worker that is about to take its first job.

    :param worker: its owner id, pool, topics and mode.

    Called in the worker, after the fork and after the framework's after_fork. Fatal: no.
    """


@hookspec
def jobs_worker_stopping(worker: WorkerInfo) -> None:
    """React to a worker that has finished its last job and is about to exit.

    :param worker: its owner id, pool, topics and mode.

    Called in the worker. Fatal: no.
    """


# -- Around one run --------------------------------------------------------------------------------


@hookspec
def jobs_run_context(
    run: JobContext,
) -> AbstractContextManager[object] | AbstractAsyncContextManager[object] | None:
    """Wrap every run, as middleware. An exception raised here counts as the run's own.

    :param run: the job about to run.
    :return: a context manager (for `async def` jobs also an asynchronous one), or None.

    Called in the worker, in the thread or task that runs the job. Fatal: no, the run fails.
    """


@hookspec
def jobs_job_started(run: JobContext) -> None:
    """React to the start of a run.

    :param run: the job about to run.

    Called in the worker, in the thread or task that runs the job. Fatal: no.
    """


@hookspec
def jobs_job_finished(run: JobContext, outcome: RunOutcome) -> None:
    """React to the end of a run. The job is not yet acknowledged.

    :param run: the job that ran.
    :param outcome: the kind of settlement, the exception if any, and the duration in seconds.

    Called in the worker, in the thread or task that ran the job. Fatal: no.
    """


# -- In the housekeeper ----------------------------------------------------------------------------


@hookspec
def jobs_housekeeper_started() -> None:
    """React to a housekeeper that is about to do its first work, such as enqueuing a job of the schedule.

    Called in the housekeeper, also in one that replaces another: after a reload, or a crash. Fatal: no.
    """


@hookspec
def jobs_housekeeper_stopping() -> None:
    """React to a housekeeper that has finished its work; it may take 2 s.

    Called in the housekeeper. Fatal: no.
    """


@hookspec
def jobs_supervisor_started(facts: dict[str, Any]) -> None:
    """React to a supervisor whose workers are serving.

    :param facts: pid, run_dir, generation, pools.

    Called in the housekeeper. Fatal: no.
    """


@hookspec
def jobs_supervisor_stopping(facts: dict[str, Any]) -> None:
    """React to a supervisor that has been told to stop.

    :param facts: pid, run_dir, generation, pools.

    Called in the housekeeper. Fatal: no.
    """


@hookspec
def jobs_worker_crashed(report: dict[str, Any]) -> None:
    """React to a worker that ended without being told to.

    :param report: owner, pool, signal, exit code, peak memory, stacks, last log lines, started jobs.

    Called in the housekeeper, after the worker's jobs have returned to their topics. Fatal: no.
    """


@hookspec
def jobs_topic_backlog(topic: str, counts: Counts) -> None:
    """React to a topic that has exceeded its alert limit for `alerts.after`.

    :param topic: the topic's name.
    :param counts: its jobs by state, and the age of the oldest ready job.

    Called in the housekeeper. Fatal: no.
    """
