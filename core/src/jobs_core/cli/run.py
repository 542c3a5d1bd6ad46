"""`jobsctl run`: run one job in this process, with everything that surrounds it in a worker."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from .. import boundary, events, guard, limiting, logs, urls
from ..app import App
from ..backends.base import Answer, Outcome, Outgoing, Settlement
from ..backends.memory import MemoryBackend
from ..config import Pool
from ..ids import new_token
from ..job import Call, JobFunction
from ..operating.formatting import count
from ..runs.run import Run
from ..units import format_duration
from ..worker.decoder import Decoder
from ..worker.main import Worker, prepare
from ..worker.pending_ends import PendingEnd
from ..worker.settings import Listener
from ..worker.stop_signals import obeying
from . import output
from .common import Context, fail, literal, pass_context
from .exits import Exit
from .push import find_job, keyword_arguments, keywords_option
from .types import DURATION, TEXT
from .waiting import importing_application


@click.command("run")
@click.argument("job", metavar="JOB", type=TEXT)
@click.argument("args", nargs=-1)
@keywords_option
@click.option("--timeout", metavar="TIME", type=DURATION, help="The longest time that it may run, instead of the job's own.")
@click.option("--json", is_flag=True, expose_value=False, help="For scripts: the result is JSON in any case.")
@pass_context
def run_command(context: Context, job: str, args: tuple[str, ...], given: tuple[str, ...], timeout: float | None) -> None:
    """Run JOB with ARGS here and now, in this process, and print its result as JSON.

    The framework is set up, the arguments are encoded, decoded and converted, and middleware, hooks and the timeout apply as
    in a worker. The queue is not involved: the job is not stored, not retried, holds no unique key, and obeys no limits. Jobs
    that it enqueues are really enqueued; its follow-ups (current_job().enqueue) are too, if it succeeds.

    ARGS and the values of --kw are JSON where they are valid JSON, else strings. Standard output contains only the result;
    what the job prints goes to standard error. Exits with code 1, and prints the traceback, if the job fails or asks to be
    run again.
    """
    with guard.without_stdout(always=True):
        name, ending = _run(context, job, args, given, timeout)
    try:
        _report(context, name, ending)
    finally:
        _warn_of_lost(context.app)


def _run(
    context: Context, job: str, args: tuple[str, ...], given: tuple[str, ...], timeout: float | None
) -> tuple[str, Settlement | None]:
    """Run the job; return its name, and how it ended."""
    config = context.effective.config
    logs.to_stream(config.logs.level, config.logs.format)
    logging.getLogger().handlers[0].addFilter(_is_news)
    with importing_application():
        bootstrapper = prepare(context.app, uses_backend=False)
    context.app.warns_of_unserved = False  # the job does not wait in its topic
    options: dict[str, Any] = {"store_result": True, "expires": None}
    if timeout is not None:
        options["timeout"] = timeout
    function = find_job(context, job, options)
    call = Call(function, tuple(map(literal, args)), keyword_arguments(given))
    sent = context.app.rehearsed(call)
    decoder = _Decoder(context.app)
    queue = _queue_of_one(context.app, sent)
    worker = Worker(
        context.app,
        "run",
        _pool(config.pools, function, sent.topic),
        bootstrapper,
        keeps_house=False,
        drain=True,
        backend=queue,
        decoder=decoder,
        listener=_GivesUp(function.name),
    )

    told = False

    def stop(timeout: float | None) -> None:
        """Cancel the job so that it can clean up; at the second signal, end at once."""
        nonlocal told
        if timeout is None and not told:
            told = True
            queue.cancel(sent.id, force=True)
            worker.give_up_lifespan()
        else:
            worker.stop(0.0)

    with obeying(stop), boundary.exit_told(function.name, least=Exit.FAILED):
        worker.run()
    return function.name, decoder.ending


def _is_news(record: logging.LogRecord) -> bool:
    """Filter out the worker's lines about itself, and about the outcome, which the command itself reports."""
    known = events.WorkerStarted, events.WorkerStopped, events.JobFailed, events.JobDied
    return not isinstance(getattr(record, "event", None), known) and record.funcName != "log_unrun"


def _pool(pools: dict[str, Pool], job: JobFunction[Any, Any, Any], topic: str) -> Pool:
    """Return a pool for this job alone, with the settings of the pool that serves its topic.

    The mode is sync, because a timeout can interrupt any code in the main thread. But an async function of an async pool
    keeps that mode, because its resources may need the shared event loop.
    """
    served = next((pool for pool in pools.values() if topic in pool.topics), None) or next(iter(pools.values()))
    mode = "async" if served.mode == "async" and job.is_async else "sync"
    return msgspec.structs.replace(served, topics=[topic], mode=mode, concurrency=1)


def _queue_of_one(app: App, sent: Outgoing) -> MemoryBackend:
    """Return a queue in this process that contains only this job."""
    queue = _Queue(f"memory://run-{new_token()}", app.backend_options())
    queue.push([sent], new_token())
    return queue


class _Queue(MemoryBackend):
    """A queue that is empty after one run, whatever its outcome, and obeys no limits."""

    features = MemoryBackend.features - limiting.BOTH

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        return super().settle([Settlement(each.id, each.token, Outcome.DONE) for each in settlements], request)


class _Decoder(Decoder):
    """A decoder that remembers the run, and ignores `acks="early"`, so that the settlement tells how the run ended."""

    accepted: Run | Settlement | PendingEnd | None = None

    def accept(self, delivery: Any) -> Run | Settlement | PendingEnd:
        self.accepted = super().accept(delivery)
        if isinstance(self.accepted, Run):
            self.accepted.policy = msgspec.structs.replace(self.accepted.policy, acks="late")
        return self.accepted

    @property
    def ending(self) -> Settlement | None:
        return self.accepted.settlement if isinstance(self.accepted, Run | PendingEnd) else self.accepted


def _report(context: Context, name: str, ending: Settlement | None) -> None:
    """Enqueue the follow-ups and print the result; or print the traceback and why the job counts as failed."""
    if ending is None:
        fail(f"{name} did not run")
    if ending.outcome is Outcome.DONE:
        if ending.followups:
            with context.asking():
                context.app.operate(lambda backend: backend.push(ending.followups, new_token()))
        stored = context.app.stored_result(ending.id, ending.result or b"{}")
        if "unstorable" in stored:
            output.echo(f"jobs: {name} is done; its result is not shown: {stored['unstorable']}", err=True)
        else:
            output.echo_json(msgspec.json.encode(stored.get("value")))
        return
    if ending.outcome is Outcome.CANCELLED:
        fail(f"{name} was interrupted")
    if ending.outcome is Outcome.DEFER:
        fail(f"{name} asked to be run again in {format_duration(ending.after)} (Snooze); nothing was enqueued")
    told = msgspec.json.decode(ending.error or b"{}")
    if told.get("traceback"):
        output.echo(told["traceback"], err=True, nl=False)
        fail(f"{name} failed" + (f": {ending.reason}" if ending.reason not in ("", "failed") else ""))
    fail(f"{name} did not run ({ending.reason}): {told.get('message', '')}")


def _warn_of_lost(app: App) -> None:
    """Warn of jobs that the job has enqueued to a queue that ends with this process."""
    if not app.is_alone():
        return
    counts = app.operate(lambda backend: backend.counts(backend.topics())).values()
    lost = sum(each.ready + each.limited + each.scheduled for each in counts)
    if lost:
        scheme = urls.scheme(app.backend_url)
        output.echo(
            f"jobs: {count(lost, 'job')} enqueued to {scheme}:// will not run: this backend ends with this process", err=True
        )


class _GivesUp(Listener):
    """The process of the command, which ends if an interrupted job continues."""

    def __init__(self, name: str) -> None:
        self._name = name

    def abandoned(self, replace: bool) -> None:
        if replace:
            output.echo(f"jobs: {self._name} ignored its interruption: it ends with this process", err=True)
            sys.stdout.flush()
            os._exit(1)
