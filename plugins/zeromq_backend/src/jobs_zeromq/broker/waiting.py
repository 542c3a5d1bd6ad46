"""Workers that wait for jobs, by topic. News of a job wakes only one worker, the one that has waited longest.

A woken worker is expected to reserve. If it does not, because its wait had just been interrupted or because it died, the
next one is woken: `Waiting` remembers a woken worker until it sends a request, or PATIENCE has passed.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from .decoding import Asked

PATIENCE = 0.25
"""Seconds that a woken worker has to reserve before the next one is woken."""

NEVER = float("inf")


class Waiter:
    """The wait of one worker; with `asked`, it waits for reserved jobs, otherwise to be woken."""

    __slots__ = ("alive", "asked", "next", "peer", "tag", "topics")

    def __init__(self, peer: bytes, tag: bytes, topics: Sequence[str], asked: Asked | None) -> None:
        self.peer, self.tag, self.topics, self.asked = peer, tag, topics, asked
        self.alive = True
        self.next = NEVER  # when its wait ends at the latest


class Waiting:
    """All waits. The function `wake` wakes a worker, and returns whether that was possible."""

    def __init__(self, wake: Callable[[Waiter], bool]) -> None:
        self._wake = wake
        self._by_peer: dict[bytes, Waiter] = {}
        self._by_topic: dict[str, dict[bytes, Waiter]] = {}
        self._by_owner: dict[str, Waiter] = {}  # owner → its wait, for workers that wait for reserved jobs
        self._timers: list[
            tuple[float, int, Waiter, bool]
        ] = []  # (when, order, waiter, True to wake it or False to end its wait)
        self._order = itertools.count()
        self._over: list[Asked] = []
        self._woken: dict[bytes, tuple[float, Sequence[str]]] = {}

    def __len__(self) -> int:
        return len(self._by_peer)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(list(self._by_peer.values()))

    def add(
        self, peer: bytes, tag: bytes, topics: Sequence[str], timeout: float, due: float, asked: Asked | None = None
    ) -> None:
        """Add a wait of at most `timeout` seconds; the next scheduled job of its topics is due in `due` seconds."""
        self.drop(peer)
        waiter = Waiter(peer, tag, topics, asked)
        self._by_peer[peer] = waiter
        if asked is not None:
            self.drop_owner(asked.request.owner)
            self._by_owner[asked.request.owner] = waiter
        for topic in topics:
            self._by_topic.setdefault(topic, {})[peer] = waiter
        now = time.monotonic()
        wakes = due < timeout
        if len(self._timers) > 2 * len(self._by_peer) + 1000:  # most timers belong to waits that have ended
            self._timers = [timer for timer in self._timers if timer[2].alive]
            heapq.heapify(self._timers)
        waiter.next = now + min(due, timeout)
        heapq.heappush(self._timers, (waiter.next, next(self._order), waiter, wakes))

    def remind(self, topic: str, due: float) -> None:
        """Wake the longest-waiting worker of a topic in `due` seconds, when a limit opens, unless its wait ends before."""
        line, at = self._by_topic.get(topic), time.monotonic() + due
        waiter = next(iter(line.values())) if line else None
        if waiter is not None and at < waiter.next:
            waiter.next = at
            heapq.heappush(self._timers, (at, next(self._order), waiter, True))

    def drop(self, peer: bytes) -> None:
        """Remove the wait of a connection, if there is one."""
        waiter = self._by_peer.pop(peer, None)
        if waiter is None:
            return
        waiter.alive = False
        if waiter.asked is not None:
            del self._by_owner[waiter.asked.request.owner]
        for topic in waiter.topics:
            line = self._by_topic.get(topic)
            if line is not None:
                line.pop(peer, None)
                if not line:
                    del self._by_topic[topic]

    def drop_owner(self, owner: str) -> None:
        """End the wait of an owner that has sent another reserve, perhaps on a new connection: an answer on the old one would
        not reach it.
        """
        waiter = self._by_owner.get(owner)
        if waiter is not None:
            self.drop(waiter.peer)

    def waited_for(self, topics: Iterable[str]) -> list[str]:
        """Return the given topics for which a worker waits."""
        return [topic for topic in topics if topic in self._by_topic]

    def takers(self, topics: Iterable[str]) -> list[Asked]:
        """Return the request of each topic's longest-waiting worker if it waits for reserved jobs; its wait continues."""
        first = [next(iter(self._by_topic[topic].values())) for topic in topics if topic in self._by_topic]
        return [waiter.asked for waiter in dict.fromkeys(first) if waiter.asked is not None]

    def wake(self, topic: str) -> None:
        """Wake the longest-waiting worker of a topic."""
        while line := self._by_topic.get(topic):
            waiter = next(iter(line.values()))
            if self.wake_one(waiter):
                return

    def wake_one(self, waiter: Waiter) -> bool:
        """Wake this worker; return False if it has disconnected."""
        self.drop(waiter.peer)
        if not self._wake(waiter):
            return False
        if waiter.asked is None:
            self._woken[waiter.peer] = time.monotonic() + PATIENCE, waiter.topics
        return True

    def heard_of(self, peer: bytes, *, reserves: bool) -> Sequence[str]:
        """Record a request, which ends its client's wait; return topics for which another worker has to be woken."""
        self.drop(peer)
        woken = self._woken.pop(peer, None)
        return () if woken is None or reserves else woken[1]

    # -- time ------------------------------------------------------------------------------------

    def next_moment(self) -> float:
        """Return when to call `pass_time` next, as monotonic time."""
        first = self._timers[0][0] if self._timers else NEVER
        return min(first, next(iter(self._woken.values()))[0] if self._woken else NEVER)

    def pass_time(self) -> list[str]:
        """Wake workers whose jobs are due; return the topics whose woken worker did not reserve."""
        now = time.monotonic()
        while self._timers and (self._timers[0][0] <= now or not self._timers[0][2].alive):
            _, _, waiter, wakes = heapq.heappop(self._timers)
            if not waiter.alive:
                continue
            if wakes:
                self.wake_one(waiter)
                continue
            self.drop(waiter.peer)
            if waiter.asked is not None:
                self._over.append(waiter.asked)
        neglected: list[str] = []
        while self._woken:
            peer, (until, topics) = next(iter(self._woken.items()))
            if until > now:
                break
            del self._woken[peer]
            neglected += topics
        return neglected

    def over(self) -> list[Asked]:
        """Return the requests of workers whose wait for reserved jobs has timed out, to be answered; each is returned once."""
        over, self._over = self._over, []
        return over
