"""The messages that this worker has reserved, and those that it had reserved when a connection broke.

The broker makes all messages ready again that were unacknowledged on a broken connection. Other workers cannot know whether
the worker has died, but the worker itself, if it is alive, can recognise its messages: one that it still runs continues its
reservation, and one that it has meanwhile finished is settled, not run again.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable

from jobs_core.backends.base import Delivery, Outcome, Settlement

from .messages import SUSPECT, BrokerMessage

REMEMBERED = 60.0
"""Seconds for which the outcome of a run that could not be acknowledged is remembered."""

DOUBTFUL = 2.0
"""Seconds before a broken connection's end in which acknowledgements may have been lost."""

FORGOTTEN_AT_ONCE = 4
"""Most batches that are forgotten at a time: freeing ten thousand messages at once takes too long."""

PARDONED = 3
"""Number of losses that do not prove the job guilty: at the first two, the worker ran other jobs too, and connections break."""

_Key = tuple[str, float, int, int]


class Unacked:
    """The reservations by token. One thread at a time."""

    def __init__(self) -> None:
        self.held: dict[int, BrokerMessage] = {}
        self._tokens = 0
        self._ids: dict[str, int] = {}  # job id → token
        self._twins: dict[str, list[BrokerMessage]] = {}  # job id → further messages of a reserved job
        self._strays: dict[_Key, int] = {}  # message reserved when the connection broke → token
        self._owed: OrderedDict[_Key, tuple[float, Settlement]] = OrderedDict()
        self._recent: deque[tuple[float, list[BrokerMessage]]] = deque()

    def reserve(self, messages: Iterable[BrokerMessage]) -> list[Delivery]:
        """Reserve messages, but only one per job: a job that was published twice must not run twice at the same time."""
        deliveries = []
        for message in messages:
            if message.id in self._ids:
                self._twins.setdefault(message.id, []).append(message)
                continue
            self._tokens += 1
            message.token = self._ids[message.id] = self._tokens
            self.held[message.token] = message
            deliveries.append(delivery(message))
        return deliveries

    def twins(self, message: BrokerMessage) -> list[BrokerMessage]:
        """Remove and return the further messages of a job that is no longer reserved."""
        return self._twins.pop(message.id, [])

    def all_twins(self) -> list[BrokerMessage]:
        """Remove and return all further messages of reserved jobs."""
        twins = [message for messages in self._twins.values() for message in messages]
        self._twins.clear()
        return twins

    def find(self, settlement: Settlement) -> BrokerMessage | None:
        """Return the message of a settlement, if it is reserved under that token."""
        message = self.held.get(settlement.token) if isinstance(settlement.token, int) else None
        return message if message is not None and message.id == settlement.id else None

    def gone(self, message: BrokerMessage) -> None:
        """Forget a settled message."""
        self.held.pop(message.token, None)
        if self._ids.get(message.id) == message.token:
            del self._ids[message.id]
        self._strays.pop(_key(message), None)

    def acknowledged(self, messages: list[BrokerMessage]) -> None:
        """Record that the acknowledgements of these messages are in transit."""
        now = time.monotonic()
        self._recent.append((now, messages))
        for _ in range(FORGOTTEN_AT_ONCE):
            if self._recent[0][0] < now - DOUBTFUL:
                self._recent.popleft()

    def owe(self, message: BrokerMessage, settlement: Settlement) -> None:
        """Record the outcome of a job that could not be settled because the broker has made it ready again."""
        self.gone(message)
        self._remember(message, settlement)

    def _remember(self, message: BrokerMessage, settlement: Settlement) -> None:
        now = time.monotonic()
        self._owed[_key(message)] = now + REMEMBERED, settlement
        while self._owed and next(iter(self._owed.values()))[0] < now:
            self._owed.popitem(last=False)

    def connection_lost(self) -> None:
        """Record that the broker has made all reserved messages ready again, perhaps also those acknowledged last."""
        self._twins.clear()
        self._strays = {_key(message): token for token, message in self.held.items()}
        oldest = time.monotonic() - DOUBTFUL
        for at, messages in self._recent:
            if at >= oldest:
                for message in messages:
                    self._remember(message, Settlement(message.id, message.token, Outcome.DONE))
        self._recent.clear()

    def recognise(self, message: BrokerMessage) -> bool:
        """Return whether this worker still has the job reserved; its reservation then continues with this message."""
        token = self._strays.pop(_key(message), None)
        if token is None or token not in self.held:
            return False
        message.token = token
        self.held[token] = message
        return True

    def owes(self, message: BrokerMessage) -> bool:
        """Return whether this message is of a job that ended here before the message returned."""
        return _key(message) in self._owed

    def owed(self, message: BrokerMessage) -> Settlement | None:
        """Return the outcome of a job that ended here before its message returned."""
        found = self._owed.get(_key(message))
        return found[1] if found and found[0] >= time.monotonic() else None

    def paid(self, messages: Iterable[BrokerMessage]) -> None:
        """Forget the outcomes of these messages, which are settled now: if one returns again, that is another loss."""
        for message in messages:
            self._owed.pop(_key(message), None)

    def forget(self) -> list[BrokerMessage]:
        """Forget all reservations; return their messages."""
        held, self.held = list(self.held.values()), {}
        self._ids.clear()
        self._twins.clear()
        self._strays.clear()
        self._owed.clear()
        self._recent.clear()
        return held


def delivery(message: BrokerMessage) -> Delivery:
    """Convert a message to a delivery of the core."""
    return Delivery(
        message.id,
        message.topic,
        message.body,
        message.token,
        message.attempt,
        max(0, message.losses + 1 - SUSPECT),
        max(0, message.losses - PARDONED),
        message.deferrals,
        message.pushed_at,
        time.time(),
    )


def _key(message: BrokerMessage) -> _Key:
    return message.id, message.pushed_at, message.attempt, message.deferrals
