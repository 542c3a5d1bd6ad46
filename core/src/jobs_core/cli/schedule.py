"""`jobsctl schedule`: list the scheduled jobs, with their next runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from ..schedule import Entry, entries
from ..schedule.times import zone
from ..worker.main import prepare
from . import output
from .common import Context, json_option, pass_context
from .waiting import importing_application


@click.command("schedule")
@click.option(
    "-n", "--next", "count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many next runs to show."
)
@json_option
@pass_context
def schedule_command(context: Context, count: int, as_json: bool) -> None:
    """Show scheduled jobs, with their next runs in their own time zones and in UTC."""
    with importing_application():
        prepare(context.app)
    now = time.time()
    found = [(entry, list(_runs(entry, now, count))) for entry in entries(context.app)]
    if as_json:
        output.json([_as_data(entry, runs) for entry, runs in found])
        return
    rows = [
        (entry.name, entry.job, entry.expression, entry.tz, _text(run, entry.tz), _text(run, "UTC"))
        for entry, runs in found
        for run in runs
    ]
    columns = ["name", "job", "when", "zone", "next run", "next run in UTC"]
    output.table(
        columns, rows, empty='nothing is scheduled: use @job(cron="*/5 * * * *"), or [schedule.NAME] in the configuration'
    )


def _runs(entry: Entry, now: float, count: int) -> Iterator[float]:
    tick = entry.after(int(now * 1000))
    while tick is not None and count:
        yield tick / 1000
        tick, count = entry.after(tick), count - 1


def _as_data(entry: Entry, runs: list[float]) -> dict[str, Any]:
    return {
        "name": entry.name, "job": entry.job, "cron": entry.cron, "every": entry.every, "tz": entry.tz,
        "args": entry.args, "kwargs": entry.kwargs, "topic": entry.topic, "missed": entry.missed,
        "next": [{"local": _moment(run, entry.tz), "utc": _moment(run, "UTC"), "at": run} for run in runs],
    }  # fmt: skip


def _moment(at: float, tz: str) -> str:
    return datetime.fromtimestamp(at, zone(tz)).isoformat()


def _text(at: float, tz: str) -> str:
    moment = datetime.fromtimestamp(at, zone(tz))
    return f"{moment:%Y-%m-%d %H:%M:%S}" + ("" if tz == "UTC" else f" {moment:%Z}")
