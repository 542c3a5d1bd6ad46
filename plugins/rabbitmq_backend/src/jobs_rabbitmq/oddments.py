"""Letters that cannot simply be reserved, and how each is handled.

Some came back to a worker that still runs them, or has finished them meanwhile; some were lost once too often, which is
recorded in a copy; some have to wait on, because the ladder was too short; some were published by other programs, and their
envelopes request a delay or a priority. They are noted on arrival, and handled when the loop does not turn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from jobs_core.errors import BackendError

from .consumer import Consumer
from .copies import Copies
from .holding import Holding
from .letters import LEFT, Letter, wishes
from .publisher import Post
from .topology import Topology, level_of

logger = logging.getLogger("jobs.rabbitmq")

RETRY_PAUSE = 1.0
"""Seconds before a failed operation is tried again."""


class Oddments:
    """The exceptional letters of one worker. One thread."""

    def __init__(self, holding: Holding, copies: Copies, topology: Topology, publish: Callable[[Sequence[Post]], None]) -> None:
        self._holding = holding
        self._copies = copies
        self._topology = topology
        self._publish = publish
        self._letters: list[Letter] = []
        self._failed_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._letters)

    def clear(self) -> None:
        """Forget them: their connection is gone, and the broker has taken them back."""
        self._letters.clear()

    @property
    def due_at(self) -> float:
        """Return when they may be handled: at once, or a moment after a failure."""
        return self._failed_at + RETRY_PAUSE if self._letters else 0.0

    @property
    def due(self) -> bool:
        """Return whether any may be handled now."""
        return bool(self._letters) and time.monotonic() >= self.due_at

    def arrived(self, consumer: Consumer, letter: Letter) -> None:
        """Keep a letter here or with the consumer. Called while the loop turns: nothing here may wait."""
        again = letter.properties.headers is not None or letter.again
        if again and letter.again and self._holding.recognise(letter):
            return
        if letter.foreign or (again and self._is_odd(letter)):
            self._letters.append(letter)
        else:
            consumer.keep(letter)

    def _is_odd(self, letter: Letter) -> bool:
        if LEFT in letter.headers:
            return True
        if not letter.again:
            return False
        return self._holding.owes(letter) or self._to_be_charged(letter)

    def _to_be_charged(self, letter: Letter) -> bool:
        """Return whether to record a loss: in a quorum queue, the broker counts the first; a copy records later ones."""
        return letter.again and (letter.suspect or letter.deliveries() != 1)

    def sort_out(self, consumer: Consumer) -> None:
        """Handle them; keep those that cannot be handled now."""
        letters, self._letters = self._letters, []
        posts: list[Post] = []
        over: list[Letter] = []
        for letter in letters:
            settlement = self._holding.owed(letter) if letter.again else None
            if settlement is not None:
                post = self._copies.settled(letter, settlement)
            elif LEFT in letter.headers:
                post = self._copies.later(letter, _seconds(letter.headers[LEFT]))
            elif self._to_be_charged(letter):
                post = self._copies.charged(letter)
            else:
                post = self._foreign(consumer, letter)
                if post is None:
                    continue
            if post is not None:
                posts.append(post)
            over.append(letter)
        try:
            if any(post.exchange for post in posts):
                self._topology.need_ladder()
            self._publish(posts)
        except BackendError as error:
            logger.warning("%s", error)
            self._failed_at = time.monotonic()
            self._letters += [letter for letter in over if letter.generation == consumer.generation]
            return
        consumer.acknowledge(over)
        self._holding.paid(over)

    def _foreign(self, consumer: Consumer, letter: Letter) -> Post | None:
        """Return the copy that another producer's message requires; None if it may simply be reserved."""
        letter.id, priority, delay = wishes(letter)
        if not letter.again and (delay > 0 or level_of(priority) != letter.level):
            letter.properties.priority = letter.priority = priority
            return self._copies.later(letter, delay)
        consumer.keep(letter)
        return None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
