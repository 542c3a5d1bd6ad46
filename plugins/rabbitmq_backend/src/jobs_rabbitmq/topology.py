"""The queues and exchanges in the broker. `jobs` is the prefix, `email` a topic; everything is durable.

====================  ===============  =============================================================================
name                  kind             content
====================  ===============  =============================================================================
jobs.email            queue            jobs of priority 0, the default; producers in other languages publish here,
                                       through the default exchange
jobs.email:1-3        queue            jobs of priority 1 to 3
jobs.email:4-6        queue            jobs of priority 4 to 6
jobs.email:7-9        queue            jobs of priority 7 to 9, and jobs released unstarted, which run first
jobs.email:suspects   queue            jobs that were lost twice with a worker or connection; they run apart from other jobs
jobs.email:dead       queue            dead letters: each with its reason and errors in its headers
jobs:delay.due        topic exchange   the end of the ladder: bound to every queue of jobs by the queue's name
jobs:delay.00 … 23    topic exchange   step n of the ladder, for 25 ms x 2^n
jobs:delay.00 … 23    queue            messages that wait on step n; after its time to live, a message goes to step n - 1
====================  ===============  =============================================================================

Queues of jobs and of the ladder are quorum queues (or classic ones, `?queues=classic`). A message that a queue of jobs
rejects, that expires, or that was delivered a thousand times goes to the topic's dead letters, at least once.

The routing key of a delayed message has one word for each step, from the highest down (1: it waits there, 0: it skips the
step), and then the queue's name: `0.0. … .1.0.1.jobs.email` waits on two steps. Only the broker moves delayed messages.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from pika.exceptions import AMQPError

from jobs_core.errors import BackendError

from .errors import ACCESS_REFUSED, NOT_FOUND, reply_code, translated
from .transport import BrokerConnection, OpenChannel
from .url import Target

logger = logging.getLogger("jobs.rabbitmq")

LEVELS = ("", ":1-3", ":4-6", ":7-9", ":suspects")
"""Suffixes of queue names: four levels of priority, and the suspects."""

FRONT = 3
"""The level that is served first."""

SUSPECTS = 4

STEP = 0.025
STEPS = 24
LONGEST = STEP * (2**STEPS - 1)
"""The longest delay that fits on the ladder, in seconds: almost five days. For a longer one, a message passes it repeatedly."""

DELIVERIES = 1000
"""Deliveries after which the broker itself dead-letters a message; our rules for suspects act long before that."""

OWN_CONSUMER_TIMEOUT = (3, 12)
"""The first version in which a queue can have its own consumer timeout."""

DOUBTFUL = 0.2
"""Seconds after which a length of 0 is in doubt: RabbitMQ also reports 0 if a quorum queue has not answered it in 250 ms."""

TRIES = 8
"""The number of doubtful answers after which a length of 0 is believed; a standstill of any duration costs one."""

LONGEST_RUN = 7 * 86400.0
"""The consumer timeout of our queues, in seconds; the core itself limits how long a job may run."""


def level_of(priority: int) -> int:
    """Return which of the four levels has jobs of this priority."""
    return (max(0, min(priority, 9)) + 2) // 3 if priority else 0


class Names:
    """The names of queues and exchanges under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.due = f"{prefix}:delay.due"

    def queue(self, topic: str, level: int) -> str:
        return f"{self.prefix}.{topic}{LEVELS[level]}"

    def queues(self, topic: str) -> list[str]:
        return [self.queue(topic, level) for level in range(len(LEVELS))]

    def dead(self, topic: str) -> str:
        return f"{self.prefix}.{topic}:dead"

    def step(self, number: int) -> str:
        return f"{self.prefix}:delay.{number:02}"

    def route(self, queue: str, delay: float) -> tuple[str, str, int]:
        """Return exchange and routing key for reaching a queue after `delay` seconds, and the seconds beyond the ladder."""
        if delay <= 0:
            return "", queue, 0
        left = max(0, math.ceil(delay - LONGEST))  # whole seconds: headers have no fractions
        steps = math.ceil((delay - left) / STEP - 1e-9)
        bits = f"{steps:0{STEPS}b}"
        return self.step(steps.bit_length() - 1), f"{'.'.join(bits)}.{queue}", left


class Topology:
    """Creates missing queues and exchanges; each is checked once per connection."""

    def __init__(self, target: Target, names: Names, connection: Callable[[], BrokerConnection]) -> None:
        self._target = target
        self.names = names
        self._connection = connection
        self._channel: OpenChannel | None = None
        self._topics: set[str] = set()
        self._ladder = False
        self._foot = False
        self._doubted = False  # something was deleted, so one existing queue does not prove that the others exist

    def forget(self) -> None:
        """Forget what was checked, because the connection is a new one."""
        self._topics.clear()
        self._ladder = self._foot = False
        self._channel = None

    def doubt(self) -> None:
        """Check everything again, one by one, because a queue or exchange was deleted."""
        self._topics.clear()
        self._ladder = self._foot = False
        self._doubted = True

    def known(self) -> frozenset[str]:
        """Return the topics whose queues were found or created on this connection."""
        return frozenset(self._topics)

    def need(self, topics: Iterable[str]) -> None:
        """Make sure that the queues of these topics exist."""
        for topic in topics:
            if topic not in self._topics:
                queues = [self.names.dead(topic), *self.names.queues(topic)]
                if not all(self.exists(queue) for queue in (queues if self._doubted else [self.names.queue(topic, 0)])):
                    self._make_topic(topic)
                self._topics.add(topic)

    def need_ladder(self) -> None:
        """Make sure that the ladder exists."""
        if not self._ladder:
            steps = [self.names.step(number) for number in range(STEPS)]
            if self._doubted:
                there = all(map(self._is_exchange, [self.names.due, *steps])) and all(map(self.exists, steps))
            else:
                there = self._is_exchange(steps[-1])
            if not there:
                self._make_ladder()
            self._ladder = True

    def _is_exchange(self, name: str) -> bool:
        return self._there(lambda channel, done: channel.exchange_declare(name, passive=True, callback=done))

    def make(self, topics: Iterable[str]) -> None:
        """Create everything that workers and producers may need."""
        self.forget()
        for topic in topics:
            self._make_topic(topic)
            self._topics.add(topic)
        self._make_ladder()
        self._ladder = True

    def exists(self, queue: str) -> bool:
        return self._there(lambda channel, done: _look(channel, queue, done))

    def length(self, queue: str) -> int:
        """Count the ready messages of a queue; 0 if it does not exist, or does not report its length in TRIES tries.

        Right after a restart, the broker may report too few.
        """
        for _ in range(TRIES):
            asked_at = time.monotonic()
            try:
                answer = self._do(lambda channel, done: _look(channel, queue, done))
            except Missing:
                return 0
            ready = int(answer.method.message_count)
            if ready or time.monotonic() - asked_at < DOUBTFUL:
                return ready
        return 0

    def purge(self, queue: str) -> int:
        """Delete the ready messages of a queue; return how many."""
        if not self.exists(queue):
            return 0
        return int(self._do(lambda channel, done: channel.queue_purge(queue, callback=done)).method.message_count)

    # -- making queues ----------------------------------------------------------------------------------

    def _make_topic(self, topic: str) -> None:
        """Create a topic's queues. `need` checks only the one that is created last: if it exists, all do."""
        names, quorum = self.names, self._target.queues == "quorum"
        if not self._foot:
            self._exchange(names.due)
            self._foot = True
        self._queue(names.dead(topic), {"x-delivery-limit": 1_000_000} if quorum else {})
        burial: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": names.dead(topic)}
        if quorum:
            burial |= {
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
                "x-delivery-limit": DELIVERIES,
            }
            if self.version() >= OWN_CONSUMER_TIMEOUT:
                burial["x-consumer-timeout"] = round(LONGEST_RUN * 1000)
        for level in reversed(range(len(LEVELS))):
            queue = names.queue(topic, level)
            self._queue(queue, burial)
            self._bind(queue, names.due, "*." * STEPS + queue)

    def _make_ladder(self) -> None:
        names, quorum = self.names, self._target.queues == "quorum"
        below = names.due
        self._exchange(below)
        for number in range(STEPS):
            step = names.step(number)
            arguments: dict[str, Any] = {"x-message-ttl": round(STEP * 2**number * 1000), "x-dead-letter-exchange": below}
            if quorum:
                arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
            self._queue(step, arguments)
            self._exchange(step)
            before = "*." * (STEPS - 1 - number)
            self._bind(step, step, before + "1.#")
            self._bind_exchange(below, step, before + "0.#")
            below = step

    def _queue(self, name: str, arguments: dict[str, Any]) -> None:
        full = {"x-queue-type": self._target.queues, **arguments}
        self._do(lambda channel, done: channel.queue_declare(name, durable=True, arguments=full, callback=done))

    def _exchange(self, name: str) -> None:
        self._do(lambda channel, done: channel.exchange_declare(name, "topic", durable=True, callback=done))

    def _bind(self, queue: str, exchange: str, key: str) -> None:
        self._do(lambda channel, done: channel.queue_bind(queue, exchange, key, callback=done))

    def _bind_exchange(self, below: str, exchange: str, key: str) -> None:
        self._do(lambda channel, done: channel.exchange_bind(below, exchange, key, callback=done))

    def version(self) -> tuple[int, int]:
        """Return the broker's version."""
        return version(self._connection())

    # -- requests ---------------------------------------------------------------------------------------

    def _there(self, command: Callable[[OpenChannel, Callable[[Any], None]], Any]) -> bool:
        try:
            self._do(command)
        except Missing:
            return False
        return True

    def _do(self, command: Callable[[OpenChannel, Callable[[Any], None]], Any]) -> Any:
        """Send a command and wait for its answer, on a separate channel, since a refusal closes the channel."""
        connection = self._connection()
        if self._channel is None or not self._channel.is_open:
            self._channel = connection.new_channel()
        channel = self._channel
        answers: list[Any] = []
        ends: list[BaseException] = []
        channel.add_on_close_callback(lambda _, reason: ends.append(reason))
        try:
            command(channel, answers.append)
        except AMQPError as error:
            raise translated(error, connection.where) from None
        connection.wait_for(lambda: answers or ends)
        if answers:
            return answers[0]
        self._channel = None
        if reply_code(ends[0]) == NOT_FOUND:
            raise Missing
        if reply_code(ends[0]) == ACCESS_REFUSED:
            raise BackendError(
                f"{connection.where}: a queue of jobs is missing, and this user may not create it: `jobsctl setup` as a user "
                f"with configure permission creates them all ({ends[0]})"
            )
        raise translated(ends[0], connection.where)


class Missing(Exception):
    """Raised when a queue or exchange does not exist."""


def _look(channel: OpenChannel, queue: str, done: Callable[[Any], None]) -> None:
    channel.queue_declare(queue, passive=True, callback=done)


def version(connection: BrokerConnection) -> tuple[int, int]:
    """Return the version of the node behind a connection; (0, 0) if it does not report one."""
    text = str((connection.server_properties or {}).get("version", ""))
    numbers = [int(part) for part in text.split(".")[:2] if part.isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
