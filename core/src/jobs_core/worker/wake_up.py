"""The duration and the place of the courier's sleep: one pure function of its situation."""

from __future__ import annotations

import enum

from msgspec import Struct

NEVER = float("inf")

LONGEST_SLEEP = 5.0
LONGEST_DRAIN_SLEEP = 0.5
"""Seconds after which a worker that drains its topics looks again whether jobs are left."""


class Sleep(enum.Enum):
    """The place in which the courier sleeps."""

    WAIT = "wait"  # in `Backend.wait`: it reserves nothing
    RESERVE = "reserve"  # in `Backend.reserve_next`, until there are jobs
    DRAIN = "drain"  # likewise, after a check that jobs are left


class Situation(Struct, frozen=True, kw_only=True):
    """The facts that decide where and how long the courier sleeps. Times are monotonic seconds."""

    now: float
    heartbeat: float  # when the next one is due
    interruption: float = NEVER  # when the first run may exceed its timeout, or its grace period
    start: float = NEVER  # when a waiting run may be able to start, without an event that wakes the courier
    housekeeping: float = NEVER
    poll: float = NEVER  # when to ask for cancels
    checkpoint: float = NEVER  # when to store the cursors of resumable jobs
    stop: float = NEVER  # when to stop waiting for running jobs
    collect: float = NEVER  # when finished runs are collected; until then, none of them wakes the courier
    ahead: float = NEVER  # seconds after which to look at the jobs that wait for a slot
    full: bool = False  # every slot has a job
    more: bool = False  # the backend may have more jobs than the last call returned
    can_reserve: bool = False
    drains: bool = False  # the worker is to end when there are no jobs left, and has none


def next_wake_up(s: Situation) -> tuple[Sleep, float]:
    """Return where the courier sleeps, and for how many seconds unless something wakes it.

    That may be 0 seconds: if a round trip takes longer than the interval between heartbeats, no time is left to sleep, but
    the call is needed, since nothing else reports new jobs.
    """
    until = min(s.heartbeat, s.interruption, s.start, s.housekeeping, s.poll, s.checkpoint, s.stop, s.collect, s.now + s.ahead)
    timeout = max(0.0, min(LONGEST_SLEEP, until - s.now))
    # Most jobs are short: if every slot has just got one, leave new jobs to other workers until these have run.
    soon_free = s.full and s.now < s.collect < NEVER
    if s.more or not s.can_reserve or soon_free:
        return Sleep.WAIT, timeout
    return (Sleep.DRAIN, min(timeout, LONGEST_DRAIN_SLEEP)) if s.drains else (Sleep.RESERVE, timeout)
