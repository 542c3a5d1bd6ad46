"""The copy of a message that is published before the message itself is acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs_core.backends.base import Outcome, Retention, Settlement

from .messages import ATTEMPT, DEFERRALS, DIED, LEFT, LOSSES, REASON, SUSPECT, BrokerMessage
from .publisher import Post
from .topology import FRONT, SUSPECTS, Names, level_of

LONGEST_PAUSE = 64.0


class Republisher:
    """Makes the copies of messages, for the queues of one prefix."""

    def __init__(self, names: Names, retention: Callable[[str], Retention]) -> None:
        self._names = names
        self._retention = retention

    def settled(self, message: BrokerMessage, settlement: Settlement) -> Post | None:
        """Return the copy that a settlement requires; None if the job has ended without a dead letter."""
        outcome = settlement.outcome
        if outcome is Outcome.RETRY:
            # This run ended by itself, so the earlier losses do not point to the job: start counting at 0.
            return self._again(message, settlement.after, settlement.error, {ATTEMPT: message.attempt + 1, LOSSES: 0})
        if outcome is Outcome.DEFER:
            return self._again(message, settlement.after, b"", {DEFERRALS: message.deferrals + 1, LOSSES: message.losses})
        if outcome is Outcome.RELEASE:
            return self.front(message)
        if outcome is Outcome.DEAD:
            counted = message.attempt + (1 if settlement.counts else 0)
            return self.dead(message, settlement.reason, settlement.error, counted)
        if outcome is Outcome.EXPIRED:
            return self.dead(message, "expired", settlement.error, message.attempt)
        return None

    def front(self, message: BrokerMessage) -> Post:
        """Return the copy of a job that is released unstarted: into the level served first, or among the suspects.

        The loss of a job that is not a suspect is not carried over: the broker also counts a message in transit to a
        cancelled consumer as lost, so that repeated releases would make the job a suspect.
        """
        level, losses = (SUSPECTS, message.losses) if message.suspect else (FRONT, 0)
        return Post("", self._names.queue(message.topic, level), message.copy({LOSSES: losses}), message.body)

    def charged(self, message: BrokerMessage) -> Post:
        """Return the copy of a job that was lost again: it records the loss; from the third on, its delay doubles each time."""
        losses = message.losses
        pause = min(LONGEST_PAUSE, 2.0 ** (losses - 3)) if losses >= 3 else 0.0
        return self._again(message, pause, b"", {LOSSES: losses})

    def later(self, message: BrokerMessage, delay: float) -> Post:
        """Return the copy of a job that has to wait for another `delay` seconds."""
        return self._again(message, delay, b"", {LOSSES: message.losses})

    def requeued(self, message: BrokerMessage) -> Post:
        """Return the copy that makes a dead letter a new job, without its counts."""
        return self._again(message, 0.0, b"", {ATTEMPT: 0, DEFERRALS: 0, LOSSES: 0, REASON: "", DIED: 0})

    def dead(self, message: BrokerMessage, reason: str, error: bytes, attempt: int) -> Post:
        """Return the copy for the dead letters, which expires after `dead_keep`."""
        headers = {REASON: reason, ATTEMPT: attempt, LOSSES: message.losses, DIED: round(time.time() * 1000)}
        properties = message.copy(headers, error)
        properties.expiration = str(max(1, min(round(self._retention(message.topic).dead_keep * 1000), (1 << 32) - 1)))
        return Post("", self._names.dead(message.topic), properties, message.body)

    def _again(self, message: BrokerMessage, after: float, error: bytes, headers: dict[str, object]) -> Post:
        suspect = int(str(headers.get(LOSSES, 0))) >= SUSPECT
        queue = self._names.queue(message.topic, SUSPECTS if suspect else level_of(message.priority))
        exchange, key, left = self._names.route(queue, after)
        if left:
            headers[LEFT] = left
        return Post(exchange, key, message.copy(headers, error), message.body)
