"""`jobsctl dead groups`, and how `dead retry` and `dead purge` select the dead letters of a group, a topic or a search."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from msgspec import Struct

from ..backends.base import Backend, JobRecord, State
from ..escapes import in_one_line
from ..units import interval, shown_time
from . import output
from .common import Context
from .fingerprints import Fingerprint, fingerprint
from .jobs import name_of
from .searching import Search, found

BATCH = 100
"""Dead letters that one call retries or deletes; an interrupted command has done whole batches."""


class Group(Struct):
    """Dead letters with the same fingerprint."""

    of: Fingerprint
    count: int = 0
    first: float = float("inf")
    last: float = 0.0
    jobs: set[str] = set()
    topics: set[str] = set()

    def add(self, record: JobRecord, job: str) -> None:
        since = record.since or 0.0
        self.count += 1
        self.first, self.last = min(self.first, since), max(self.last, since)
        self.jobs.add(job)
        self.topics.add(record.topic)


def letters(context: Context, topic: str | None, search: Search, group: str | None = None) -> Iterator[JobRecord]:
    """Yield the dead letters of a topic, or of all, that a search accepts, newest first; only those of a group if given."""
    topics = [topic] if topic else context.operate(lambda backend: backend.topics())
    for name in topics:
        for record in found(context, functools.partial(_dead, name), search, None):
            if group is None or fingerprint(record).id == group:
                yield record


def _dead(topic: str, backend: Backend, most: int, offset: int) -> list[JobRecord]:
    return backend.browse(topic, State.DEAD, most, offset)


def groups(context: Context, topic: str | None, search: Search) -> list[Group]:
    """Return the groups of dead letters, the largest first."""
    known: dict[str, Group] = {}
    for record in letters(context, topic, search):
        of = fingerprint(record)
        known.setdefault(of.id, Group(of)).add(record, name_of(context, record))
    return sorted(known.values(), key=lambda group: (-group.count, -group.last))


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


def in_batches(
    context: Context, ids: Sequence[str], action: Callable[[Backend, list[str]], int], rate: float | None = None
) -> int:
    """Apply an action to dead letters, a batch at a time, at most `rate` a second; return how many it changed.

    If it is interrupted, no batch is half done: repeating the command continues with the rest.
    """
    size = BATCH if rate is None else max(1, min(BATCH, int(rate)))
    changed, began = 0, time.monotonic()
    for start in range(0, len(ids), size):
        if rate is not None:
            time.sleep(max(0.0, began + start / rate - time.monotonic()))
        batch = list(ids[start : start + size])
        changed += context.operate(functools.partial(_apply, action, batch))
        if len(ids) > size:
            output.progress(start + len(batch), len(ids))
    return changed


def _apply(action: Callable[[Backend, list[str]], int], batch: list[str], backend: Backend) -> int:
    return action(backend, batch)


class RateType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A rate such as "10/s", as a number a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else 1 / interval(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


RATE = RateType()
