"""Receive messages, by subscribing to queues or by fetching one message at a time.

Short jobs are delivered ahead of time, several at once. Long jobs are fetched one by one, from the first queue that has a
message, so that topics and priorities keep their order and no job waits here that another worker could run. An idle worker
subscribes to all queues, with one message each, and receives a new job at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pika import spec
from pika.exceptions import AMQPError, ChannelClosed

from .errors import NOT_FOUND, reply_code, translated
from .messages import SUSPECT, BrokerMessage
from .topology import FRONT, SUSPECTS, Topology
from .transport import COMMAND_TIMEOUT, BrokerConnection, OpenChannel

logger = logging.getLogger("jobs.rabbitmq")

ONE_BY_ONE = 4
"""Workers that want no more jobs than this fetch them one by one."""

_NORMAL = tuple(range(FRONT, -1, -1))
_ALL = (*_NORMAL, SUSPECTS)

ENOUGH = 64
"""A batch of this size is returned without asking the broker for more messages."""

HOARD = 16
"""Above this multiple of the suitable number of messages, those delivered ahead are released."""

LOOK_AGAIN = 0.02
"""Seconds after which the queue's length is checked again: another worker may have received its messages."""

LOOKS = round(COMMAND_TIMEOUT / LOOK_AGAIN)
"""The most looks in a row at a queue that has messages and delivers none, before its consumer is cancelled regardless.

Looks are counted, not seconds: while the broker or this machine stands still, a look takes as long as the standstill.
"""

Arrived = Callable[["Consumer", BrokerMessage], None]


def suitable(wanted: int) -> int:
    """Return how many messages each queue delivers ahead to a worker that wants `wanted` jobs."""
    return max(8, 1 << (wanted * 3 // 2 - 1).bit_length())


class Consumer:
    """One channel for all deliveries and acknowledgements.

    It ends with its connection; the broker then makes its unacknowledged messages ready again.
    """

    def __init__(self, connection: BrokerConnection, topology: Topology, generation: int, arrived: Arrived) -> None:
        self.connection = connection
        self.generation = generation
        self.buffers: dict[str, deque[BrokerMessage]] = {}  # queue → messages delivered and not yet reserved
        self._topology = topology
        self._names = topology.names
        self._arrived = arrived
        self._unacknowledged: dict[int, BrokerMessage] = {}
        self._queues: dict[str, tuple[str, int]] = {}  # queue → topic, level
        self._consumed: dict[str, str] = {}  # queue → consumer tag
        self._by_tag: dict[str, str] = {}  # consumer tag → queue, also of cancelled consumers
        self._under_way: dict[str, int] = {}  # consumer tag → number of messages delivered and not acknowledged
        self._windows: dict[str, int] = {}  # consumer tag → most messages that may be unacknowledged
        self._cancelled: set[str] = set()  # tags of consumers whose end the broker has not confirmed
        self._ended: list[str] = []  # tags of consumers whose end it has confirmed; dropped after its next answer
        self._scattered: set[tuple[str, int]] = set()  # topics and levels of messages acknowledged one by one, see `finish`
        self.prefetch = 0
        self._ending = False
        self._number = self._came = 0
        self._empty = False
        self._channel = self._open()

    def _open(self) -> OpenChannel:
        channel = self.connection.new_channel()
        channel.on_delivery = self._on_delivery
        channel.add_callback(self._on_empty, [spec.Basic.GetEmpty], one_shot=False)
        channel.add_on_cancel_callback(self._on_cancelled)
        channel.add_on_close_callback(self._on_closed)
        return channel

    # -- delivered messages -----------------------------------------------------------------------------

    def queues(self, topics: Iterable[str], levels: Iterable[int] = _NORMAL) -> list[str]:
        """Return the queues of these topics, in the order in which they are served."""
        ordered = []
        for topic in topics:
            for level in levels:
                queue = self._names.queue(topic, level)
                self._queues[queue] = topic, level
                ordered.append(queue)
        return ordered

    def holds(self, topics: Iterable[str], *, suspects: bool) -> bool:
        """Return whether a delivered message of these topics can be reserved."""
        return any(self.buffers.get(queue) for queue in self.queues(topics, _ALL if suspects else _NORMAL))

    def take_buffered(self) -> list[BrokerMessage]:
        """Remove and return all messages that were delivered and not reserved."""
        found = [message for buffer in self.buffers.values() for message in buffer]
        self.buffers.clear()
        return found

    def keep(self, message: BrokerMessage) -> None:
        """Append a message to the buffer of its queue."""
        queue = self._names.queue(message.topic, message.level)
        self.buffers.setdefault(queue, deque()).append(message)

    def keep_first(self, messages: Sequence[BrokerMessage]) -> None:
        """Return messages to the heads of the buffers from which they were taken."""
        for message in reversed(messages):
            if message.generation == self.generation:
                self.buffers.setdefault(self._names.queue(message.topic, message.level), deque()).appendleft(message)

    def take(self, topics: Sequence[str], limit: int, wanted: int, expected: int) -> list[BrokerMessage]:
        """Return up to `limit` messages, in order; every message pushed before this call can be found.

        `wanted`: the limit plus the jobs already reserved; `expected`: at most this many jobs will still be reserved.
        """
        self._topology.need(topics)
        queues = self.queues(topics)
        found: list[BrokerMessage] = []
        ahead = wanted > ONE_BY_ONE
        if ahead:
            for queue in queues:
                self._shift(queue, found, limit)
            left = expected - len(found)
            if self._is_to_end(wanted, left):
                if found:
                    return found
                self._fetch(topics, min(left, suitable(wanted)))
                ahead = False
            else:
                self._adjust(topics, wanted)
            if len(found) >= min(limit, ENOUGH):
                return found
        for queue in queues:
            self._shift(queue, found, limit)
            while len(found) < limit and self._get(queue):
                self._shift(queue, found, limit)
                if ahead:
                    break  # the subscription delivers the rest
            self._shift(queue, found, limit)
        return found

    def take_delivered(self, topics: Sequence[str], limit: int) -> list[BrokerMessage]:
        """Return up to `limit` messages that are already delivered, in order."""
        found: list[BrokerMessage] = []
        for queue in self.queues(topics):
            self._shift(queue, found, limit)
        return found

    def suspects_wait(self, topics: Sequence[str]) -> bool:
        """Return whether suspects are waiting."""
        return any(self.buffers.get(q) or self._topology.length(q) for q in self.queues(topics, [SUSPECTS]))

    def take_suspects(self, topics: Sequence[str], limit: int) -> list[BrokerMessage]:
        """Return suspects, which run apart from other jobs; one that was lost three times or more is returned alone."""
        self._topology.need(topics)
        found: list[BrokerMessage] = []
        for queue in self.queues(topics, [SUSPECTS]):
            while len(found) < limit:
                if not self.buffers.get(queue) and not self._get(queue):
                    break
                buffer = self.buffers.get(queue)
                if buffer:
                    if found and (buffer[0].losses > SUSPECT or found[0].losses > SUSPECT):
                        return found
                    found.append(buffer.popleft())
            if found:
                return found
        return found

    def _shift(self, queue: str, found: list[BrokerMessage], limit: int) -> None:
        buffer = self.buffers.get(queue)
        while buffer and len(found) < limit:
            found.append(buffer.popleft())

    # -- subscribing ---------------------------------------------------------------------------------

    @property
    def subscribed(self) -> bool:
        return bool(self._consumed)

    def _is_to_end(self, wanted: int, left: int) -> bool:
        """Return whether to end all subscriptions, because no more jobs will be reserved than may be delivered ahead.

        A consumer gets another message for each acknowledgement, so it would receive messages that no worker here reserves.
        """
        if not self._ending:
            self._ending = left < max(self.prefetch, suitable(wanted))
            if self._ending:
                self.unsubscribe()
        return self._ending

    def _fetch(self, topics: Sequence[str], count: int) -> None:
        """If any queue is long, receive up to `count` messages from each queue, and no more."""
        if any(self._topology.length(queue) > ONE_BY_ONE for queue in self.queues(topics)):
            self.subscribe(topics, count)
            self._until_delivered(list(self._consumed.values()))
            self.unsubscribe()

    def _adjust(self, topics: Sequence[str], wanted: int) -> None:
        """Have more messages delivered ahead, if the jobs are short enough and the queues have more.

        The number is never reduced: the duration of jobs is known only roughly, and excess messages are released, see
        `hoards`.
        """
        if self.covers(topics) and (suitable(wanted) <= self.prefetch or not self._full(topics)):
            return
        self.subscribe(topics, suitable(wanted))

    def hoards(self, wanted: int) -> bool:
        """Return whether far too many messages are here for jobs of this length, because jobs take longer than before."""
        return sum(map(len, self.buffers.values())) > HOARD * suitable(wanted)

    def _full(self, topics: Sequence[str]) -> list[str]:
        """Return the queues whose consumers have as many unacknowledged messages as allowed."""
        return [queue for queue in self.queues(topics) if self._under_way.get(self._consumed[queue], 0) >= self.prefetch]

    def covers(self, topics: Iterable[str], levels: Iterable[int] = _NORMAL) -> bool:
        """Return whether we are subscribed to all queues of these topics."""
        return all(queue in self._consumed for queue in self.queues(topics, levels))

    def listen(self, topics: Sequence[str]) -> None:
        """Subscribe to all queues of these topics, so that new messages are delivered at once."""
        if not self.covers(topics):
            self.subscribe(topics, 1)  # return: a consumer may now be full of a message that is not yet reserved
            return
        full = self._full(topics)
        if full:  # running jobs fill these consumers: replace them, so that new messages arrive
            self._cancel([self._consumed.pop(queue) for queue in full])
            self._consume(full, self.prefetch)

    def listen_for_suspects(self, topics: Sequence[str]) -> None:
        """Subscribe to suspects as well, for a worker that has reserved no job."""
        missing = [queue for queue in self.queues(topics, [SUSPECTS]) if queue not in self._consumed]
        if missing:
            self._consume(missing, 1)

    def leave_suspects(self, topics: Sequence[str]) -> list[BrokerMessage]:
        """End the subscription to suspects; return the suspects that have arrived."""
        queues = self.queues(topics, [SUSPECTS])
        tags = [self._consumed[queue] for queue in queues if queue in self._consumed]
        self._until_delivered([tag for tag in tags if tag in self._under_way])
        self._cancel([self._consumed.pop(queue) for queue in queues if queue in self._consumed])
        return [message for queue in queues for message in self.buffers.pop(queue, ())]

    def subscribe(self, topics: Sequence[str], prefetch: int) -> None:
        """Subscribe to the queues of these topics, and no others, with up to `prefetch` unacknowledged messages each."""
        self._topology.need(topics)
        self.unsubscribe()
        self.prefetch = prefetch
        self._consume(self.queues(topics), prefetch)

    def _consume(self, queues: Sequence[str], window: int) -> None:
        self._call(lambda done: self._channel.basic_qos(prefetch_count=window, callback=done))
        answers: list[Any] = []
        try:
            for queue in queues:
                self._number += 1
                tag = f"jobs-{self._number}"
                self._consumed[queue], self._by_tag[tag], self._windows[tag] = tag, queue, window
                self._channel.consume(queue, tag, answers.append)
        except AMQPError as error:
            raise translated(self.connection.failure or error, self.connection.where) from None
        self.connection.wait_for(lambda: len(answers) == len(queues))

    def unsubscribe(self, *, leaving: bool = False) -> None:
        """Stop deliveries. `leaving`: also wait for jobs that other workers, which may stop at the same time, release to us."""
        self._until_delivered(list(self._consumed.values()), calm=leaving)
        consumed, self._consumed, self.prefetch = self._consumed, {}, 0
        self._cancel(consumed.values())
        if leaving:
            self.connection.wait_for(lambda: not self._cancelled)

    def _until_delivered(self, tags: Sequence[str], *, calm: bool = False) -> None:
        """Wait until each of these consumers is full or its queue is empty; `calm`: and until no message arrived for a moment.

        If a consumer is cancelled while messages are in transit to it, a quorum queue takes these back and counts them as
        lost. Messages can be in transit after each acknowledgement, which makes room for more. A broker that does not answer a
        look within COMMAND_TIMEOUT ends the wait, and the connection.
        """
        came, looks = self._came, 0
        while self.connection.failure is None and looks < LOOKS:
            looks = looks + 1 if came == self._came else 0
            came = self._came
            roomy = [tag for tag in tags if self._has_room(tag)]
            waiting = [tag for tag in roomy if self._topology.length(self._by_tag[tag])]
            if waiting:
                self._wait_until(lambda: not any(map(self._has_room, waiting)))  # noqa: B023 - it is called here alone
            elif not (calm and roomy) or not self._wait_until(lambda: self._came != came):  # noqa: B023
                return

    def _wait_until(self, condition: Callable[[], bool]) -> bool:
        return self.connection.until(condition, LOOK_AGAIN)

    def _has_room(self, tag: str) -> bool:
        return self._under_way.get(tag, 0) < self._windows[tag]

    def finish(self) -> None:
        """Stop deliveries; on return, messages in transit have arrived, and the queues have all acknowledgements.

        The broker's channel holds acknowledgements back while a quorum queue has many to write to the disk, and drops them
        when it is closed. A request to that queue (a cancel, or one more message) is processed after the acknowledgements
        that were passed on, and its answer makes the channel pass on the others. The second round trip (`confirm`) ends
        after these.
        """
        queues = [self._names.queue(topic, level) for topic, level in self._scattered]
        asked = [queue for queue in queues if queue not in self._consumed]
        self.unsubscribe(leaving=True)
        for queue in asked:
            self._get(queue)
        self._scattered.clear()
        self.confirm()

    def confirm(self) -> None:
        """Wait until the broker has processed everything that was sent: it acts on a channel's frames in order."""
        self._call(lambda done: self._channel.basic_qos(prefetch_count=1, callback=done))

    def _cancel(self, tags: Iterable[str]) -> None:
        if self.connection.failure is None:
            for tag in tags:
                self._cancelled.add(tag)
                self._channel.basic_cancel(tag, callback=self._on_cancel_ok)

    def _on_cancel_ok(self, answer: Any) -> None:
        tag = answer.method.consumer_tag
        self._cancelled.discard(tag)
        self._ended.append(tag)  # messages that its queue sent before may still arrive

    def _on_cancelled(self, request: Any) -> None:
        """Note that the broker has ended a consumer: its queue was deleted."""
        queue = self._by_tag.pop(request.method.consumer_tag, "")
        if self._consumed.get(queue) == request.method.consumer_tag:
            del self._consumed[queue]
        if queue in self._queues:
            logger.error("queue %s was deleted, along with its jobs; it is being recreated", queue)
            self._topology.doubt()

    # -- one by one ----------------------------------------------------------------------------------

    def _get(self, queue: str) -> bool:
        """Fetch one message, if there is one, and append it to the queue's buffer."""
        found: list[bool] = []

        def got(_: Any, method: Any, properties: Any, body: bytes) -> None:
            found.append(True)
            self._take_in(queue, method.delivery_tag, method.redelivered, properties, body)

        self._empty = False
        try:
            self._channel.basic_get(queue, got)
        except AMQPError as error:
            raise translated(self.connection.failure or error, self.connection.where) from None
        self.connection.wait_for(lambda: found or self._empty)
        return bool(found)

    def _on_empty(self, _: Any) -> None:
        self._empty = True

    # -- arrivals ------------------------------------------------------------------------------------

    def _on_delivery(self, tag: int, again: bool, consumer: str, properties: spec.BasicProperties, body: bytes) -> None:
        queue = self._by_tag.get(consumer)
        if queue is not None:
            self._came += 1
            self._under_way[consumer] = self._under_way.get(consumer, 0) + 1
            self._take_in(queue, tag, again, properties, body, consumer)

    def _take_in(
        self, queue: str, tag: int, again: bool, properties: spec.BasicProperties, body: bytes, consumer: str = ""
    ) -> None:
        topic, level = self._queues[queue]
        message = BrokerMessage(tag, self.generation, topic, level, again, properties, body)
        message.consumer = consumer
        self._unacknowledged[tag] = message
        self._arrived(self, message)

    # -- acknowledging -------------------------------------------------------------------------------

    def acknowledge(self, messages: Iterable[BrokerMessage]) -> None:
        """Acknowledge the messages of this connection; return when the kernel has the acknowledgements to send.

        pika sends the next cancel when the last one is confirmed. An acknowledgement that overtook one would make room for
        messages that come to a cancelled consumer, see `_until_delivered`.
        """
        tags = {message.tag for message in messages if message.generation == self.generation}
        if not tags:
            return
        if self._cancelled:
            self.connection.wait_for(lambda: not self._cancelled)
        last = 0
        for tag in self._unacknowledged:  # in order of arrival
            if tag not in tags:
                break
            last = tag
        singly = []
        for tag in tags:
            message = self._unacknowledged.pop(tag, None)
            if message is None:
                continue
            self._came_through(message.consumer)
            if tag > last:
                singly.append(tag)
                self._scattered.add((message.topic, message.level))
        try:
            self._channel.acknowledge(singly, up_to=last)
        except AMQPError as error:
            raise translated(self.connection.failure or error, self.connection.where) from None
        self.connection.flush()

    def _came_through(self, consumer: str) -> None:
        """Subtract one from a consumer's unacknowledged messages."""
        if consumer:
            left = self._under_way[consumer] = self._under_way.get(consumer, 1) - 1
            if left <= 0 and consumer not in self._by_tag:
                del self._under_way[consumer]

    # -- ends ----------------------------------------------------------------------------------------

    def _call(self, command: Callable[[Callable[[Any], None]], Any]) -> None:
        answers: list[Any] = []
        ended, self._ended = self._ended, []
        try:
            command(answers.append)
        except AMQPError as error:
            raise translated(self.connection.failure or error, self.connection.where) from None
        self.connection.wait_for(lambda: answers)
        for tag in ended:
            self._by_tag.pop(tag, None)
            self._windows.pop(tag, None)
            if not self._under_way.get(tag):
                self._under_way.pop(tag, None)

    def _on_closed(self, _: Any, reason: BaseException) -> None:
        """Close the connection with the channel; the broker makes its messages ready again.

        Reconnecting is the only way of recovery, so that only one has to be tested.
        """
        if self.connection.failure is None and not self.connection.closing:
            if isinstance(reason, ChannelClosed):  # else the connection has ended, which the next request reports
                logger.error("%s", translated(reason, self.connection.where))
            if reply_code(reason) == NOT_FOUND:
                self._topology.doubt()
            self.connection.abort(reason)
