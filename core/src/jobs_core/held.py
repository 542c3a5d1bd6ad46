"""An async context manager that stays open from one job to the next, held open by a task."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

from . import boundary

logger = logging.getLogger("jobs.worker")

CLOSING_PATIENCE = 10.0
"""Seconds that the application gets to close a context manager after the last job."""


class Held:
    """Keeps one async context manager open, for code in a single event loop.

    The same task enters and leaves it, as libraries with task groups and cancel scopes require.
    """

    def __init__(self, manager: AbstractAsyncContextManager[Any], what: str) -> None:
        self._manager = manager
        self._what = what
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> Any:
        """Enter the context manager and return its value; raises whatever it raises."""
        if self._leaving.is_set():
            raise asyncio.CancelledError
        loop = asyncio.get_running_loop()
        entered: asyncio.Future[Any] = loop.create_future()
        self._task = asyncio.Task(self._hold(entered), loop=loop, name="jobs-held")
        return await asyncio.shield(entered)

    def abandon(self) -> None:
        """Cancel an `open` that has not returned; call this in the event loop."""
        self._leaving.set()
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Leave the context manager; log its exception, or that it has not ended within CLOSING_PATIENCE."""
        if self._task is None:
            return
        self._leaving.set()
        ended, _ = await asyncio.wait([self._task], timeout=CLOSING_PATIENCE)
        if not ended:
            text = "%s has not ended %g s after the last job; the worker ends without it"
            boundary.log(logger, logging.WARNING, text, self._what, CLOSING_PATIENCE)
        elif not self._task.cancelled() and (error := self._task.exception()) is not None:
            text = "%s failed at its end; all jobs had ended before"
            boundary.log(logger, logging.ERROR, text, self._what, error=error)

    async def _hold(self, entered: asyncio.Future[Any]) -> None:
        try:
            async with self._manager as value:
                if not entered.done():
                    entered.set_result(value)
                while not self._leaving.is_set():
                    try:
                        await self._leaving.wait()
                    except asyncio.CancelledError:
                        text = "a job cancelled the task that keeps %s open; it stays open"
                        boundary.log(logger, logging.WARNING, text, self._what)
        except BaseException as error:
            harmless = self._harmless(error)
            if entered.done():
                if harmless is error:
                    raise
                raise harmless from error
            if isinstance(error, asyncio.CancelledError):
                entered.cancel()
            else:
                entered.set_exception(harmless)

    def _harmless(self, error: BaseException) -> BaseException:
        """Return the error, or one in place of those that would end the event loop, and all jobs in it."""
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            return error
        text = f"{self._what} raised {boundary.told(error)}, which ends no worker: raise another exception"
        return RuntimeError(text).with_traceback(error.__traceback__)
