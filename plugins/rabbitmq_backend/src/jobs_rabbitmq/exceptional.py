"""Messages that cannot simply be reserved, and how each is handled.

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
from .messages import LEFT, BrokerMessage, wishes
from .publisher import Post
from .republish import Republisher
from .topology import Topology, level_of
from .unacked import Unacked

logger = logging.getLogger("jobs.rabbitmq")

RETRY_PAUSE = 1.0
"""Seconds before a failed operation is tried again."""


class Exceptional:
    """The exceptional messages of one worker. One thread."""

    def __init__(
        self, unacked: Unacked, republisher: Republisher, topology: Topology, publish: Callable[[Sequence[Post]], None]
    ) -> None:
        self._unacked = unacked
        self._republisher = republisher
        self._topology = topology
        self._publish = publish
        self._letters: list[BrokerMessage] = []
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

    def arrived(self, consumer: Consumer, message: BrokerMessage) -> None:
        """Keep a message here or with the consumer. Called while the loop turns: nothing here may wait."""
        again = message.properties.headers is not None or message.again
        if again and message.again and self._unacked.recognise(message):
            return
        if message.foreign or (again and self._is_odd(message)):
            self._letters.append(message)
        else:
            consumer.keep(message)

    def _is_odd(self, message: BrokerMessage) -> bool:
        if LEFT in message.headers:
            return True
        if not message.again:
            return False
        return self._unacked.owes(message) or self._to_be_charged(message)

    def _to_be_charged(self, message: BrokerMessage) -> bool:
        """Return whether to record a loss: in a quorum queue, the broker counts the first; a copy records later ones."""
        return message.again and (message.suspect or message.deliveries() != 1)

    def sort_out(self, consumer: Consumer) -> None:
        """Handle them; keep those that cannot be handled now."""
        messages, self._letters = self._letters, []
        posts: list[Post] = []
        over: list[BrokerMessage] = []
        for message in messages:
            settlement = self._unacked.owed(message) if message.again else None
            if settlement is not None:
                post = self._republisher.settled(message, settlement)
            elif LEFT in message.headers:
                post = self._republisher.later(message, _seconds(message.headers[LEFT]))
            elif self._to_be_charged(message):
                post = self._republisher.charged(message)
            else:
                post = self._foreign(consumer, message)
                if post is None:
                    continue
            if post is not None:
                posts.append(post)
            over.append(message)
        try:
            if any(post.exchange for post in posts):
                self._topology.need_ladder()
            self._publish(posts)
        except BackendError as error:
            logger.warning("%s", error)
            self._failed_at = time.monotonic()
            self._letters += [message for message in over if message.generation == consumer.generation]
            return
        consumer.acknowledge(over)
        self._unacked.paid(over)

    def _foreign(self, consumer: Consumer, message: BrokerMessage) -> Post | None:
        """Return the copy that another producer's message requires; None if it may simply be reserved."""
        message.id, priority, delay = wishes(message)
        if not message.again and (delay > 0 or level_of(priority) != message.level):
            message.properties.priority = message.priority = priority
            return self._republisher.later(message, delay)
        consumer.keep(message)
        return None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
