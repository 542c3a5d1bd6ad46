"""The clients of a broker, each with its configuration and the time of its last message."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from jobs_core.backends.base import BackendOptions, Retention

from ..protocol import FLOWS, LIMITS, MAX_FRAME, Hello

FORGET_AFTER = 600.0
"""Seconds after which a silent client is forgotten; it sends hello again before its next request."""

MOST = 20_000
"""The most clients that are remembered; beyond it, the client with the oldest hello is forgotten."""

_KEEP_ALL = Retention(float("inf"), 2**53)


class Peer:
    """The client on one connection."""

    def __init__(self, hello: Hello, clock: Callable[[], float], number: int = 0) -> None:
        self.number = number  # rises with each new client
        self.seen = time.monotonic()
        self.unsaid: set[str] = set()
        self.features = frozenset(hello.features)
        self.is_old = not self.features.issuperset((LIMITS, FLOWS))  # some jobs may not be handed to it
        self.terms = hello.lease, hello.cancelled_ttl, hello.dedup_window, hello.max_message
        self._retention: dict[str, Retention] = {}
        self.retain(hello.retention, hello.done_max)
        self.options = BackendOptions(
            lease=hello.lease,
            cancelled_ttl=hello.cancelled_ttl,
            dedup_window=hello.dedup_window,
            max_message=min(hello.max_message, MAX_FRAME),
            retention=self._retained,
            clock=clock,
        )

    def retain(self, retention: dict[str, tuple[float, int]], done_max: dict[str, int]) -> None:
        """Add the retention of topics that the client has sent; one of an earlier release tells nothing of done jobs."""
        for topic, (keep, most) in retention.items():
            self._retention[topic] = Retention(keep, most, max(0, done_max.get(topic, _KEEP_ALL.done_max)))

    def _retained(self, topic: str) -> Retention:
        """Return how long a topic's dead letters are kept: forever, until the client has sent the time."""
        kept = self._retention.get(topic)
        if kept is None:
            self.unsaid.add(topic)
            return _KEEP_ALL
        return kept

    def take_unsaid(self) -> list[str]:
        """Return the topics whose retention was needed but not known; each is returned once."""
        unsaid, self.unsaid = self.unsaid, set()
        return sorted(unsaid)


class Peers:
    """All clients, by the identity that ZeroMQ gives each connection."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._peers: dict[bytes, Peer] = {}
        self._numbers = itertools.count(1)
        self._owners: dict[str, tuple[int, bytes]] = {}  # owner → its latest connection
        self.stranger = Peer(Hello(), clock)

    def greet(self, name: bytes, hello: Hello) -> None:
        self._peers.pop(name, None)
        if len(self._peers) >= MOST:
            del self._peers[next(iter(self._peers))]
        self._peers[name] = Peer(hello, self._clock, next(self._numbers))

    def get(self, name: bytes) -> Peer | None:
        peer = self._peers.get(name)
        if peer is not None:
            peer.seen = time.monotonic()
        return peer

    def follow(self, owner: str, name: bytes, peer: Peer) -> bytes | None:
        """Record that an owner uses this connection; return another connection known for it, if any.

        That one is older, unless this request was sent over a connection that broke, and arrives late: `is_at` tells.
        """
        known = self._owners.get(owner)
        if known is None or known[0] < peer.number:
            if known is None and len(self._owners) >= MOST:
                del self._owners[next(iter(self._owners))]
            self._owners[owner] = peer.number, name
        return known[1] if known is not None and known[1] != name else None

    def is_at(self, owner: str, name: bytes) -> bool:
        """Return whether this is the latest connection of an owner."""
        known = self._owners.get(owner)
        return known is None or known[1] == name

    def forget(self, name: bytes) -> None:
        self._peers.pop(name, None)

    def forget_silent(self) -> None:
        limit = time.monotonic() - FORGET_AFTER
        for name in [name for name, peer in self._peers.items() if peer.seen < limit]:
            del self._peers[name]

    def heard_from(self, seconds: float) -> int:
        """Count the clients that have sent something within the last `seconds`."""
        limit = time.monotonic() - seconds
        return sum(peer.seen >= limit for peer in self._peers.values())
