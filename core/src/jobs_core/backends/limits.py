"""Limits and fairness: definitions, states, and the rules that every backend with these features keeps.

A limit is named by a job as `name` or `name:value`; the part before the first colon is the name, which a definition gives
its numbers, and each value has a state of its own. A name without a definition limits nothing, but its slots are counted.

*Lines.* Ready jobs of a topic without limits and without a fair key stand in the topic's plain line. The others of one topic
with the same limits (and, in a fair topic, the same key and priority) stand in a line of their own. The jobs of a line are
interchangeable to the limits, so only its head is looked at. A line is open if all its limits have room; otherwise it is
closed, its jobs are LIMITED, and it is filed under the first limit without room. A limit that gets room wakes one worker for
each free slot and topic with such a line; nothing is moved before a worker of that topic reserves, so nothing is held for a
topic that is paused or not served. A reserve looks at 100 closed lines at most.

*Slots.* A slot is the reservation: it is taken with it, and is free when it ends, however it ends. Every limit that a job
names, and the key of a job in a fair topic, is counted, whether it is defined or not. A reserve takes the slots and tokens
of all limits of a job, or none.

*Rates* are GCRA (ITU-T I.371): a limit value remembers the theoretical time of the next reservation, `tat`. A job conforms
if `tat - now <= (burst - 1) * interval`, and then `tat = max(tat, now) + interval`. Each reservation that ends without
its function having been entered gives its token back (`tat - interval`); one that ends with its lease does not. A `tat`
further ahead than two full bursts is left from a slower rate, and counts as `now`: so a raised rate opens at once, however
many values it has. (One burst would be exact, but any step back of the clock would then open a limit.)

*Fairness.* In a fair topic, keys take turns within each priority, one job each. A key that had no waiting job of that
priority joins at the end of the turn, and a served one goes there. Jobs without a key, and jobs that stood in the plain line
before the topic was fair, count as one key. An unstarted job that returns is first in its line, and its key first in the
turn. A key whose lines are all closed uses no turn. Lines that remain when a topic stops being fair are served by age.

*Order.* Without fairness, a topic is served from its plain line and its open lines by priority, then by age.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from ..units import format_duration

LIMIT: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}(:[^\x00-\x1f\x7f]{1,128})?", re.ASCII | re.DOTALL)
"""The form of a limit that a job names: a name, and perhaps a value."""

MOST_LIMITS: Final = 8
"""Most limits of one job."""

LONGEST_KEY: Final = 512
"""Most characters of a key."""

KEY_LIMIT: Final = "key/"
"""The internal limit of one key of a fair topic is "key/TOPIC:KEY"; a slash is not allowed in the names of others."""

LOOKED_AT: Final = 100
"""Most closed lines that one reserve looks at."""


class Limit(Struct, frozen=True):
    """The definition of a limit: how many reservations at once, and how many a second."""

    concurrency: int | None = None  # over all machines; 0 closes the limit
    interval: float | None = None  # seconds from one reservation to the next at the full rate; None: no rate
    burst: int = 1  # reservations that may start together after a pause, at least 1


class Lines(Struct, frozen=True):
    """The rules by which the ready jobs of one topic are served."""

    fair: bool = False  # keys take turns
    max_per_key: int | None = None  # reservations at once of one key; only with `fair`


class LimitState(Struct, frozen=True):
    """The state of one limit value."""

    limit: str  # as jobs name it
    used: int = 0  # reservations that hold a slot
    waiting: int = 0  # LIMITED jobs in the lines that are filed under it
    definition: Limit | None = None  # the one that applies: override of the value, of the name, definition
    overridden: bool = False
    opens_in: float | None = (
        None  # seconds until the rate, or the end of a closure, lets the next job start; None: now, or by a slot
    )
    closed_for: float = 0.0  # the seconds left of a closure by `Settlement.close_limits`


def name_of(limit: str) -> str:
    """Return the name of a limit that a job names."""
    return limit.partition(":")[0]


def tat_under(definition: Limit, tat: float, now: float) -> float:
    """Return the theoretical time of the next reservation under a definition that has a rate."""
    assert definition.interval is not None
    return tat if tat - now <= 2 * definition.burst * definition.interval else now


def key_limit(topic: str, key: str) -> str:
    """Return the internal limit of a key in a fair topic."""
    return f"{KEY_LIMIT}{topic}:{key}"


def held_back(state: LimitState) -> Iterator[str]:
    """Say why no job can start under a limit now."""
    concurrency = state.definition.concurrency if state.definition is not None else None
    if state.closed_for > 0:
        yield f"closed for {format_duration(math.ceil(state.closed_for))} by a job"
    elif concurrency == 0:
        yield "closed"
    elif concurrency is not None and state.used >= concurrency:
        yield "full"
    elif state.opens_in is not None and state.opens_in > 0:
        yield f"opens in {format_duration(math.ceil(state.opens_in * 10) / 10)}"


def line_of_foreign(key: str | None, limits: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return `Outgoing.key` and `Outgoing.limits` for a message of an unknown producer, without what cannot be stored.

    The worker that gets the message judges the rest.
    """
    found = sorted({*(limits or ())})
    valid = len(found) <= MOST_LIMITS and all(LIMIT.fullmatch(limit) for limit in found)
    return key if key and len(key) <= LONGEST_KEY else "", tuple(found) if valid else ()
