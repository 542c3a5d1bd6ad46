"""The backend: two connections to RabbitMQ, one for deliveries and one for publishing."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence

from jobs_core.backend_kit import count, left
from jobs_core.backends.base import Answer, BackendOptions, Delivery, Heartbeat, Outcome, Outgoing, Settlement
from jobs_core.errors import BackendError, BackendUnavailable, NotSupported, QueueFull

from .consumer import Consumer
from .errors import NOT_FOUND, reply_code
from .exceptional import RETRY_PAUSE, Exceptional
from .messages import LEFT, BrokerMessage, fresh
from .operators import RabbitMQOperatorCalls
from .publisher import Post, Publisher
from .republish import Republisher
from .suspects import Suspects
from .topology import Names, Topology, level_of
from .transport import BrokerConnection, connect, new_loop
from .unacked import Unacked, delivery
from .url import Target

logger = logging.getLogger("jobs.rabbitmq")

AHEAD = 0.050
"""Seconds for which a worker may only wait for its running jobs before it releases the messages delivered ahead."""

FEW, LONGER = 8, 0.25
"""If a queue delivers more than FEW messages ahead, LONGER seconds: such jobs are short, and subscribing again costs more."""

PUBLISHERS_HEARTBEAT = 60
"""Seconds; longer than for deliveries, because a dead connection for publishing loses no jobs and is noticed at its next use.

While a job holds the interpreter, there is time for few heartbeats; the connection that holds jobs needs them more.
"""

IDLE = 60.0
"""Seconds after which a producer's unused connection is replaced."""

FULL = 2.0
"""Seconds of refusals after which a queue counts as full or leaderless."""

FIRST_PAUSE = 0.05
"""Seconds before the second try to publish; doubled after each further try."""

CALM = 0.2
"""Seconds without a job after which an idle worker subscribes to suspects, too."""

REMEMBERED_PUSHES = 64


class RabbitMQBackend(RabbitMQOperatorCalls):
    """The backend for one virtual host; the package's docstring says how it works."""

    name = "amqp"
    features = frozenset({"delay", "priority", "multiprocess", "prefix"})

    def __init__(self, target: Target, options: BackendOptions) -> None:
        self._target = target
        self._options = options
        self._names = Names(target.prefix or options.prefix)
        self._loop = new_loop()
        self._owner = ""
        self._publisher = Publisher(self._loop, self._connect_publisher)
        self._topology = Topology(target, self._names, self._primary)
        self._republisher = Republisher(self._names, options.retention)
        self._unacked = Unacked()
        self._suspects = Suspects(self._unacked)
        self._consumer: Consumer | None = None
        self._expected = sys.maxsize  # at most this many jobs will still be reserved
        self._generation = 0
        self._exceptional = Exceptional(self._unacked, self._republisher, self._topology, self._publish)
        self._pushes: OrderedDict[str, set[str]] = OrderedDict()  # request → ids of its messages that are already in a queue
        self._as_it_comes = self._more_may_have_come = False  # see reserve_next
        self._reserved: tuple[str, list[int]] = "", []  # the last request, and the tokens of its jobs
        self._settled: tuple[str, set[object]] = "", set()  # the last request, and the tokens that it settled
        self._asked_at = self._worked_at = self._idle_since = self._used_at = self._tried_at = 0.0

    # -- connections ---------------------------------------------------------------------------------

    def open(self, owner: str | None) -> None:
        self._owner = owner or ""
        self._expected = sys.maxsize
        self._used_at = time.monotonic()
        self._primary()

    def prepare(self, topics: Sequence[str]) -> None:
        self._primary()
        self._topology.need(topics)
        self._publisher.prepare()

    def close(self) -> None:
        if self._owner:
            with contextlib.suppress(BackendError):
                self._leave()
        self._unacked.forget()
        consumer, self._consumer = self._consumer, None
        self._exceptional.clear()
        self._owner = ""
        if consumer is not None:
            consumer.connection.shut()
        self._publisher.close()
        self._topology.forget()

    def _connect_publisher(self) -> BrokerConnection:
        # A producer reads from its connection only while it pushes, so it could not answer heartbeats in between.
        heartbeat = max(self._target.heartbeat, PUBLISHERS_HEARTBEAT) if self._owner else 0
        if not self._owner:
            self._topology.forget()
        return connect(self._target, self._loop, heartbeat=heartbeat, name=f"jobs push {self._owner}".rstrip())

    def _primary(self) -> BrokerConnection:
        """Return the connection for everything but publishing; a producer has one connection for everything."""
        if self._owner:
            return self._taking().connection
        now = time.monotonic()
        if now - self._used_at > IDLE:
            self._publisher.close()
        self._used_at = now
        return self._publisher.open()

    def _taking(self) -> Consumer:
        """Return the consumer, on a working connection."""
        consumer = self._consumer
        if consumer is not None and consumer.connection.failure is None:
            return consumer
        if consumer is not None:
            self._lost()
        self._topology.forget()
        connection = connect(self._target, self._loop, heartbeat=self._target.heartbeat, name=f"jobs take {self._owner}")
        self._generation += 1
        self._consumer = Consumer(connection, self._topology, self._generation, self._exceptional.arrived)
        return self._consumer

    def _lost(self) -> None:
        """Forget the messages of the lost connection: the broker has made them ready again."""
        self._consumer = None
        self._exceptional.clear()
        self._unacked.connection_lost()

    # -- push ------------------------------------------------------------------------------------------

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        if not messages:
            return {}
        for message in messages:
            if message.unique:
                raise self._lacks("unique")
        self._primary()
        self._topology.need({message.topic for message in messages})
        if any(message.delay > 0 for message in messages):
            self._topology.need_ladder()
        confirmed = self._pushes.setdefault(request, set())
        while len(self._pushes) > REMEMBERED_PUSHES:
            self._pushes.popitem(last=False)
        self._publish([self._post(message) for message in messages if message.id not in confirmed], confirmed)
        return {}

    def _post(self, message: Outgoing) -> Post:
        queue = self._names.queue(message.topic, level_of(message.priority))
        exchange, key, left = self._names.route(queue, message.delay)
        properties = fresh(message)
        if left:
            properties.headers = {LEFT: left}
        return Post(exchange, key, properties, message.payload)

    def _publish(self, posts: Sequence[Post], confirmed: set[str] | None = None) -> None:
        """Publish messages; recreate queues that were deleted."""
        if not posts:
            return
        confirmed = set() if confirmed is None else confirmed
        refused = self._try_to_publish(posts, confirmed)
        if refused:
            logger.warning("a queue of jobs is missing and is being recreated: was it deleted?")
            self._topology.doubt()
            again = [post for post in posts if post.properties.message_id in refused]
            self._topology.need({self._topic_of(post.key) for post in again})
            if any(post.exchange for post in again):
                self._topology.need_ladder()
            refused = self._try_to_publish(again, confirmed)
        if refused:
            raise BackendError(
                f"{self._target.shown}: no queue takes {count(len(refused), 'message')}: `jobsctl setup` creates the queues"
            )

    def _try_to_publish(self, posts: Sequence[Post], confirmed: set[str]) -> set[str]:
        """Publish messages; return the ids of those for which there is no queue.

        A queue that refuses them for FULL seconds is full, or has no leader.
        """
        until, pause = (
            time.monotonic() + left(2 * FULL) / 2,
            FIRST_PAUSE,
        )  # so that "full" is reported before the caller's deadline
        while True:
            try:
                return self._publisher.publish(posts, confirmed)
            except QueueFull:
                self._publisher.change_channel()
                if time.monotonic() > until:
                    nacked = (post for post in posts if post.properties.message_id in self._publisher.nacked)
                    self._need_leaders({post.exchange or post.key for post in nacked})
                    raise
                posts = [post for post in posts if post.properties.message_id not in confirmed]
                self._loop.until(lambda: self._publisher.failure is not None, pause)
                pause *= 2
            except BackendError:
                if reply_code(self._publisher.failure) == NOT_FOUND:  # an exchange is missing; the next try recreates it
                    self._topology.doubt()
                raise

    def _need_leaders(self, queues: Iterable[str]) -> None:
        """Check that queues that refuse messages have leaders, or raise BackendUnavailable.

        A queue also refuses while it has no leader: when it was just made, or its node is gone. It is then reported as
        empty, except for a moment before and after; a full queue never is.
        """
        for queue in queues:
            if not self._topology.length(queue):
                raise BackendUnavailable(f"{self._target.shown}: queue {queue} has no leader at present: is a node down?")

    def _topic_of(self, key: str) -> str:
        name = key[key.index(f"{self._names.prefix}.") + len(self._names.prefix) + 1 :]
        return name.partition(":")[0]

    # -- reserve ---------------------------------------------------------------------------------------

    def reserve(self, topics: Sequence[str], limit: int, request: str) -> list[Delivery]:
        consumer = self._taking()
        self._loop.look()
        again, tokens = self._reserved
        if again == request:
            return [delivery(self._unacked.held[token]) for token in tokens if token in self._unacked.held]
        self._asked_at, self._idle_since = time.monotonic(), 0.0
        messages = self._suspects.before(consumer, topics, limit)
        try:
            if not messages and not self._suspects.drying:
                messages = self._take(consumer, topics, limit) or self._suspects.when_idle(consumer, topics, limit)
            if messages and messages[0].suspect:
                self._release_ahead()  # if this job kills the worker, no other job becomes a suspect with it
            elif messages:
                self._release(consumer.leave_suspects(topics), ahead=False)
        except BackendError:
            consumer.keep_first(messages)
            raise
        if messages:
            self._worked_at = time.monotonic()
        deliveries = self._unacked.reserve(messages)
        self._reserved = request, [message.token for message in messages if message.token]
        self._expected -= len(deliveries)
        return deliveries

    def reserve_next(self, topics: Sequence[str], limit: int, request: str, timeout: float) -> list[Delivery]:
        """Reserve jobs as they are delivered, if the worker is waiting.

        The worker is subscribed to all queues. Asking each queue of higher order for messages again would cost a round trip
        per queue before the job can start. Messages that arrived later are found by the next call, before it waits.
        """
        if self._more_may_have_come:
            self._more_may_have_come = False
            deliveries = self.reserve(topics, limit, request)
            if deliveries:
                return deliveries
            self._reserved = "", []  # the request has got no jobs yet, and continues below
        if not self.wait(topics, timeout):
            return []
        self._as_it_comes = True
        try:
            return self.reserve(topics, limit, request)
        finally:
            self._as_it_comes = False

    def _take(self, consumer: Consumer, topics: Sequence[str], limit: int) -> list[BrokerMessage]:
        if self._as_it_comes and not self._exceptional.due:
            messages = consumer.take_delivered(topics, limit)
            self._more_may_have_come = bool(messages)
            if messages:
                return messages
        wanted = limit + len(self._unacked.held)
        if consumer.hoards(wanted):
            self._release_ahead()
        expected = max(limit, self._expected)
        messages = consumer.take(topics, limit, wanted, expected)
        if not self._exceptional.due:
            return messages
        consumer.keep_first(messages)
        self._exceptional.sort_out(consumer)
        return consumer.take(topics, limit, wanted, expected)

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self._heard():
            left = deadline - time.monotonic()
            if topics:
                if self._wait_for_work(topics, left):
                    return True
            else:
                self._only_serve(left)
            if left <= 0:
                self._heard()
                return False
        return False

    def _heard(self) -> bool:
        heard, self._loop.interrupted = self._loop.interrupted, False
        return heard

    def _wait_for_work(self, topics: Sequence[str], timeout: float) -> bool:
        consumer = self._taking()
        self._asked_at, self._idle_since = time.monotonic(), 0.0
        if self._suspects.drying:
            self._loop.until(lambda: self._loop.interrupted or consumer.connection.failure, min(max(0.0, timeout), AHEAD))
            return not self._unacked.held
        if self._holds(consumer, topics) or self._suspects.more:
            return True
        consumer.listen(topics)
        if self._exceptional.due:
            self._exceptional.sort_out(consumer)
        calm = self._asked_at - self._worked_at >= CALM
        if calm and not self._unacked.held:
            consumer.listen_for_suspects(topics)
        self._until_something(consumer, topics, timeout if calm else min(timeout, CALM))
        return self._holds(consumer, topics)

    def _until_something(self, consumer: Consumer, topics: Sequence[str], timeout: float) -> None:
        """Wait until there is a job, or another reason to end the wait."""

        def something() -> bool:
            return bool(
                self._loop.interrupted
                or consumer.connection.failure
                or self._holds(consumer, topics)
                or self._exceptional.due
                or not consumer.covers(topics)
            )

        if self._exceptional:
            timeout = min(timeout, self._exceptional.due_at - time.monotonic())
        self._loop.until(something, max(0.0, timeout))
        if consumer.connection.failure is not None:
            raise consumer.connection.error()

    def _only_serve(self, timeout: float) -> None:
        """Answer heartbeats, and release messages delivered ahead that the worker does not ask for."""
        consumer = self._consumer
        now = time.monotonic()
        if consumer is None or consumer.connection.failure is not None:
            if (
                now - self._tried_at >= RETRY_PAUSE
            ):  # reconnect early: one of our jobs may come back to us, not to another worker
                self._tried_at = now
                with contextlib.suppress(BackendError):
                    self._taking()
            self._loop.until(lambda: self._loop.interrupted, min(max(0.0, timeout), RETRY_PAUSE))
            return
        if consumer.subscribed or any(consumer.buffers.values()) or self._exceptional:
            # Idle time starts at the first wait after a reserve or the end of a job; the time that these took does not count.
            self._idle_since = self._idle_since or now
            patience = AHEAD if consumer.prefetch <= FEW else LONGER  # on a busy machine, even short jobs pause
            release_at = max(self._idle_since + patience, self._tried_at + RETRY_PAUSE, self._exceptional.due_at)
            if now >= release_at:
                try:
                    self._release_ahead()
                except BackendError:
                    self._tried_at = time.monotonic()
                return
            timeout = min(timeout, release_at - now)
        ahead = consumer.buffers
        self._loop.until(
            lambda: self._loop.interrupted or consumer.connection.failure or (not consumer.subscribed and any(ahead.values())),
            max(0.0, timeout),
        )

    def _holds(self, consumer: Consumer, topics: Sequence[str]) -> bool:
        """Return whether a reserve would find a delivered message; suspects count only if no job is reserved."""
        return consumer.holds(topics, suspects=not self._unacked.held)

    def expect(self, jobs: int) -> None:
        self._expected = jobs

    def interrupt(self) -> None:
        self._loop.interrupt()

    # -- release ---------------------------------------------------------------------------------------

    def _release_ahead(self) -> None:
        """Stop deliveries, and release the messages that were delivered ahead."""
        consumer = self._taking()
        if consumer.subscribed:
            consumer.unsubscribe()
        if self._exceptional.due:
            self._exceptional.sort_out(consumer)
        self._release([])

    def _release(self, held: Iterable[BrokerMessage], *, ahead: bool = True) -> None:
        """Release these jobs, and those delivered ahead, by publishing copies: a rejected message would count as lost."""
        consumer = self._consumer
        if consumer is None or consumer.connection.failure is not None:
            return
        messages = [message for message in held if message.generation == self._generation]
        waiting = consumer.take_buffered() if ahead else []
        if not messages and not waiting:
            return
        try:
            self._publish([self._republisher.front(message) for message in self._loop.attending([*messages, *waiting])])
        except BackendError:
            consumer.keep_first([message for message in (*messages, *waiting) if not message.token])
            raise
        consumer.acknowledge([*messages, *waiting])

    def _leave(self) -> None:
        """Release everything before the connection closes, because the broker counts unacknowledged messages as lost."""
        consumer = self._consumer
        if consumer is None or consumer.connection.failure is not None:
            return
        consumer.finish()
        if self._exceptional:
            self._exceptional.sort_out(consumer)
        twins = self._unacked.all_twins()
        self._release(self._unacked.forget())
        consumer.acknowledge(twins)
        consumer.confirm()

    # -- settle ----------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement], request: str) -> list[Answer]:
        if not settlements:
            return []
        self._loop.look()  # acknowledgements are not confirmed, so notice a closed connection before sending them
        consumer = self._taking()
        if self._settled[0] != request:
            self._settled = request, set()
        done_before = set(self._settled[1])
        released = sum(settlement.outcome is Outcome.RELEASE for settlement in settlements)
        if released:
            self._expected += released
            consumer.unsubscribe(leaving=True)  # a worker that releases surplus jobs must not get new ones in exchange
        answers: list[Answer] = []
        over: list[BrokerMessage] = []
        copied: list[tuple[BrokerMessage, Post]] = []
        for settlement in settlements:
            message = self._unacked.find(settlement)
            if message is None:
                answers.append(Answer.ALREADY if settlement.token in done_before else Answer.STALE)
            elif message.generation != self._generation:
                self._unacked.owe(message, settlement)
                consumer.keep_first(self._unacked.twins(message))
                answers.append(Answer.STALE)
            else:
                answers.append(Answer.SETTLED)
                post = self._republisher.settled(message, settlement)
                if message.suspect:
                    self._suspects.settled(settlement)
                if post is None:
                    over.append(message)
                else:
                    copied.append((message, post))
        self._acknowledge(consumer, over)
        if over:
            self._idle_since = 0.0
        self._unacked.acknowledged(over)
        consumer.acknowledge(
            [twin for message in over for twin in self._unacked.twins(message)]
        )  # the same job, published twice
        if copied:
            if any(post.exchange for _, post in copied):
                self._topology.need_ladder()
            self._publish([post for _, post in copied])
            self._acknowledge(consumer, [message for message, _ in copied])
            for message, _ in copied:
                consumer.keep_first(self._unacked.twins(message))
        return answers

    def confirm(self) -> None:
        consumer = self._consumer
        if consumer is None or consumer.connection.failure is not None:
            raise BackendUnavailable(f"{self._target.shown}: the connection that sent the acknowledgements is lost")
        consumer.confirm()

    def _acknowledge(self, consumer: Consumer, messages: list[BrokerMessage]) -> None:
        if not messages:
            return
        consumer.acknowledge(messages)
        for message in messages:
            self._settled[1].add(message.token)
            self._unacked.gone(message)

    # -- the lease: the connection ----------------------------------------------------------------------

    def heartbeat(self) -> Heartbeat:
        self._taking()
        self._loop.look()
        return Heartbeat()

    def release_owner(self, owner: str, started: Collection[str], report: bytes, ran: Collection[str] = ()) -> int:
        """Do nothing: the broker released the dead process's jobs when its connection closed."""
        return 0

    def _lacks(self, feature: str) -> NotSupported:
        if feature in ("results", "cancel", "lookup", "unique"):
            return NotSupported(
                feature,
                f"{self.name}://",
                'set [results] url = "sqlite:///results.db" (or a redis:// or postgresql:// URL), which stores it separately',
            )
        return super()._lacks(feature)
