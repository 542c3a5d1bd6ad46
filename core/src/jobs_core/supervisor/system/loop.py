"""The supervisor's event loop: descriptors, timers and signals, one callback at a time. An idle loop never wakes up."""

from __future__ import annotations

import logging
import selectors
import signal
import socket
from collections.abc import Callable, Iterable

from ...timers import Callback, Timer, Timers

logger = logging.getLogger("jobs.supervisor")


class Loop:
    """An event loop. Belongs to one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers = Timers()
        self._stopped = False
        self._signals: socket.socket | None = None

    def watch(self, descriptor: int, callback: Callback, *, writing: bool = False) -> None:
        """Call `callback` whenever a descriptor can be read (or written) without waiting."""
        event = selectors.EVENT_WRITE if writing else selectors.EVENT_READ
        self._selector.register(descriptor, event, callback)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor; do nothing if it is not watched."""
        try:
            self._selector.unregister(descriptor)
        except (KeyError, ValueError):
            return

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Call `callback` once, after `seconds`."""
        return self._timers.after(seconds, callback)

    def on_signals(self, numbers: Iterable[int], callback: Callable[[int], None]) -> None:
        """Call `callback` with the number of each signal that arrives, outside of any handler."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._signals, self._writer = reader, writer
        for number in numbers:
            signal.signal(number, _do_nothing)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def read() -> None:
            for number in dict.fromkeys(reader.recv(4096)):
                callback(number)

        self.watch(reader.fileno(), read)

    def stop(self) -> None:
        """Make `run` return."""
        self._stopped = True

    def run(self) -> None:
        """Wait for events and call their callbacks until `stop`."""
        while not self._stopped:
            for callback in self._timers.due():
                _guarded(callback)
            if self._stopped:
                return
            for key, _ in self._selector.select(self._timers.pause()):
                if key.fd in self._selector.get_map() and self._selector.get_key(key.fd).data is key.data:
                    _guarded(key.data)  # unless an earlier callback closed it, or opened another one with its number

    def close(self) -> None:
        self._selector.close()


def _guarded(callback: Callback) -> None:
    """Call a callback; log an error and continue: a fault in one callback must not stop the supervisor."""
    try:
        callback()
    except Exception:
        logger.exception("internal error in the supervisor, which continues; please report this")


def _do_nothing(signum: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor has already woken the loop."""


def default_signals() -> None:
    """Remove the supervisor's signal handlers and its wake-up descriptor, in a child."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler and number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
