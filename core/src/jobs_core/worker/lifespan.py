"""The resources of an application that are open while a worker serves: see `Bootstrapper.lifespan`."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import AbstractAsyncContextManager
from typing import Any

from .. import boundary

logger = logging.getLogger("jobs.worker")

CLOSING_PATIENCE = 10.0
"""Seconds that an application gets to close its resources after the last job."""


class Lifespan:
    """Keeps one async context manager open, on the given event loop or on one of its own in a thread.

    One task enters and leaves it, as libraries with task groups and cancel scopes require. Only the worker's main
    thread uses it.
    """

    def __init__(self, manager: AbstractAsyncContextManager[Any], loop: asyncio.AbstractEventLoop | None) -> None:
        self._manager = manager
        self._loop = asyncio.new_event_loop() if loop is None else loop
        self._own_loop = loop is None
        self._leaving = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None

    def enter(self) -> None:
        """Open it. Raises what the manager raises. A loop that is given must not be running yet."""
        entered: asyncio.Future[None] = self._loop.create_future()
        self._holding = asyncio.Task(self._hold(entered), loop=self._loop, name="jobs-lifespan")
        self._loop.run_until_complete(entered)
        if self._own_loop:
            threading.Thread(target=self._loop.run_forever, name="jobs-lifespan", daemon=True).start()

    def leave(self) -> None:
        """Close it, after the last job; log what it raises, and if it takes longer than CLOSING_PATIENCE."""
        try:
            if self._own_loop:
                asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
                self._loop.call_soon_threadsafe(self._loop.stop)
            else:
                self._loop.run_until_complete(self._leave())
        except BaseException as error:
            boundary.log_past(logging.ERROR, "the application's lifespan failed at its end; all jobs had ended before", error)

    async def _leave(self) -> None:
        assert self._holding is not None
        self._leaving.set()
        ended, _ = await asyncio.wait([self._holding], timeout=CLOSING_PATIENCE)
        if ended:
            self._holding.result()
        else:
            text = "the application's lifespan has not ended %g s after the last job; the worker ends without it"
            boundary.log(logger, logging.WARNING, text, CLOSING_PATIENCE)

    async def _hold(self, entered: asyncio.Future[None]) -> None:
        try:
            async with self._manager:
                entered.set_result(None)
                while not self._leaving.is_set():
                    try:
                        await self._leaving.wait()
                    except asyncio.CancelledError:  # by a job that cancels every task of the loop
                        text = "a job cancelled the task that keeps the application's lifespan open; it stays open"
                        boundary.log(logger, logging.WARNING, text)
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)
