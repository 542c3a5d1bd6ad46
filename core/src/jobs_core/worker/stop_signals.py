"""The signals that stop a worker in the foreground, obeyed at once whatever its main thread is doing.

Python calls a signal's handler in the main thread, between two instructions. If that thread enters a long C call, or
the wait for the next job, just as the signal arrives, the handler runs only when that call ends, perhaps never.
Therefore Python also writes the number of the signal to a pipe (`signal.set_wakeup_fd`), which a thread reads.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..uninterrupted import at_fork

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_DONE = 0
"""The number, not that of any signal, that tells the thread that the worker has ended."""


@contextmanager
def obeying(stop: Callable[[float | None], None]) -> Iterator[None]:
    """Call `stop(None)` on TERM and INT, `stop(0.0)` on QUIT and on INT after another signal. Enter in the main thread.

    A process that a job forks gets the default handlers back, so that it can be stopped like any other.
    """
    global _listener
    _listener = listener = _Listener(stop)
    handlers = {number: signal.signal(number, listener.handle) for number in STOPS}
    try:
        with listener:
            yield
    finally:
        _listener = None
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Listener:
    def __init__(self, stop: Callable[[float | None], None]) -> None:
        self._stop = stop
        self._told = False
        self._before = -1
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(target=self._read, name="jobs-signals", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._before)
        try:
            os.write(self._writer, bytes([_DONE]))
            self._thread.join()
            os.close(self._reader)
            os.close(self._writer)
        except OSError:  # a job has closed them
            return

    def _read(self) -> None:
        while True:
            try:
                numbers = os.read(self._reader, 64)
            except OSError:  # a job has closed it: from now on only the handler is left
                return
            for number in numbers:
                if number == _DONE:
                    return
                if number in STOPS:
                    self._obey(number)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Obey a signal that did not reach the thread: an event loop of the application may have set a pipe of its own."""
        try:
            before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            if before == self._writer:
                return
            if before >= 0:
                signal.set_wakeup_fd(before)
        except (ValueError, OSError):  # a job has closed it
            pass
        self._obey(number)

    def _obey(self, number: int) -> None:
        at_once = number == signal.SIGQUIT or (number == signal.SIGINT and self._told)
        self._told = True
        self._stop(0.0 if at_once else None)


_listener: _Listener | None = None
_masks: dict[int, set[int | signal.Signals]] = {}  # forking thread → the signals that it had blocked before


def _before_fork() -> None:
    """Block the signals during a fork: a child that still had our handlers would write its signals to our pipe."""
    if _listener is not None:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def _after_fork() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    global _listener
    listener, _listener = _listener, None
    if listener is not None:
        signal.set_wakeup_fd(-1)
        for number in STOPS:
            if signal.getsignal(number) == listener.handle:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _after_fork()


at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
