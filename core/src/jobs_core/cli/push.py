"""`jobsctl push`: enqueue from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click
import msgspec

from ..errors import JobsError
from ..events import TopicUnserved
from ..job import Call, JobFunction
from ..operating.formatting import count
from ..options import ABSOLUTE
from ..worker.main import prepare
from . import output
from .common import Context, fail, literal, pass_context, read_lines
from .exits import Exit
from .types import DURATION, FILE, MOMENT, MOMENT_EXAMPLE, TEXT, TOPIC, moment
from .waiting import importing_application

BATCH = 1000


class _JobLine(msgspec.Struct, forbid_unknown_fields=True):
    """One line of JSON: a job with its arguments, and options of `using`."""

    job: str | None = None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    topic: str | None = None
    priority: int | None = None
    delay: float | str | None = None
    at: str | None = None
    expires: float | str | None = None
    expires_at: str | None = None
    retries: int | None = None
    timeout: float | str | None = None
    unique: bool | str | None = None
    headers: dict[str, Any] | None = None
    id: str | None = None


_OPTIONS = [name for name in _JobLine.__struct_fields__ if name not in ("job", "args", "kwargs")]


keywords_option = click.option("--kw", "given", metavar="K=V", multiple=True, help="A keyword argument; repeat for more.")


@click.command("push")
@click.argument("job", required=False, type=TEXT)
@click.argument("args", nargs=-1)
@keywords_option
@click.option("--json", "file", metavar="FILE", type=FILE, help='JSON lines, "-" for standard input: see below.')
@click.option("--topic", metavar="NAME", type=TOPIC, help="The topic, instead of the job's own.")
@click.option("--delay", metavar="TIME", type=DURATION, help='How long to wait before it runs: seconds or "5m".')
@click.option("--at", metavar="TIME", type=MOMENT, help=f"When it is due, instead of --delay: {MOMENT_EXAMPLE}.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 to 9, higher first.")
@pass_context
def push_command(
    context: Context,
    job: str | None,
    args: tuple[str, ...],
    given: tuple[str, ...],
    file: str | None,
    topic: str | None,
    delay: float | None,
    at: datetime | None,
    priority: int | None,
) -> None:
    """Enqueue JOB with ARGS, or many jobs from JSON lines; prints the ids.

    ARGS and the values of --kw are JSON where they are valid JSON, else strings: `jobsctl push shop.pay 12 '"12"'`.

    Each line of --json is an object like {"job": "shop.pay", "args": [12], "kwargs": {}, "topic": …, "at": …}; with
    JOB given, also just an array of arguments or an object of keyword arguments. Lines are sent in batches of 1,000.
    """
    context.require_shared_queue()
    with importing_application():
        prepare(context.app)
    context.app.warns_of_unserved = False  # the warning comes below, for jobs that were stored
    given_options = (("topic", topic), ("delay", delay), ("at", at), ("priority", priority))
    shared = {name: value for name, value in given_options if value is not None}
    if file is None:
        if job is None:
            fail("nothing to push: name a job, or give lines with --json", Exit.USAGE)
        assert job is not None
        _push_one(context, find_job(context, job, shared).call(*map(literal, args), **keyword_arguments(given)))
        return
    if args or given:
        fail("--json supplies the arguments: leave out ARGS and --kw", Exit.USAGE)
    _push_many(context, _calls(context, file, job, shared))


def _push_one(context: Context, call: Call[Any]) -> None:
    with context.asking():
        handle = context.app.enqueue(call)
    output.echo(handle.id)
    warn_of_unserved(context, {handle.topic: handle.job.name})


def _push_many(context: Context, calls: Iterator[Call[Any]]) -> None:
    pushed, senders = 0, dict[str, str]()
    for batch in _batches(calls):
        with context.asking():
            handles = context.app.enqueue_many(batch)
        for handle in handles:
            output.echo(handle.id)
            senders.setdefault(handle.topic, handle.job.name)
        pushed += len(batch)
    output.echo(f"{count(pushed, 'job')} enqueued", err=True)
    warn_of_unserved(context, senders)


def warn_of_unserved(context: Context, senders: dict[str, str]) -> None:
    """Warn of topics to which a job was pushed and which no pool serves, according to this machine's configuration."""
    for topic, job in senders.items():
        if context.app.config.is_unserved(topic):
            output.echo(f"jobs: {TopicUnserved(topic, 0, [job])}", err=True)


def find_job(context: Context, name: str, options: dict[str, Any]) -> JobFunction[Any, Any, Any]:
    """Return the job function of this name, with options of `using`; raises UnknownJob."""
    job = context.app.registry.find(name)
    return job.using(**options) if options else job


def keyword_arguments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parse the values of --kw; end the command if one is not NAME=VALUE."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            fail("--kw: expected NAME=VALUE", Exit.USAGE)
        found[name] = literal(value)
    return found


def _calls(context: Context, file: str, job: str | None, shared: dict[str, Any]) -> Iterator[Call[Any]]:
    """Yield the call on each line of a file; an invalid line ends the command once the lines before it were sent."""
    for number, raw in enumerate(read_lines(file), 1):
        if not raw.strip():
            continue
        try:
            line = _line(msgspec.json.decode(raw), job)
            options = shared | _options(line)
            if line.job is None:
                raise ValueError("names no job")
            call = find_job(context, line.job, options).call(*line.args, **line.kwargs)
            call.job.arguments.check(call.args, call.kwargs)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, JobsError) as error:
            fail(f"{file}, line {number}: {str(error).replace('`', '')}", Exit.USAGE)
        yield call


def _options(line: _JobLine) -> dict[str, Any]:
    """Return the options of `using` that a line sets; raises ValueError."""
    found = {name: getattr(line, name) for name in _OPTIONS if getattr(line, name) is not None}
    for name in ABSOLUTE.keys() & found.keys():
        try:
            found[name] = moment(found[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def _line(value: Any, job: str | None) -> _JobLine:
    if job is not None and isinstance(value, list):
        return _JobLine(job=job, args=value)
    if job is not None and isinstance(value, dict) and not {"job", "args", "kwargs"} & value.keys():
        return _JobLine(job=job, kwargs=value)
    line = msgspec.convert(value, _JobLine)
    if line.job is None:
        line.job = job
    return line


def _batches(calls: Iterator[Call[Any]]) -> Iterator[list[Call[Any]]]:
    batch: list[Call[Any]] = []
    try:
        for call in calls:
            batch.append(call)
            if len(batch) == BATCH:
                yield batch
                batch = []
    except click.exceptions.Exit:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
