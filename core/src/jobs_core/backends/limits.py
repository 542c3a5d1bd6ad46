"""Limits and fairness: definitions, states, and the rules that every backend with these features keeps.

A job names a limit as `name` or `name:value`. The part before the first colon is the name. A definition sets the numbers of a
name, and each value has a state of its own. A name without a definition limits nothing, but its slots are counted.

*Lines.* Ready jobs of a topic without limits and without a fair key stand in the topic's plain line. The other ready jobs of a
topic stand in one line for each set of limits (and, in a fair topic, for each key and priority). The limits treat all jobs of a
line alike, so a reserve looks only at the first job of a line. A line is open if all its limits have room. Otherwise it is
closed, its jobs are LIMITED, and it is filed under the first limit without room. When a limit gets room, it wakes one worker
for each free slot and each topic with such a line. Nothing is moved before a worker of that topic reserves, so no slot is kept
for a topic that is paused or not served. A reserve looks at up to LOOKED_AT closed lines.

*Slots.* A slot is the reservation itself: it is taken with the reservation and is free when the reservation ends, however it
ends. Every limit that a job names, and the key of a job in a fair topic, is counted, whether it is defined or not. A reserve
takes the slots and tokens of all limits of a job, or none.

*Rates* are GCRA (ITU-T I.371): a limit value stores the theoretical time of the next reservation, `tat`. A job conforms if
`tat - now <= (burst - 1) * interval`, and then `tat = max(tat, now) + interval`. A reservation that ends before the job's
function was called returns its token (`tat - interval`); one that ends with its lease does not. A `tat` further ahead than two
full bursts is left from a slower rate, and counts as `now`: so a raised rate opens at once, however many values it has. (One
burst would be exact, but any step back of the clock would then open a limit.)

*Fairness.* In a fair topic, keys take turns within each priority, one job each. A key that had no queued job of that priority
joins at the end of the round; a key whose job was reserved goes there, too. Jobs without a key, and jobs that stood in the
plain line before the topic was fair, count as one key. A job that returns unstarted is first in its line, and its key has the
next turn. A key whose lines are all closed uses no turn. Lines that remain when a topic stops being fair are served by age.

*Order.* Without fairness, a topic is served from its plain line and its open lines by priority, then by age.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from ..escapes import word
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
        None  # seconds until the rate, or the end of a closure, lets the next job start; None: now, or when a slot is free
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
        seconds = format_duration(math.ceil(state.closed_for))
        yield f"closed for {seconds} by a job (`jobsctl limits reset {word(state.limit)}` opens it)"
    elif concurrency == 0:
        yield "closed"
    elif concurrency is not None and state.used >= concurrency:
        yield "full"
    elif state.opens_in is not None and state.opens_in > 0:
        yield f"opens in {format_duration(math.ceil(state.opens_in * 10) / 10)}"


def line_of_foreign(key: str | None, limits: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return `Outgoing.key` and `Outgoing.limits` for a message of an unknown producer, without values that cannot be stored.

    The worker that reserves the message checks everything else.
    """
    found = sorted({*(limits or ())})
    valid = len(found) <= MOST_LIMITS and all(LIMIT.fullmatch(limit) for limit in found)
    return key if key and len(key) <= LONGEST_KEY else "", tuple(found) if valid else ()
