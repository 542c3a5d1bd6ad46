"""`jobsctl schedule`: list the scheduled jobs with their next runs, and change the schedule at run time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import click

from ..errors import BackendError, ScheduleError
from ..operating.refused import entry_refused, not_obeyed
from ..operating.schedule import Listed, listed, runs_of
from ..schedule import Schedule, Stored
from ..schedule.times import zone
from ..worker.main import prepare
from . import output
from .common import Context, fail, json_option, literal, pass_context
from .exits import Exit
from .groups import DefaultsToList
from .push import find_job, keyword_arguments, keywords_option, warn_of_unserved
from .types import DURATION, TEXT, TOPIC
from .waiting import importing_application

entry_argument = click.argument("name", type=TEXT)


@click.group("schedule", cls=DefaultsToList)
def schedule_command() -> None:
    """Show scheduled jobs, and change the schedule at run time; `jobsctl schedule` alone lists them."""


@schedule_command.command("list")
@click.option(
    "-n", "--next", "count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many next runs to show."
)
@json_option
@pass_context
def list_command(context: Context, count: int, as_json: bool) -> None:
    """Show scheduled jobs, with their next runs in their own time zones and in UTC."""
    with importing_application():
        prepare(context.app)
    now = time.time()
    stored, refused = _read(context)
    all_listed = listed(context.app, stored)
    found = [(one, [] if _is_idle(one, refused) else list(runs_of(one.entry, now, count))) for one in all_listed]
    for name, why in refused.items():
        output.echo(f"jobs: {entry_refused(name, why)}", err=True)
    if as_json:
        output.json([_as_data(one, runs, refused) for one, runs in found])
        return
    rows = [
        (one.entry.name, one.entry.job, one.entry.expression, one.entry.tz, *when, _notes(one, refused))
        for one, runs in found
        for when in [(_text(run, one.entry.tz), _text(run, "UTC")) for run in runs] or [("", "")]
    ]
    columns = ["name", "job", "when", "zone", "next run", "next run in UTC", ""]
    output.table(
        columns,
        rows,
        empty=(
            'nothing is scheduled: use @job(cron="*/5 * * * *"), [schedule.NAME] in the configuration, or '
            "`jobsctl schedule add`"
        ),
    )


@schedule_command.command("add")
@entry_argument
@click.argument("job", type=TEXT)
@click.argument("args", nargs=-1)
@keywords_option
@click.option("--cron", metavar="EXPRESSION", type=TEXT, help='Minute, hour, day, month, weekday, such as "30 2 * * *".')
@click.option("--every", metavar="TIME", type=DURATION, help='Instead of --cron, an interval: seconds or "5m".')
@click.option("--tz", metavar="ZONE", type=TEXT, help="The time zone of --cron. [default: UTC]")
@click.option("--topic", metavar="NAME", type=TOPIC, help="The topic, instead of the job's own.")
@click.option(
    "--missed",
    type=click.Choice(["once", "skip"]),
    default="once",
    show_default=True,
    help="After an outage: run the latest missed tick, or none.",
)
@click.option("--replace", is_flag=True, help="Replace an entry of this name that was made at run time.")
@pass_context
def add_command(
    context: Context,
    name: str,
    job: str,
    args: tuple[str, ...],
    given: tuple[str, ...],
    cron: str | None,
    every: float | None,
    tz: str | None,
    topic: str | None,
    missed: Literal["once", "skip"],
    replace: bool,
) -> None:
    """Add an entry to the schedule of all machines: JOB with ARGS.

    ARGS and the values of --kw are JSON where they are valid JSON, else strings. A replaced entry that is paused stays paused.
    """
    _prepare(context)
    options = {} if topic is None else {"topic": topic}
    call = find_job(context, job, options).call(*map(literal, args), **keyword_arguments(given))
    schedule = Schedule(context.app)
    try:
        with context.asking():
            schedule.add(name, call, cron=cron, every=every, tz=tz, missed=missed, replace=replace)
            paused = replace and any(one.said.paused for one in schedule.stored() if one.name == name)
    except ScheduleError as error:
        fail(str(error), Exit.USAGE)
    if paused:
        output.echo(f"{name}: added; it stays paused, until `jobsctl schedule resume {name}`")
    else:
        output.echo(f"{name}: added; machines take it over within 5 s")


@schedule_command.command("remove")
@entry_argument
@pass_context
def remove_command(context: Context, name: str) -> None:
    """Remove an entry that was made at run time."""
    _prepare(context)
    with context.asking():
        Schedule(context.app).remove(name)
    output.echo(f"{name}: removed")


@schedule_command.command("pause")
@entry_argument
@pass_context
def pause_command(context: Context, name: str) -> None:
    """Enqueue no ticks of an entry, on any machine, until it is resumed.

    Once the command has returned, no tick is enqueued. The exceptions are Redis Cluster and backends that need [results] for
    the schedule: there, a tick that is being pushed at that moment may still be enqueued.
    """
    _prepare(context)
    with context.asking():
        Schedule(context.app).pause(name)
    output.echo(f"{name}: paused, until `jobsctl schedule resume {name}`")


@schedule_command.command("resume")
@entry_argument
@pass_context
def resume_command(context: Context, name: str) -> None:
    """Enqueue the ticks of a paused entry again, from now on; ticks that were due during the pause are left out."""
    _prepare(context)
    with context.asking():
        Schedule(context.app).resume(name)
    output.echo(f"{name}: resumed; machines take it over within 5 s")


@schedule_command.command("run")
@entry_argument
@pass_context
def run_command(context: Context, name: str) -> None:
    """Enqueue the job of an entry now, whether it is paused or not, and print the id of the job."""
    _prepare(context)
    with context.asking():
        handle = Schedule(context.app).run(name)
    output.echo(handle.id)
    warn_of_unserved(context, {handle.topic: handle.job.name})


def _prepare(context: Context) -> None:
    context.require_shared_queue()
    with importing_application():
        prepare(context.app)
    context.app.warns_of_unserved = False  # `run` warns when the job was stored


def _read(context: Context) -> tuple[list[Stored], dict[str, str]]:
    """Return what the backend stores, and, by entry, why machines refuse some of it."""
    if context.app.is_alone() or "documents" not in context.app.new_backend().features:
        return [], {}
    try:
        with context.asking():
            stored, refused = Schedule(context.app).read()
    except BackendError as error:
        output.echo(f"jobs: {error}; entries made at run time are missing here, and pauses are not shown", err=True)
        return [], {}
    return stored, {**refused, **not_obeyed(context.app, stored)}


def _is_idle(one: Listed, refused: Mapping[str, str]) -> bool:
    """Return whether an entry has no ticks: it is paused, or was made at run time and is refused."""
    return one.paused or (one.is_made_at_run_time and one.entry.name in refused)


def _notes(one: Listed, refused: Mapping[str, str]) -> str:
    by = f" by {one.stored.said.by}" if one.stored is not None and one.stored.said.by else ""
    notes = [*(["run time"] if one.is_made_at_run_time else []), *([f"paused{by}"] if one.paused else [])]
    return ", ".join([*notes, *(["refused"] if one.entry.name in refused else [])])


def _as_data(one: Listed, runs: list[float], refused: Mapping[str, str]) -> dict[str, Any]:
    entry = one.entry
    return {
        "name": entry.name, "job": entry.job, "cron": entry.cron, "every": entry.every, "tz": entry.tz,
        "args": entry.args, "kwargs": entry.kwargs, "topic": entry.topic, "missed": entry.missed,
        "run_time": one.is_made_at_run_time, "paused": one.paused, "by": one.stored.said.by if one.stored else None,
        "refused": refused.get(entry.name),
        "next": [{"local": _moment(run, entry.tz), "utc": _moment(run, "UTC"), "at": run} for run in runs],
    }  # fmt: skip


def _moment(at: float, tz: str) -> str:
    return datetime.fromtimestamp(at, zone(tz)).isoformat()


def _text(at: float, tz: str) -> str:
    moment = datetime.fromtimestamp(at, zone(tz))
    return f"{moment:%Y-%m-%d %H:%M:%S}" + ("" if tz == "UTC" else f" {moment:%Z}")
