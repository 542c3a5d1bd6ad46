"""Messages that cannot simply be reserved, and how each is handled.

There are four kinds: messages that return to a worker that still runs them or has finished them meanwhile; messages that
were lost again, which is recorded in a copy; messages with a delay longer than the ladder, which have to wait again; and
messages of other programs, whose envelopes may request a delay or a priority. They are collected on arrival, inside the
loop, and handled outside of it, where publishing may wait.
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
    """The exceptional messages of one worker. Used by one thread."""

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
        """Forget the messages: their connection is closed, and the broker has made them ready again."""
        self._letters.clear()

    @property
    def due_at(self) -> float:
        """Return the monotonic time after which the messages may be handled: at once, or RETRY_PAUSE after a failure."""
        return self._failed_at + RETRY_PAUSE if self._letters else 0.0

    @property
    def due(self) -> bool:
        """Return whether there are messages that may be handled now."""
        return bool(self._letters) and time.monotonic() >= self.due_at

    def arrived(self, consumer: Consumer, message: BrokerMessage) -> None:
        """Keep a message here or in the consumer's buffer. Called inside the loop, so it must not wait."""
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
        """Return whether a copy has to record this loss. In a quorum queue, the broker counts the first loss."""
        return message.again and (message.suspect or message.deliveries() != 1)

    def sort_out(self, consumer: Consumer) -> None:
        """Handle the messages; keep them if the broker is unavailable."""
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
        """Return the copy that replaces another program's message; None if the message can be reserved as it is."""
        message.id, priority, delay = wishes(message)
        if not message.again and (delay > 0 or level_of(priority) != message.level):
            message.properties.priority = message.priority = priority
            return self._republisher.later(message, delay)
        consumer.keep(message)
        return None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
