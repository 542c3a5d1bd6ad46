"""A form that a browser sends twice, as after a double click, is carried out once: the second gets the answer of the first.

Each page has a number in its forms. What has failed, as in an outage of the backend, is carried out when it is sent again.
Answers are remembered in this process only: of several processes behind a proxy, another may get the second. There, and for two
users who see the same page, actions on a job compare it with what the page has shown.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from starlette.responses import Response

KEPT = 60.0
"""Seconds for which an answer is remembered."""

MOST = 10_000

FIELD = "once"


class Doubles:
    """The answers to the forms of the last minute. Only the event loop uses it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: collections.OrderedDict[bytes, tuple[float, asyncio.Task[Response]]] = collections.OrderedDict()

    async def once(
        self, sender: str, path: str, form: Mapping[str, str], act: Callable[[], Coroutine[Any, Any, Response]]
    ) -> tuple[Response, bool]:
        """Return the answer to a form, and whether it was carried out now. Raises what `act` raises, to both."""
        if not form.get(FIELD):
            return await act(), True
        self._forget()
        key = hashlib.sha256(repr((sender, path, sorted(form.items()))).encode(errors="replace")).digest()
        known = self._answers.get(key)
        if known is None:
            # A task of its own: a browser that sends the form again abandons the first request.
            task = asyncio.create_task(act())
            self._answers[key] = self._clock(), task

            def ended(done: asyncio.Task[Response]) -> None:
                if done.cancelled() or done.exception() is not None:  # its user may try again
                    self._answers.pop(key, None)

            task.add_done_callback(ended)
        else:
            task = known[1]
        return await asyncio.shield(task), known is None

    def _forget(self) -> None:
        while self._answers:
            key, (at, task) = next(iter(self._answers.items()))
            if not task.done() or (at > self._clock() - KEPT and len(self._answers) < MOST):
                return
            del self._answers[key]
