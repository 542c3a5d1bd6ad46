"""The resources of an application that are open while a worker serves: see `Bootstrapper.lifespan`."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import AbstractAsyncContextManager
from typing import Any

from .. import boundary
from ..held import Held


class Lifespan:
    """An async context manager that is kept open, on the given event loop or on a new one in a thread.

    Only the worker's main thread uses it, except for `give_up`.
    """

    def __init__(self, manager: AbstractAsyncContextManager[Any], loop: asyncio.AbstractEventLoop | None) -> None:
        self._held = Held(manager, "the application's lifespan")
        self._loop = asyncio.new_event_loop() if loop is None else loop
        self._own_loop = loop is None
        self._thread = threading.Thread(target=self._loop.run_forever, name="jobs-lifespan", daemon=True)
        self._given_up = self._entered = False

    def enter(self) -> bool:
        """Enter the context manager; return False if that was given up. Raise any error of it.

        A given loop must not be running yet.
        """
        try:
            self._loop.run_until_complete(self._held.open())
        except asyncio.CancelledError:
            if self._given_up:
                return False
            raise
        self._entered = True
        if self._own_loop:
            self._thread.start()
        return True

    def give_up(self) -> bool:
        """Cancel an `enter` that has not returned; return whether this was done. Called by: any thread, and signal handlers."""
        if self._entered or self._given_up:  # if it is being left, it may clean up
            return False
        self._given_up = True
        self._loop.call_soon_threadsafe(self._held.abandon)
        return True

    def leave(self) -> None:
        """Exit the context manager, after the last job; log any error."""
        try:
            if self._own_loop:
                asyncio.run_coroutine_threadsafe(self._held.close(), self._loop).result()
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
            else:
                self._loop.run_until_complete(self._held.close())
        except BaseException as error:
            boundary.log_past(logging.ERROR, "the application's lifespan could not be closed; all jobs had ended before", error)
