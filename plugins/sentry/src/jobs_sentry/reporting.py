"""The hooks: spans of enqueues and runs, failed runs as events with the job's context, check-ins, crashed workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sentry_sdk
from msgspec import Struct
from msgspec.structs import replace
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.scope import Scope, use_isolation_scope, use_scope
from sentry_sdk.scrubber import EventScrubber
from sentry_sdk.utils import BadDsn, Dsn

from jobs_core import Config, Discard, JobContext, Message, Retry, RunOutcome, WorkerInfo, current_app, hookimpl
from jobs_core.backends.base import Outcome

from .monitors import Monitors
from .settings import TABLE, Settings

ORIGIN = "auto.queue.jobs"
TRACE, BAGGAGE = "sentry-trace", "baggage"

BY_CHOICE = (Retry, Discard)
"""Exceptions with which a job asks for an outcome: no errors."""

HOUSEKEEPER_PATIENCE = 1.5
"""Longest flush in the housekeeper, seconds: the supervisor kills a housekeeper that takes much longer to end."""


class _Running(Struct):
    """The scopes and the span of a run, in which its error is reported once the outcome is known."""

    isolation: Scope
    current: Scope
    span: Any


class Reporting:
    """The hooks of one application. Any thread or task may call them; a fork may happen between calls."""

    def __init__(self, settings: Settings, config: Config) -> None:
        self._settings = settings
        self._monitors = Monitors(config) if settings.monitors else None
        self._runs: dict[int, _Running] = {}  # under way, by the id() of their context
        self._worker: WorkerInfo | None = None
        self._scrubber = EventScrubber(recursive=True)

    # -- in a producer ---------------------------------------------------------------------------

    @hookimpl
    def jobs_enqueue_context(self, what: str, job: str | None, topic: str | None) -> AbstractContextManager[object] | None:
        if sentry_sdk.get_current_span() is None:  # Sentry counts an enqueue only inside a transaction
            return None
        return self._publish(what, job, topic)

    @contextmanager
    def _publish(self, what: str, job: str | None, topic: str | None) -> Iterator[None]:
        with sentry_sdk.start_span(op="queue.publish", name=job or what, origin=ORIGIN) as span:
            span.set_data("messaging.system", "jobs")
            if topic is not None:
                span.set_data("messaging.destination.name", topic)
            yield

    @hookimpl
    def jobs_before_enqueue(self, message: Message) -> Message | None:
        """Write the trace into the headers, unless the caller has put one there."""
        if TRACE in message.headers or not sentry_sdk.is_initialized():
            return None
        span = sentry_sdk.get_current_span()
        if span is not None and span.op == "queue.publish":
            span.set_data("messaging.destination.name", message.topic)
            span.set_data("messaging.message.id", message.id)
        headers: dict[str, Any] = dict(sentry_sdk.get_current_scope().iter_trace_propagation_headers(span=span))
        others = message.headers.get(BAGGAGE)
        if isinstance(others, str) and BAGGAGE in headers:  # of another tracer
            headers[BAGGAGE] = f"{others},{headers[BAGGAGE]}"
        return replace(message, headers={**message.headers, **headers}) if headers else None

    # -- in `jobsctl check` ------------------------------------------------------------------------

    @hookimpl
    def jobs_check(self) -> list[str]:
        if sentry_sdk.is_initialized():
            return []
        dsn = os.environ.get("SENTRY_DSN")
        if not dsn:
            return [
                f"{TABLE}: nothing is sent to Sentry: SENTRY_DSN is not set here, and the application has not called "
                "sentry_sdk.init: set it where workers start"
            ]
        try:
            Dsn(dsn)
        except BadDsn as error:  # whose text does not show the DSN
            return [f"{TABLE}: nothing is sent to Sentry: SENTRY_DSN is not an address of Sentry: {error}: copy it from there"]
        return []

    # -- in a worker -----------------------------------------------------------------------------

    @hookimpl
    def jobs_worker_started(self, worker: WorkerInfo) -> None:
        self._worker = worker
        if self._monitors is not None:
            self._monitors.learn(current_app().registry)
        self._set_up()

    @hookimpl
    def jobs_housekeeper_started(self) -> None:
        self._set_up()

    def _set_up(self) -> None:
        """Start the SDK with the settings in the environment (SENTRY_DSN …), unless the application has started it."""
        if not sentry_sdk.is_initialized():
            sentry_sdk.init()
        ignore_logger("jobs")  # it logs failed runs, which would be reported a second time, without their stack

    @hookimpl
    def jobs_run_context(self, run: JobContext) -> AbstractContextManager[object] | None:
        return self._process(run) if sentry_sdk.is_initialized() else None

    @contextmanager
    def _process(self, run: JobContext) -> Iterator[None]:
        with sentry_sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()
            scope.set_transaction_name(run.name, source="task")
            scope.set_tags({"jobs.job": run.name, "jobs.topic": run.topic})
            scope.set_context("job", self._about(run))
            if not self._settings.arguments or run.encrypted:
                scope.add_event_processor(_without_variables)
            if self._monitors is not None:
                self._monitors.begin(run)
            headers = {key: run.headers[key] for key in (TRACE, BAGGAGE) if isinstance(run.headers.get(key), str)}
            transaction = sentry_sdk.continue_trace(headers, op="queue.task.jobs", name=run.name, source="task", origin=ORIGIN)
            with (
                sentry_sdk.start_transaction(
                    transaction, custom_sampling_context={"job": run.name, "topic": run.topic}
                ) as whole,
                sentry_sdk.start_span(op="queue.process", name=run.name, origin=ORIGIN) as span,
            ):
                for key, value in self._measured(run).items():
                    span.set_data(key, value)
                self._runs[id(run)] = _Running(scope, sentry_sdk.get_current_scope(), whole)
                try:
                    yield
                except Exception as error:
                    whole.set_status("internal_error" if _is_failure(error) else "aborted")
                    raise
                else:
                    whole.set_status("ok")

    def _about(self, run: JobContext) -> dict[str, Any]:
        about: dict[str, Any] = {
            "id": run.id,
            "job": run.name,
            "topic": run.topic,
            "attempt": run.attempt,
            "retries": run.retries,
            "redeliveries": run.redeliveries,
        }
        flow = run.flow
        if flow is not None:
            about["flow"] = flow.id
        if self._worker is not None:
            about |= {"worker": self._worker.owner, "pool": self._worker.pool}
        return about

    def _measured(self, run: JobContext) -> dict[str, Any]:
        """Return the data of the span from which Sentry computes its page about queues; the latency is in milliseconds."""
        message = run.message
        measured: dict[str, Any] = {
            "messaging.system": "jobs",
            "messaging.message.id": run.id,
            "messaging.destination.name": run.topic,
            "messaging.message.retry.count": run.attempt - 1,
        }
        if run.attempt == 1 and message.enqueued_at:
            due = message.enqueued_at + (message.delay or 0.0)
            measured["messaging.message.receive.latency"] = max(0.0, time.time() - due) * 1000
        return measured

    @hookimpl
    def jobs_job_finished(self, run: JobContext, outcome: RunOutcome) -> None:
        """Report the error of a run, with its job, and its check-in."""
        running = self._runs.pop(id(run), None)
        if running is None:
            return
        if self._monitors is not None:
            self._monitors.end(run, outcome)
        error, told = outcome.error, (Outcome.DEAD, Outcome.RETRY) if self._settings.report == "all" else (Outcome.DEAD,)
        if error is None or outcome.outcome not in told or not _is_failure(error):
            return
        with use_isolation_scope(running.isolation), use_scope(running.current) as scope:
            scope.set_tag("jobs.outcome", outcome.outcome.value)
            if self._settings.arguments and not run.encrypted:
                arguments = run.arguments()
                self._scrubber.scrub_dict(arguments)
                scope.set_extra("arguments", arguments)
            before, scope.span = scope.span, running.span  # the event belongs to the run's trace
            try:
                sentry_sdk.capture_exception(error)
            finally:
                scope.span = before

    @hookimpl
    def jobs_worker_stopping(self) -> None:
        sentry_sdk.flush(self._settings.flush_timeout)

    # -- in the housekeeper ----------------------------------------------------------------------

    @hookimpl
    def jobs_worker_crashed(self, report: dict[str, Any]) -> None:
        """Report a worker that ended without being told to: its jobs had no chance to raise."""
        with sentry_sdk.new_scope() as scope:
            told = ("owner", "pool", "signal", "exit_code", "reason")
            scope.set_context("worker", {key: str(report[key]) for key in told if report.get(key)})
            sentry_sdk.capture_message(f"a worker of pool {report.get('pool')} crashed", "error")

    @hookimpl
    def jobs_housekeeper_stopping(self) -> None:
        sentry_sdk.flush(min(HOUSEKEEPER_PATIENCE, self._settings.flush_timeout))


def _is_failure(error: BaseException) -> bool:
    return not isinstance(error, BY_CHOICE)


def _without_variables(event: Any, hint: Any) -> Any:
    """Remove local variables from all stacks: they hold the arguments of the job, which are private."""
    for part in ("exception", "threads"):
        for value in (event.get(part) or {}).get("values") or ():
            for frame in (value.get("stacktrace") or {}).get("frames") or ():
                frame.pop("vars", None)
    return event
