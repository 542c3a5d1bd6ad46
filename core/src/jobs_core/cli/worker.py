"""`jobsctl worker`: one worker in the foreground."""

from __future__ import annotations

import os
import sys

import click
import msgspec

from .. import boundary, events, logs
from ..config import Pool
from ..config_sources import too_many_threads
from ..errors import BackendError
from ..worker.main import Worker, prepare
from ..worker.settings import Listener
from ..worker.stop_signals import obeying
from . import output
from .common import Context, fail, pass_context
from .exits import Exit
from .types import TEXT, TOPICS
from .waiting import importing_application


@click.command("worker")
@click.option("--pool", metavar="NAME", type=TEXT, help="The pool whose settings apply (default: the first).")
@click.option("--topics", metavar="A,B", type=TOPICS, help="Serve these topics instead of the pool's, in this order.")
@click.option("--mode", type=click.Choice(["sync", "threads", "async"]), help="How to run jobs, instead of the pool's mode.")
@click.option("--concurrency", type=click.IntRange(1, 100_000), help="Jobs at a time, instead of the pool's concurrency.")
@click.option("--drain", is_flag=True, help="Exit when nothing is left to run: ready, limited, scheduled or reserved.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help=("The log level, instead of logs.level.")
)
@pass_context
def worker_command(
    context: Context,
    pool: str | None,
    topics: str | None,
    mode: str | None,
    concurrency: int | None,
    drain: bool,
    log_level: str | None,
) -> None:
    """Run one worker in the foreground, logging to standard error.

    INT or TERM finishes running jobs and releases the rest; a second INT stops immediately. `jobsctl start` runs
    and supervises many workers.
    """
    config = context.effective.config
    logs.to_stream(log_level or config.logs.level, config.logs.format)
    name, settings = _choose(context, pool, topics, mode, concurrency)
    app = context.app
    with importing_application():
        bootstrapper = prepare(app)
    app.warns_of_unserved = False  # the loop below warns of all topics at once
    for topic, senders in app.destinations().items():
        if topic not in settings.topics and config.is_unserved(topic):
            events.emit(events.TopicUnserved(topic, 0, senders))
    worker = Worker(app, name, settings, bootstrapper, drain=drain, listener=None if drain else _Restarts())
    try:
        with obeying(worker.stop), boundary.exit_told("the application", least=Exit.FAILED):
            worker.run()
    except BackendError as error:
        fail(str(error), Exit.UNAVAILABLE)


def _choose(
    context: Context, pool: str | None, topics: str | None, mode: str | None, concurrency: int | None
) -> tuple[str, Pool]:
    pools = context.effective.config.pools
    if pool is not None and pool not in pools:
        fail(f"there is no pool {pool!r}: the configuration has {', '.join(pools)}", Exit.USAGE)
    name = pool or next(iter(pools))
    changes: dict[str, object] = {}
    if topics:
        changes["topics"] = topics.split(",")
    if mode:
        changes["mode"] = mode
    if concurrency:
        changes["concurrency"] = concurrency
    settings = msgspec.structs.replace(pools[name], **changes)
    if reason := too_many_threads(settings):
        fail(f"--concurrency: {reason}", Exit.USAGE)
    if concurrency is not None and concurrency > 1 and settings.mode == "sync":
        output.echo(
            f"jobs: --concurrency {concurrency}: a worker of a sync pool runs one job at a time; --mode threads or async runs "
            "several, and `jobsctl start` runs several workers",
            err=True,
        )
    return name, settings


class _Restarts(Listener):
    """The process of a lone worker, which replaces itself if a job cannot be stopped in any other way."""

    def abandoned(self, replace: bool) -> None:
        if replace:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
