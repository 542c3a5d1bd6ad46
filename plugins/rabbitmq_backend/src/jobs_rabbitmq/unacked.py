"""The messages that this worker holds, and those that it held when a connection broke.

The broker makes all messages ready again that were unacknowledged on a broken connection. Another worker cannot know
whether the first one has died; the first one itself, if it is alive, can. So a message that comes back to the worker that
still runs it continues its reservation, and one that comes back to the worker that has meanwhile finished it is settled,
not run again.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable

from jobs_core.backends.base import Delivery, Outcome, Settlement

from .messages import SUSPECT, BrokerMessage

REMEMBERED = 60.0
"""Seconds for which a finished run is remembered that could not be acknowledged."""

DOUBTFUL = 2.0
"""Seconds before a broken connection's end in which acknowledgements may have been lost."""

FORGOTTEN_AT_ONCE = 4
"""Batches of older ones that are forgotten at a time: freeing ten thousand messages takes a while."""

PARDONED = 3
"""Number of losses that do not yet point to the job: the worker ran others in the first two, and connections break."""

_Key = tuple[str, float, int, int]


class Unacked:
    """Reservations by token. One thread at a time."""

    def __init__(self) -> None:
        self.held: dict[int, BrokerMessage] = {}
        self._tokens = 0
        self._ids: dict[str, int] = {}  # job id → token
        self._twins: dict[str, list[BrokerMessage]] = {}  # job id → further messages of a held job
        self._strays: dict[_Key, int] = {}  # held when the connection broke → token
        self._owed: OrderedDict[_Key, tuple[float, Settlement]] = OrderedDict()
        self._recent: deque[tuple[float, list[BrokerMessage]]] = deque()

    def reserve(self, messages: Iterable[BrokerMessage]) -> list[Delivery]:
        """Reserve messages, but only one at a time of each job: a job that was published twice does not run twice at once."""
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
        """Return further messages of a job that is no longer held."""
        return self._twins.pop(message.id, [])

    def all_twins(self) -> list[BrokerMessage]:
        """Return all further messages of held jobs."""
        twins = [message for messages in self._twins.values() for message in messages]
        self._twins.clear()
        return twins

    def find(self, settlement: Settlement) -> BrokerMessage | None:
        """Return the message of a settlement, if it is held under that token."""
        message = self.held.get(settlement.token) if isinstance(settlement.token, int) else None
        return message if message is not None and message.id == settlement.id else None

    def gone(self, message: BrokerMessage) -> None:
        """Forget a settled message."""
        self.held.pop(message.token, None)
        if self._ids.get(message.id) == message.token:
            del self._ids[message.id]
        self._strays.pop(_key(message), None)

    def acknowledged(self, messages: list[BrokerMessage]) -> None:
        """Record that their acknowledgement is in transit."""
        now = time.monotonic()
        self._recent.append((now, messages))
        for _ in range(FORGOTTEN_AT_ONCE):
            if self._recent[0][0] < now - DOUBTFUL:
                self._recent.popleft()

    def owe(self, message: BrokerMessage, settlement: Settlement) -> None:
        """Record the outcome of a job that could not be settled, because the broker has taken it back."""
        self.gone(message)
        self._remember(message, settlement)

    def _remember(self, message: BrokerMessage, settlement: Settlement) -> None:
        now = time.monotonic()
        self._owed[_key(message)] = now + REMEMBERED, settlement
        while self._owed and next(iter(self._owed.values()))[0] < now:
            self._owed.popitem(last=False)

    def connection_lost(self) -> None:
        """Record that the broker has taken back all held messages; perhaps also those acknowledged last."""
        self._twins.clear()
        self._strays = {_key(message): token for token, message in self.held.items()}
        oldest = time.monotonic() - DOUBTFUL
        for at, messages in self._recent:
            if at >= oldest:
                for message in messages:
                    self._remember(message, Settlement(message.id, message.token, Outcome.DONE))
        self._recent.clear()

    def recognise(self, message: BrokerMessage) -> bool:
        """Return whether we already hold this job; this message is then the one that will be acknowledged."""
        token = self._strays.pop(_key(message), None)
        if token is None or token not in self.held:
            return False
        message.token = token
        self.held[token] = message
        return True

    def owes(self, message: BrokerMessage) -> bool:
        """Return whether this job has ended here before it came back."""
        return _key(message) in self._owed

    def owed(self, message: BrokerMessage) -> Settlement | None:
        """Return the outcome of a job that ended here before it came back."""
        found = self._owed.get(_key(message))
        return found[1] if found and found[0] >= time.monotonic() else None

    def paid(self, messages: Iterable[BrokerMessage]) -> None:
        """Record that they are settled: if one comes back now, that is another loss."""
        for message in messages:
            self._owed.pop(_key(message), None)

    def forget(self) -> list[BrokerMessage]:
        """Hold no messages any more; return those that were held."""
        held, self.held = list(self.held.values()), {}
        self._ids.clear()
        self._twins.clear()
        self._strays.clear()
        self._owed.clear()
        self._recent.clear()
        return held


def delivery(message: BrokerMessage) -> Delivery:
    """Return the message as the core's delivery."""
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
