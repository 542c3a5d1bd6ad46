"""The copy of a letter that is published before the letter itself is acknowledged."""

from __future__ import annotations

from collections.abc import Callable

from jobs_core.backends.base import Outcome, Retention, Settlement

from .letters import ATTEMPT, DEFERRALS, LEFT, LOSSES, REASON, SUSPECT, Letter
from .publisher import Post
from .topology import FRONT, SUSPECTS, Names, level_of

LONGEST_PAUSE = 64.0


class Copies:
    """Makes copies for one prefix."""

    def __init__(self, names: Names, retention: Callable[[str], Retention]) -> None:
        self._names = names
        self._retention = retention

    def settled(self, letter: Letter, settlement: Settlement) -> Post | None:
        """Return the copy that a settlement requires; None if the job has ended."""
        outcome = settlement.outcome
        if outcome is Outcome.RETRY:
            # It has ended by itself: its earlier losses were not the fault of this run.
            return self._again(letter, settlement.after, settlement.error, {ATTEMPT: letter.attempt + 1, LOSSES: 0})
        if outcome is Outcome.DEFER:
            return self._again(letter, settlement.after, b"", {DEFERRALS: letter.deferrals + 1, LOSSES: letter.losses})
        if outcome is Outcome.RELEASE:
            return self.front(letter)
        if outcome is Outcome.DEAD:
            counted = letter.attempt + (1 if settlement.counts else 0)
            return self.dead(letter, settlement.reason, settlement.error, counted)
        if outcome is Outcome.EXPIRED:
            return self.dead(letter, "expired", settlement.error, letter.attempt)
        return None

    def front(self, letter: Letter) -> Post:
        """Return the copy of a job that is released unstarted: first in its queue, or among the suspects.

        A loss that is forgiven is forgotten, or releases would add up to a suspicion: the broker counts a message in
        transit to an ended consumer as lost.
        """
        level, losses = (SUSPECTS, letter.losses) if letter.suspect else (FRONT, 0)
        return Post("", self._names.queue(letter.topic, level), letter.copy({LOSSES: losses}), letter.body)

    def charged(self, letter: Letter) -> Post:
        """Return the copy of a job that was lost once more: the loss is recorded, and the delay grows each time."""
        losses = letter.losses
        pause = min(LONGEST_PAUSE, 2.0 ** (losses - 3)) if losses >= 3 else 0.0
        return self._again(letter, pause, b"", {LOSSES: losses})

    def later(self, letter: Letter, delay: float) -> Post:
        """Return the copy of a job that is not yet due."""
        return self._again(letter, delay, b"", {LOSSES: letter.losses})

    def requeued(self, letter: Letter) -> Post:
        """Return the copy of a dead letter as if it were new."""
        return self._again(letter, 0.0, b"", {ATTEMPT: 0, DEFERRALS: 0, LOSSES: 0, REASON: ""})

    def dead(self, letter: Letter, reason: str, error: bytes, attempt: int) -> Post:
        """Return the copy for the dead letters, which expires when they do."""
        properties = letter.copy({REASON: reason, ATTEMPT: attempt, LOSSES: letter.losses}, error)
        properties.expiration = str(max(1, min(round(self._retention(letter.topic).dead_keep * 1000), (1 << 32) - 1)))
        return Post("", self._names.dead(letter.topic), properties, letter.body)

    def _again(self, letter: Letter, after: float, error: bytes, headers: dict[str, object]) -> Post:
        suspect = int(str(headers.get(LOSSES, 0))) >= SUSPECT
        queue = self._names.queue(letter.topic, SUSPECTS if suspect else level_of(letter.priority))
        exchange, key, left = self._names.route(queue, after)
        if left:
            headers[LEFT] = left
        return Post(exchange, key, letter.copy(headers, error), letter.body)
