"""Admit the messages of foreign producers at once: see `InletWatch`."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from jobs_core.errors import BackendError

from .keys import Keys
from .transport.connection import ServerConnection
from .waiting import Waiter

logger = logging.getLogger("jobs.redis")

LONGEST_BLOCK = 30.0
"""Seconds after which a blocked command is sent again, in case its connection is dead."""

PAUSE = 1.0
"""Seconds of pause during an outage, or while the server is full."""


class InletWatch:
    """A thread that keeps one blocked command per topic: `BLMOVE inlet inlet LEFT LEFT`.

    The command leaves the list unchanged and answers when there is an entry in it. Then the entries are stored as pushed
    messages, and a worker is woken.

    The process that does housekeeping has this thread. Without it, workers find the entries of an inlet when they next look.
    """

    def __init__(
        self,
        keys: Callable[[str], Keys],
        connection: Callable[[str], ServerConnection],
        admit: Callable[[str], int],
        let_go: Callable[[], None],
    ) -> None:
        self._keys, self._connection, self._admit, self._let_go = keys, connection, admit, let_go  # used by this thread alone
        self._topics: set[str] = set()
        self._links: dict[str, ServerConnection] = {}
        self._sent: dict[str, float] = {}  # topic of a sent command → when its answer is overdue
        self._waiter = Waiter()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="jobs-redis-inlets", daemon=True)
        self._thread.start()

    def watch(self, topics: Iterable[str]) -> None:
        """Watch these topics as well."""
        if not self._topics.issuperset(topics):
            self._topics = self._topics.union(topics)
            self._waiter.interrupt()

    def stop(self) -> None:
        self._stopping = True
        self._waiter.interrupt()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except BackendError as error:
                logger.debug("inlets are not watched for the moment: %s", error)
                self._drop()
                self._waiter.interrupted(PAUSE)
            except Exception:  # this thread must go on: without it, entries wait until a worker looks
                logger.exception("inlets are not watched for the moment")
                self._drop()
                self._waiter.interrupted(PAUSE)
        self._drop()

    def _drop(self) -> None:
        """Close every connection; in a cluster, also forget which node has which slots."""
        for connection in self._links.values():
            connection.disconnect()
        self._links.clear()
        self._sent.clear()
        self._let_go()

    def _turn(self) -> None:
        now = time.monotonic()
        for topic in self._topics - self._sent.keys():
            inlet = self._keys(topic).inlet(topic)
            connection = self._links.get(topic) or self._links.setdefault(topic, self._connection(topic))
            connection.send("BLMOVE", inlet, inlet, "LEFT", "LEFT", f"{LONGEST_BLOCK:.3f}")
            self._sent[topic] = now + LONGEST_BLOCK + 5.0
        sockets = {self._links[topic].socket(): topic for topic in self._sent}
        left = min(self._sent.values(), default=now + LONGEST_BLOCK) - now
        sources: list[Any] = [self._waiter.fileno(), *sockets]
        readable = select.select(sources, [], [], max(0.0, left))[0]
        self._waiter.interrupted()
        for socket, topic in sockets.items():
            if socket in readable:
                del self._sent[topic]
                if self._links[topic].read() is not None:
                    self._take_in(topic)
            elif self._sent[topic] <= time.monotonic():
                self._links[topic].disconnect()
                del self._sent[topic]

    def _take_in(self, topic: str) -> None:
        while not self._stopping and self._admit(topic):
            pass
