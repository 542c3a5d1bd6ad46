"""The loop that one thread turns while it waits for something: sockets, timers, and a bell that anybody may ring."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import time
import weakref
from collections.abc import Callable
from typing import Protocol

_READ = select.POLLIN | select.POLLHUP | select.POLLERR
LONGEST_TURN = 60.0
"""Longest time that it sleeps at a stretch, seconds."""

SHORT_TURN = 0.25
"""The same while an answer is waited for, seconds."""


class Stream(Protocol):
    """What the loop watches."""

    def fileno(self) -> int: ...

    def wants_to_write(self) -> bool: ...

    def readable(self) -> None: ...

    def writable(self) -> None: ...


class Timer:
    """A call at a time to come."""

    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False


class Loop:
    """See the module. One thread at a time, but for `interrupt`, which any thread and a signal handler may call."""

    def __init__(self) -> None:
        self.interrupted = False
        self._out, self._in = os.pipe()
        for end in (self._out, self._in):
            os.set_blocking(end, False)
        # Closed with the last reference, not before: a late interrupt must not write into somebody else's descriptor.
        weakref.finalize(self, _close, self._out, self._in)
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._streams: dict[int, Stream] = {}
        self._writing: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()

    # -- who takes part ------------------------------------------------------------------------------

    def add(self, stream: Stream) -> None:
        self._streams[stream.fileno()] = stream
        self._poll.register(stream.fileno(), _READ)

    def remove(self, descriptor: int) -> None:
        """Stop watching; before the descriptor is closed, for its number may come back."""
        if self._streams.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)
            self._writing.discard(descriptor)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._numbers), timer))
        return timer

    def interrupt(self) -> None:
        """End the current wait, or the next."""
        with contextlib.suppress(BlockingIOError):  # it is full of interrupts
            os.write(self._in, b"!")

    # -- turning -------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], timeout: float) -> bool:
        """Turn until `condition` holds (True) or `timeout` seconds have passed (False); once at least if time is left."""
        if condition():
            return True
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            self._turn(max(0.0, left))
            if condition():
                return True
            if left <= 0:
                return False

    def answered(self, condition: Callable[[], object], timeout: float) -> bool:
        """Like `until`, for the broker's answers: while a job holds the interpreter nobody can ask it or hear it, and it is not
        to blame. Of the time that such a turn takes, only what was meant to be waited counts."""
        left = timeout
        while not condition():
            if left <= 0:
                return False
            meant, begin = min(left, SHORT_TURN), time.monotonic()
            self._turn(meant)
            left -= min(meant, time.monotonic() - begin)
        return True

    def look(self) -> None:
        """Do what can be done without waiting."""
        self._turn(0.0)

    def _turn(self, longest: float) -> None:
        self._mark_writers()
        if self._timers:
            longest = min(longest, max(0.0, self._timers[0][0] - time.monotonic()))
        # Sockets come before timers: what arrived while a job held the interpreter is no silence of the broker's.
        for descriptor, event in self._poll.poll(min(longest, LONGEST_TURN) * 1000):
            if descriptor == self._out:
                self._hear()
                continue
            stream = self._streams.get(descriptor)
            if stream is not None and event & select.POLLOUT:
                stream.writable()
            if event & _READ and self._streams.get(descriptor) is stream is not None:
                stream.readable()
        now, called = time.monotonic(), False
        while self._timers and (self._timers[0][0] <= now or self._timers[0][2].cancelled):
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback()
                called = True
        if called:  # a heartbeat leaves at once: beside a job that holds the interpreter each system call waits for it once
            for stream in list(self._streams.values()):
                if stream.wants_to_write():
                    stream.writable()

    def _mark_writers(self) -> None:
        """Watch for room where something waits to be written."""
        for descriptor, stream in self._streams.items():
            waits = stream.wants_to_write()
            if waits != (descriptor in self._writing):
                self._poll.modify(descriptor, _READ | select.POLLOUT if waits else _READ)
                (self._writing.add if waits else self._writing.discard)(descriptor)

    def _hear(self) -> None:
        self.interrupted = True
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, 4096)


def _close(*ends: int) -> None:
    for end in ends:
        os.close(end)
