"""`jobsctl dead groups`, and how `dead retry` and `dead drop` select the dead letters of a group, a topic or a search."""

from __future__ import annotations

import functools
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import click

from ..backends.base import Backend, JobRecord, State
from ..backends.letters import last_of
from ..escapes import in_one_line
from ..operating.dead import Group, by_size, counted
from ..operating.formatting import count
from ..operating.records import name_of
from ..operating.searching import PAGE, Search
from ..units import interval, shown_time
from . import output
from .common import Context
from .exits import Exit
from .searching import found

BATCH = 100
"""Dead letters that one call retries or deletes; an interrupted command has done whole batches."""


def letters(context: Context, topic: str | None, search: Search, group: str | None = None) -> Iterator[JobRecord]:
    """Yield the dead letters of a topic, or of all, that a search accepts, newest first; only those of a group if given."""
    counted = group is not None and context.operate(lambda backend: "dead_groups" in backend.features)
    for name in [topic] if topic else context.operate(lambda backend: backend.topics()):
        if counted:
            assert group is not None
            yield from _in_group(context, name, group, search)
            continue
        for record in found(context, functools.partial(_dead, name), search, None):
            if group is None or last_of(record.reason, record.errors).id == group:
                yield record


def _dead(topic: str, backend: Backend, most: int, offset: int) -> list[JobRecord]:
    return backend.browse(topic, State.DEAD, most, offset)


def _in_group(context: Context, topic: str, group: str, search: Search) -> Iterator[JobRecord]:
    for offset in itertools.count(0, PAGE):
        page = context.operate(lambda backend, offset=offset: backend.dead_in_group(topic, group, PAGE, offset))  # type: ignore[misc]
        yield from (record for record in page if search.accepts(context.app, record))
        if len(page) < PAGE:
            return


def groups(context: Context, topic: str | None, search: Search) -> list[Group]:
    """Return the groups of dead letters, the largest first."""
    known: dict[str, Group] = {}
    if not search.given and context.operate(lambda backend: "dead_groups" in backend.features):
        return _counted(context, topic)
    for record in letters(context, topic, search):
        of = last_of(record.reason, record.errors)
        known.setdefault(of.id, Group(of)).add(record, name_of(context.app, record))
    return by_size(known.values())


def _counted(context: Context, topic: str | None) -> list[Group]:
    found, unnamed = context.operate(lambda backend: counted(context.app, backend, [topic] if topic else backend.topics()))
    if unnamed:
        output.echo(
            f"jobs: {count(unnamed, 'dead letter')} of an earlier release {'is' if unnamed == 1 else 'are'} not grouped yet: "
            "housekeeping does that",
            err=True,
        )
    return found


def show_groups(found_groups: Sequence[Group], as_json: bool) -> None:
    """Print groups of dead letters."""
    if as_json:
        output.json([_as_data(group) for group in found_groups])
        return
    rows = [
        (
            group.of.id,
            group.count,
            in_one_line(f"{group.of.kind}: {group.of.message}" if group.of.message else group.of.kind),
            group.of.place,
            _some(group.jobs),
            _some(group.topics),
            shown_time(group.first),
            shown_time(group.last),
        )
        for group in found_groups
    ]
    output.table(["group", "letters", "error", "place", "jobs", "topics", "first", "last"], rows, empty="no dead letters")


def _as_data(group: Group) -> dict[str, object]:
    return {
        "group": group.of.id, "letters": group.count, "type": group.of.kind, "message": group.of.message,
        "place": group.of.place, "jobs": sorted(group.jobs), "topics": sorted(group.topics),
        "first": shown_time(group.first), "last": shown_time(group.last),
    }  # fmt: skip


def _some(names: set[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:2]) + (f" and {len(first) - 2} more" if len(first) > 2 else "")


def in_batches(ids: Sequence[str], action: Callable[[list[str]], int], rate: float | None, past: str) -> int:
    """Apply an action to dead letters, a batch at a time, at most `rate` a second; return how many it changed.

    Ctrl-C ends it after the batch that is under way, or in a pause at once; then it says how many were changed, in the words of
    `past`. A second Ctrl-C ends it anywhere.
    """
    size = BATCH if rate is None else max(1, min(BATCH, int(rate)))
    changed, began = 0, time.monotonic()
    with _Interrupts() as interrupts:
        try:
            for start in range(0, len(ids), size):
                if rate is not None:
                    interrupts.sleep(began + start / rate - time.monotonic())
                interrupts.look()
                batch = list(ids[start : start + size])
                changed += action(batch)
                if len(ids) > size:
                    output.progress(start + len(batch), len(ids))
        except KeyboardInterrupt:
            output.echo(
                f"\njobs: interrupted: {changed:,} of {count(len(ids), 'dead letter')} {past}, and the others are unchanged: "
                "repeat the command to continue",
                err=True,
            )
            raise click.exceptions.Exit(Exit.FAILED) from None
    return changed


class _Interrupts:
    """Puts Ctrl-C off until a batch is done, while it is entered in the main thread."""

    def __init__(self) -> None:
        self._came = self._pauses = False
        self._before: Any = None

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._came or self._pauses:
            raise KeyboardInterrupt
        self._came = True

    def look(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._came:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Sleep unless, or until, Ctrl-C is pressed."""
        self._pauses = True
        try:
            self.look()
            time.sleep(max(0.0, seconds))
        finally:
            self._pauses = False


class RateType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A rate such as "10/s", as a number a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else 1 / interval(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


RATE = RateType()
