"""The event loop that a thread runs while it waits: sockets, timers, and interrupts from any thread."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from jobs_core.backend_kit import SelfPipe, Timer, Timers
from jobs_core.backend_kit import left as left_of

T = TypeVar("T")

_READ = select.POLLIN | select.POLLHUP | select.POLLERR
LONGEST_TURN = 60.0
"""Longest single sleep, in seconds."""

SHORT_TURN = 0.25
"""Longest single sleep while an answer is awaited, in seconds."""

FEW = 64
"""A number of messages that takes a millisecond or less to process."""


class Stream(Protocol):
    """A socket that the loop watches."""

    def fileno(self) -> int: ...

    def wants_to_write(self) -> bool: ...

    def readable(self) -> None: ...

    def writable(self) -> None: ...

    def pulse(self) -> None:
        """Write as much as the socket accepts, and a heartbeat if one is due."""


class Loop:
    """An event loop over sockets, timers and interrupts.

    One thread at a time, except for `interrupt`, which any thread and a signal handler may call.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._interrupts = SelfPipe()
        self._poll = select.poll()
        self._poll.register(self._interrupts.fileno(), select.POLLIN)
        self._streams: dict[int, Stream] = {}
        self._writing: set[int] = set()
        self._timers = Timers()

    # -- members ----------------------------------------------------------------------------------------

    def add(self, stream: Stream) -> None:
        self._streams[stream.fileno()] = stream
        self._poll.register(stream.fileno(), _READ)

    def remove(self, descriptor: int) -> None:
        """Stop watching, before the descriptor is closed, because its number may be reused."""
        if self._streams.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)
            self._writing.discard(descriptor)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return self._timers.after(delay, callback)

    def interrupt(self) -> None:
        """End the current wait, or the next."""
        self._interrupts.wake()

    # -- turning -------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], timeout: float) -> bool:
        """Run until `condition` holds (True) or `timeout` seconds have passed (False); at least one turn if time is left."""
        if condition():
            return True
        deadline = time.monotonic() + left_of(timeout)
        while True:
            left = deadline - time.monotonic()
            self._turn(max(0.0, left))
            if condition():
                return True
            if left <= 0:
                return False

    def answered(self, condition: Callable[[], object], timeout: float) -> bool:
        """Run until the broker has answered, like `until`.

        While a job holds the interpreter, requests cannot be sent and answers cannot be read, which is not the broker's
        fault. So only the intended wait of each turn counts against `timeout`; the thread's deadline holds in any case.
        """
        left = timeout
        while not condition():
            left = left_of(left)
            if left <= 0:
                return False
            meant, begin = min(left, SHORT_TURN), time.monotonic()
            self._turn(meant)
            left -= min(meant, time.monotonic() - begin)
        return True

    def look(self) -> None:
        """Read all sockets and run due timers, without sleeping."""
        self.pulse()
        for descriptor, stream in list(self._streams.items()):
            if self._streams.get(descriptor) is stream:
                stream.readable()
        self._call_what_is_due()

    def pulse(self) -> None:
        """Send due heartbeats. Call it before steps that may have to wait for the interpreter."""
        for stream in list(self._streams.values()):
            stream.pulse()

    def attending(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over items, with a pulse every FEW items: a thread that computes for 5 ms has to give up the interpreter."""
        for number, item in enumerate(items):
            if number % FEW == 0:
                self.pulse()
            yield item

    def _turn(self, longest: float) -> None:
        self.pulse()
        self._mark_writers()
        pause = self._timers.pause()
        longest = min(longest, LONGEST_TURN, longest if pause is None else pause)
        events = self._poll.poll(longest * 1000)
        # Sockets before timers: if a job held the interpreter, the broker's data has to be read before a timer calls it silent.
        for descriptor, event in events:
            if descriptor == self._interrupts.fileno():
                self._hear()
                continue
            stream = self._streams.get(descriptor)
            if stream is not None and event & select.POLLOUT:
                stream.writable()
            if event & _READ and self._streams.get(descriptor) is stream is not None:
                stream.readable()
        self._call_what_is_due()

    def _call_what_is_due(self) -> None:
        for callback in self._timers.due():
            callback()

    def _mark_writers(self) -> None:
        """Watch for room to write on the sockets that have unsent data."""
        for descriptor, stream in self._streams.items():
            waits = stream.wants_to_write()
            if waits != (descriptor in self._writing):
                self._poll.modify(descriptor, _READ | select.POLLOUT if waits else _READ)
                (self._writing.add if waits else self._writing.discard)(descriptor)

    def _hear(self) -> None:
        self.interrupted = True
        self._interrupts.clear()
