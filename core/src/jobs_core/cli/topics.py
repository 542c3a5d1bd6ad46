"""`jobsctl topics`, `pause`, `resume`, `purge`: commands for whole topics."""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from ..backends.base import Backend, Counts, State
from ..errors import NotSupported
from ..operating.overview import Overview
from ..scoreboard.state import read_board
from ..scoreboard.view import TAKING
from ..supervisor.pidfile import OfAnotherUser, running
from ..units import count, format_duration
from . import output
from .common import Context, confirm, fail, json_option, pass_context, topic_argument, yes_option
from .exits import Exit
from .types import DURATION, TOPIC

T = TypeVar("T")


PURGED_AT_ONCE = 500
"""Done jobs that are deleted in one call, so that a store with many of them serves others in between."""

MOST_KEYS = 10
"""Most keys of a fair topic that are listed."""


@click.command("topics")
@click.argument("names", metavar="[NAME]...", nargs=-1, type=TOPIC)
@json_option
@pass_context
def topics_command(context: Context, names: tuple[str, ...], as_json: bool) -> None:
    """List every topic with its jobs by state, the age of its oldest ready job, and the pools that serve it.

    Pools come from the configuration; "alive here" counts the workers on this machine that take its jobs now. "limited" are
    jobs that wait for room in a limit, "waiting" those that wait for other members of their flow. With NAMEs, list only these
    topics, each with the ten keys that have the most waiting jobs, if it is fair."""
    config = context.app.config
    chosen = names
    counts, paused, keys = context.operate(
        lambda backend: (*count_topics(context, backend, chosen), {name: _keys(backend, name) for name in chosen})
    )
    listed = list(counts)
    for reason in filter(None, context.operate(lambda backend: [doubt(context, backend, name) for name in chosen])):
        output.echo(f"jobs: {reason}", err=True)
    served = {name: [pool for pool, settings in config.pools.items() if name in settings.topics] for name in listed}
    alive = _alive(context.app.run_dir)
    if as_json:
        output.json(
            {
                name: {
                    **msgspec.to_builtins(counts[name]),
                    "paused": name in paused,
                    "pools": served[name],
                    "workers": None if alive is None else alive[name],
                    **({"keys": [list(each) for each in keys[name]]} if name in keys else {}),
                }
                for name in listed
            }
        )
        return

    def row(name: str, number: Counts) -> tuple[str | int, ...]:
        oldest = "" if number.oldest_age is None else format_duration(round(number.oldest_age))
        pools = ", ".join(served[name]) or ("none" if config.is_unserved(name) else "others")
        workers = "not running" if alive is None else count(alive[name], "worker") if alive[name] else "no worker"
        ready = (number.ready, *([number.limited] if limited else []), *([number.waiting] if waiting else []))
        states = (*ready, number.scheduled, number.reserved, number.dead)
        return (name, *states, oldest, pools, workers, "paused" if name in paused else "")

    limited = any(number.limited for number in counts.values())
    waiting = any(number.waiting for number in counts.values())
    columns = [
        "topic",
        "ready",
        *(["limited"] if limited else []),
        *(["waiting"] if waiting else []),
        "scheduled",
        "reserved",
        "dead",
        "oldest",
        "configured",
        "alive here",
        "",
    ]
    output.table(columns, [row(name, number) for name, number in counts.items()])
    for name, deepest in keys.items():
        if deepest:
            output.echo()
            output.table([f"key in {name}", "waiting"], [(key or "(none)", number) for key, number in deepest])


def count_topics(context: Context, backend: Backend, names: Sequence[str] = ()) -> tuple[dict[str, Counts], frozenset[str]]:
    """Return the counts of these topics, by default of all that the configuration or any job names; and the paused topics."""
    config = context.app.config
    known = backend.topics() if not names and "browse" in backend.features else []
    listed = names or sorted({*config.topics, *config.served_topics(), *known})
    return backend.counts(listed), backend.paused()


def _keys(backend: Backend, topic: str) -> list[tuple[str, int]]:
    """Return the keys of a fair topic with the most waiting jobs; none if no job there has a key."""
    if "fairness" not in backend.features:
        return []
    found = backend.lines(topic, MOST_KEYS)
    return found if any(key for key, _ in found) else []


def _alive(run_dir: Path) -> Counter[str] | None:
    """Count the workers on this machine that take jobs of each topic; None if no supervisor is known to run."""
    try:
        if running(run_dir) is None:
            return None
    except OfAnotherUser:
        return None
    board = read_board(run_dir, most_entries=0)
    pools = board.supervisor.pools if board.supervisor else []
    topics = {pool.name: pool.topics for pool in pools}
    return Counter(topic for line in Overview(board).workers if line.state in TAKING for topic in topics.get(line.pool, ()))


def doubt(context: Context, backend: Backend, topic: str) -> str:
    """Return why a topic's name is probably a typo: neither the configuration nor any job names it. "" if it is known."""
    config = context.app.config
    known = set(config.topics) | config.served_topics()
    known |= set(backend.topics()) - backend.paused() if "browse" in backend.features else set()
    if topic in known or _holds_jobs(backend.counts([topic])[topic]):
        return ""
    near = difflib.get_close_matches(topic, known, 1)
    return f"topic {topic} is not configured and holds no jobs" + (f"; did you mean {near[0]}?" if near else "")


def _holds_jobs(number: Counts) -> bool:
    return bool(number.ready or number.limited or number.waiting or number.scheduled or number.reserved or number.dead)


def _act(context: Context, topic: str, action: Callable[[Backend], T]) -> tuple[str, T]:
    """Apply an action to a topic; return the doubt about the topic's name, to be reported afterwards, and the result."""
    reason, result = context.operate(lambda backend: (doubt(context, backend, topic), action(backend)))
    return reason, result


@click.command("pause")
@topic_argument
@pass_context
def pause_command(context: Context, topic: str) -> None:
    """Let no worker reserve jobs of TOPIC until it is resumed."""
    reason, _ = _act(context, topic, lambda backend: backend.pause(topic))
    output.echo(f"{topic} is paused; running jobs continue. `jobsctl resume {topic}` resumes it")
    if reason:
        output.echo(f"jobs: {reason}", err=True)


@click.command("resume")
@topic_argument
@pass_context
def resume_command(context: Context, topic: str) -> None:
    """Resume TOPIC: let workers reserve its jobs again."""
    reason, _ = _act(context, topic, lambda backend: backend.resume(topic))
    output.echo(f"{topic} is no longer paused")
    if reason:
        output.echo(f"jobs: {reason}", err=True)


@click.command("purge")
@topic_argument
@click.option(
    "--state",
    type=click.Choice(["all", "ready", "scheduled", "waiting", "done"]),
    default="all",
    show_default=True,
    help="The jobs to delete. ready: those that could start, and those that wait for a limit. scheduled: those with a delay. "
    "waiting: members of flows that wait for others. all: all of these. done: those that keep_done keeps, with their results. "
    "For dead letters, use `jobsctl dead drop`.",
)
@click.option(
    "--older-than",
    type=DURATION,
    metavar="TIME",
    help='With --state done, only jobs that ended at least this long ago: seconds or "1d".',
)
@click.option("--inlet", is_flag=True, help="Delete instead what foreign producers have pushed and no worker has taken in yet.")
@yes_option
@pass_context
def purge_command(context: Context, topic: str, state: str, older_than: float | None, inlet: bool, yes: bool) -> None:
    """Delete the queued jobs of TOPIC for good, or with --state done those that are kept. Running ones are left alone.

    The id of a deleted done job stays known until keep_done is over, so that a late repetition of its enqueue adds nothing.
    """
    if older_than is not None and (state != State.DONE.value or inlet):
        fail("--older-than is for done jobs: add --state done", Exit.USAGE)
    if reason := context.operate(lambda backend: doubt(context, backend, topic)):
        output.echo(f"jobs: {reason}", err=True)
    if inlet:
        confirm(f"Delete everything in the inlet of {topic} for good?", yes)
        entries = context.operate(lambda backend: backend.purge_inlet(topic))
        output.echo(f"{count(entries, 'entry', 'entries')} deleted")
        return
    if state == State.DONE.value:
        _purge_done(context, topic, older_than or 0.0, yes)
        return
    which = "queued" if state == "all" else state
    confirm(f"Delete all {which} jobs of {topic} for good?", yes)

    def purge(backend: Backend) -> int:
        has_flows = State.WAITING in backend.queued_states
        if state == State.WAITING.value and not has_flows:
            raise NotSupported("flows", f"{backend.name}://")
        members = [State.WAITING] if has_flows else []  # first: the others' end makes some ready
        states = [*members, State.READY, State.SCHEDULED] if state == "all" else [State(state)]
        return sum(backend.purge(topic, each) for each in states)

    deleted = context.operate(purge)
    output.echo(f"{count(deleted, 'job')} deleted")


def _purge_done(context: Context, topic: str, older: float, yes: bool) -> None:
    """Delete kept jobs of a topic in batches: those that had ended when the command began, at least `older` seconds before."""
    which = f" that ended {format_duration(older)} ago or earlier" if older else ""
    confirm(f"Delete all done jobs of {topic}{which} for good, with their results?", yes)
    deleted, began = 0, time.monotonic()
    try:
        while True:
            since = older + time.monotonic() - began
            some = context.operate(lambda backend, since=since: backend.purge_done(topic, PURGED_AT_ONCE, since))  # type: ignore[misc]
            deleted += some
            if some < PURGED_AT_ONCE:
                break
    except KeyboardInterrupt:
        output.echo(f"\njobs: interrupted after {count(deleted, 'job')}: repeat the command to continue", err=True)
        raise click.exceptions.Exit(Exit.FAILED) from None
    output.echo(f"{count(deleted, 'job')} deleted")
