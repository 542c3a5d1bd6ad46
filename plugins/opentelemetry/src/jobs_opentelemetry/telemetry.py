"""The hooks: a span for each enqueue and each run, the context in between in the message's headers, and metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from opentelemetry import context as contexts
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode

from jobs_core import JobContext, Message, RunOutcome, WorkerInfo, hookimpl
from jobs_core.backends.base import Outcome
from jobs_core.errors import JobsError

from . import __version__, names
from .settings import TABLE, Settings, setup_function

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

FAILED = frozenset({Outcome.RETRY, Outcome.DEAD})
"""Outcomes of a run that failed; a job that snoozes, is released or is cancelled has not."""

HOUSEKEEPER_PATIENCE = 1.5
"""Longest flush in the housekeeper, seconds: the supervisor kills a housekeeper that takes much longer to end."""


class _Sending:
    """An enqueue that is under way in this thread: what has been made for it so far."""

    __slots__ = ("count", "message", "topics", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.count = 0
        self.topics: set[str] = set()
        self.message: Message | None = None


_sending: ContextVar[_Sending | None] = ContextVar("jobs_opentelemetry_sending", default=None)


class Telemetry:
    """The hooks of one application. Any thread or task may call them; a fork may happen between calls.

    The providers are the process's own unless they are given: tracers and instruments that were made before the application
    sets its providers begin to work then.
    """

    def __init__(self, settings: Settings, tracers: TracerProvider | None = None, meters: MeterProvider | None = None) -> None:
        self._settings = settings
        self._tracer = trace.get_tracer("jobs_opentelemetry", __version__, tracers, names.SCHEMA)
        meter = metrics.get_meter("jobs_opentelemetry", __version__, meters, names.SCHEMA)
        self._sent = meter.create_counter(names.SENT, "{message}", "Number of messages that a producer attempted to send.")
        self._send_seconds = meter.create_histogram(
            names.SEND_DURATION, "s", "Duration of sending messages.", explicit_bucket_boundaries_advisory=names.SHORT
        )
        self._consumed = meter.create_counter(names.CONSUMED, "{message}", "Number of messages delivered to the application.")
        self._process_seconds = meter.create_histogram(
            names.PROCESS_DURATION, "s", "Duration of runs.", explicit_bucket_boundaries_advisory=names.LONG
        )
        self._spans: dict[int, Span] = {}  # of the runs under way, by the id() of their context
        self._worker: dict[str, str] = {}  # attributes of this process

    # -- in a producer ---------------------------------------------------------------------------

    @hookimpl
    def jobs_enqueue_context(self, what: str, job: str | None, topic: str | None) -> AbstractContextManager[object]:
        return self._send(what, job, topic)

    @contextmanager
    def _send(self, what: str, job: str | None, topic: str | None) -> Iterator[None]:
        """Keep a span around an enqueue. Its context is the message's, except for a flow, whose members have their own."""
        kind = SpanKind.CLIENT if what == "flow" else SpanKind.PRODUCER
        about = {names.SYSTEM: "jobs", names.OPERATION: "send", names.OPERATION_TYPE: "send"}
        if job is not None:
            about[names.JOB] = job
        sending, began, failed = _Sending(what), time.perf_counter(), ""
        with self._tracer.start_as_current_span("send", kind=kind, attributes=about) as span:
            token = _sending.set(sending)
            try:
                yield
            except BaseException as error:
                failed = _type(error)
                raise
            finally:
                _sending.reset(token)
                self._end_send(span, sending, topic, time.perf_counter() - began, failed)

    def _end_send(self, span: Span, sending: _Sending, topic: str | None, seconds: float, failed: str) -> None:
        about: dict[str, str] = {names.SYSTEM: "jobs", names.OPERATION: "send"}
        if len(sending.topics) == 1:
            (topic,) = sending.topics
        if topic is not None:
            span.update_name(f"send {topic}")
            span.set_attribute(names.DESTINATION, topic)
            about[names.DESTINATION] = topic
        if sending.what == "batch":
            span.set_attribute(names.BATCH, sending.count)
        elif sending.message is not None:
            span.set_attribute(names.MESSAGE_ID, sending.message.id)
        if failed:
            span.set_attribute(names.ERROR, failed)
            about[names.ERROR] = failed
        if sending.count:
            self._sent.add(sending.count, about)
        self._send_seconds.record(seconds, about)

    @hookimpl
    def jobs_before_enqueue(self, message: Message) -> Message | None:
        """Write the context into the headers, unless the caller has put one there."""
        sending = _sending.get()
        if sending is not None:
            sending.count += 1
            sending.topics.add(message.topic)
            sending.message = message
        if any(field in message.headers for field in propagate.get_global_textmap().fields if field != "baggage"):
            return None
        carrier: dict[str, str] = {}
        propagate.inject(carrier, self._created(message) if sending is None else None)
        return replace(message, headers={**message.headers, **carrier}) if carrier else None

    def _created(self, message: Message) -> Context:
        """Return a context of its own for a message that is sent later: a follow-up, a flow's member, a tick."""
        span = self._tracer.start_span(
            f"create {message.topic}",
            kind=SpanKind.PRODUCER,
            attributes={
                names.SYSTEM: "jobs",
                names.OPERATION: "create",
                names.OPERATION_TYPE: "create",
                names.DESTINATION: message.topic,
                names.MESSAGE_ID: message.id,
                names.JOB: message.job or "",
            },
        )
        span.end()
        return trace.set_span_in_context(span)

    # -- in a worker -----------------------------------------------------------------------------

    @hookimpl
    def jobs_worker_started(self, worker: WorkerInfo) -> None:
        self._worker = {names.CLIENT: worker.owner, names.GROUP: worker.pool}
        self._set_up()

    @hookimpl
    def jobs_housekeeper_started(self) -> None:
        """Set up the SDK in the housekeeper, too: it enqueues the jobs of the schedule."""
        self._set_up()

    @hookimpl
    def jobs_check(self) -> list[str]:
        """Call `setup`, as each worker will, and see whether anything records spans then."""
        try:
            self._set_up()
        except JobsError as error:  # it cannot be imported
            return [f"{error}: workers run jobs without traces"]
        except Exception as error:
            text = " ".join(str(error).split())
            return [f"{TABLE}.setup: {self._settings.setup} raised {_type(error)}: {text}: workers run jobs without traces"]
        if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return []
        how = f"{self._settings.setup} has set none" if self._settings.setup else "the application has set none at import"
        return [f"{TABLE}: no spans are recorded: there is no tracer provider, {how}: call trace.set_tracer_provider in setup"]

    def _set_up(self) -> None:
        if self._settings.setup is not None:
            setup_function(self._settings.setup)()

    @hookimpl
    def jobs_run_context(self, run: JobContext) -> AbstractContextManager[object]:
        return self._process(run)

    @contextmanager
    def _process(self, run: JobContext) -> Iterator[None]:
        """Keep the span of a run current; `jobs_job_finished`, which knows the outcome, ends it."""
        came = propagate.extract({key: value for key, value in run.headers.items() if isinstance(value, str)}, Context())
        creation = trace.get_current_span(came).get_span_context()
        links = [Link(creation)] if creation.is_valid else []
        within = came if self._settings.parent else trace.set_span_in_context(INVALID_SPAN, came)
        span = self._tracer.start_span(
            f"process {run.topic}", within, SpanKind.CONSUMER, attributes=self._about(run), links=links
        )
        self._spans[id(run)] = span
        if span.get_span_context().trace_flags.sampled:
            run.trace_as(trace.format_trace_id(span.get_span_context().trace_id))
        token = contexts.attach(trace.set_span_in_context(span, within))
        try:
            yield
        finally:
            contexts.detach(token)

    def _about(self, run: JobContext) -> Mapping[str, Any]:
        about: dict[str, Any] = {
            names.SYSTEM: "jobs",
            names.OPERATION: "process",
            names.OPERATION_TYPE: "process",
            names.DESTINATION: run.topic,
            names.MESSAGE_ID: run.id,
            names.JOB: run.name,
            names.ATTEMPT: run.attempt,
            names.RETRIES: run.retries,
            **self._worker,
        }
        if run.redeliveries:
            about[names.REDELIVERIES] = run.redeliveries
        flow = run.flow
        if flow is not None:
            about[names.FLOW] = flow.id
        return about

    @hookimpl
    def jobs_job_finished(self, run: JobContext, outcome: RunOutcome) -> None:
        """End the span of a run, and count the run; the histogram's exemplars name the span."""
        span = self._spans.pop(id(run), None)
        if span is None:
            return
        about: dict[str, str] = {names.SYSTEM: "jobs", names.OPERATION: "process", names.DESTINATION: run.topic}
        span.set_attribute(names.OUTCOME, outcome.outcome.value)
        if outcome.error is not None and outcome.outcome in FAILED:
            about[names.ERROR] = _type(outcome.error)
            span.set_attribute(names.ERROR, about[names.ERROR])
            span.record_exception(outcome.error)
            span.set_status(Status(StatusCode.ERROR, about[names.ERROR]))
        within = trace.set_span_in_context(span)
        self._consumed.add(1, about, within)
        self._process_seconds.record(outcome.seconds, about, within)
        span.end()

    @hookimpl
    def jobs_worker_stopping(self) -> None:
        self._flush(self._settings.flush_timeout)

    @hookimpl
    def jobs_housekeeper_stopping(self) -> None:
        self._flush(min(HOUSEKEEPER_PATIENCE, self._settings.flush_timeout))

    def _flush(self, timeout: float) -> None:
        """Export what the SDK has not exported yet; an exporter that hangs delays the process's end by `timeout` seconds."""
        until = time.monotonic() + timeout
        for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
            flush = getattr(provider, "force_flush", None)  # the API alone has none
            if flush is not None:
                flush(max(1, int((until - time.monotonic()) * 1000)))


def _type(error: BaseException) -> str:
    """Return the name of an error's type as `error.type`: with its module, unless it is Python's own."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
