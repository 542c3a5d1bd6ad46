"""The end of a worker that was started with `--drain`: when nothing is left that it, or another worker, could still run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..backends.base import Backend, Counts

logger = logging.getLogger("jobs.worker")

_STATES = ("ready", "limited", "scheduled", "reserved")
"""States of jobs that run without anything else having to happen; in a paused topic, only reserved ones do."""


class Draining:
    """Looks whether the topics are drained, and logs what keeps the worker, once as long as that is the same."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def is_over(self, backend: Backend, topics: Sequence[str]) -> bool:
        """Return whether nothing is left to run. Raises BackendUnavailable."""
        left = {topic: found for topic, each in backend.counts(topics).items() if (found := _left(each))}
        paused = (backend.paused() & left.keys()) if left else frozenset()
        awaited = {topic: found for topic, found in left.items() if topic not in paused or "reserved" in found}
        if awaited:
            self._tell(awaited)
            return False
        for topic in sorted(paused):
            logger.warning("topic %s is paused: %s left in it: `jobsctl resume %s`", topic, _in_words(left[topic]), topic)
        return True

    def _tell(self, awaited: dict[str, dict[str, int]]) -> None:
        now = {(topic, state) for topic, found in awaited.items() for state in found}
        if now <= self._told:
            return
        self._told = now
        for topic, found in sorted(awaited.items()):
            logger.info("topic %s is not drained yet: %s left; `jobsctl list %s` shows them", topic, _in_words(found), topic)


def _left(counts: Counts) -> dict[str, int]:
    return {state: number for state in _STATES if (number := getattr(counts, state))}


def _in_words(found: dict[str, int]) -> str:
    jobs = "job is" if sum(found.values()) == 1 else "jobs are"
    return f"{', '.join(f'{number:,} {state}' for state, number in found.items())} {jobs}"
