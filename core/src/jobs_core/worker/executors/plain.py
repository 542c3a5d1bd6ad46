"""The threads for plain functions beside an event loop. An exception thrown into an idle thread loses no function call."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class PlainThreads:
    """A pool of a limited number of threads, started as they are needed.

    The threads of a ThreadPoolExecutor wait in the call that returns the next function. An exception that leftover code
    throws into such a thread (libraries that time out threads do this) is raised just after that call, and the function
    is lost. The threads here wait for a wake-up instead, and fetch the function afterwards.
    """

    def __init__(self, most: int, on_error: Callable[[BaseException], object]) -> None:
        self._most = most
        self._on_error = on_error
        self._waiting: deque[tuple[Future[None], Callable[..., None], tuple[Any, ...]]] = deque()
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._busy: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def submit(self, function: Callable[..., None], *args: Any) -> Future[None]:
        """Queue a call of a function. Called by: one thread."""
        future: Future[None] = Future()
        self._waiting.append((future, function, args))
        if len(self._busy) + len(self._waiting) > len(self._threads) < self._most:
            # Daemon threads: one stuck in a job that never ends must not keep alive a worker that was told to stop.
            thread = threading.Thread(target=self._main, name=f"jobs-plain-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._wake_ups.put(None)
        return future

    def stop(self) -> None:
        """Stop the threads; functions that still wait are not called."""
        self._stopped = True
        self._waiting.clear()
        for _ in self._threads:
            self._wake_ups.put(None)

    def _main(self) -> None:
        while not self._stopped:
            try:
                self._serve()
            except BaseException as error:
                self._wake_ups.put(None)  # the error may have cost a wake-up, and with it a function its call
                self._on_error(error)

    def _serve(self) -> None:
        me = threading.get_ident()
        while not self._stopped:
            self._busy.discard(me)
            self._wake_ups.get()
            self._busy.add(me)
            try:
                future, function, args = self._waiting.popleft()
            except IndexError:
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                function(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            del future, function, args
