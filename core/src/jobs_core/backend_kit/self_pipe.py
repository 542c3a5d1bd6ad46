"""The self-pipe trick: end a wait of one thread from any other thread, or from a signal handler."""

from __future__ import annotations

import contextlib
import os
import select
import weakref


class SelfPipe:
    """A pipe whose reading end one thread watches beside its sockets. `wake` may be called from anywhere, at any time.

    A wake-up while no thread waits ends the next wait. Unless `close` is called, the pipe is closed only with the last
    reference to it, because a late wake-up must not write into a descriptor that has been reused.
    """

    __slots__ = ("__weakref__", "_close", "_poll", "_reader", "_writer")

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)
        self._close = weakref.finalize(self, _close, self._reader, self._writer)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable at a wake-up; -1 after `close`."""
        return self._reader

    def wake(self) -> None:
        """End the current wait, or the next. Never blocks, and raises nothing."""
        with contextlib.suppress(OSError):  # it is full of wake-ups, or closed
            os.write(self._writer, b"\0")

    def clear(self) -> bool:
        """Use up all wake-ups; return whether there was one."""
        try:
            return bool(os.read(self._reader, 4096))
        except OSError:
            return False

    def wait(self, seconds: float) -> bool:
        """Sleep until a wake-up, use it up and return True; return False after `seconds`."""
        return bool(self._poll.poll(max(0.0, seconds) * 1000)) and self.clear()

    def close(self) -> None:
        """Close both ends now; call it once no other thread can call `wake` any more. A second call does nothing."""
        self._reader = self._writer = -1
        self._close()


def _close(*ends: int) -> None:
    for end in ends:
        with contextlib.suppress(OSError):  # a job has closed it
            os.close(end)
