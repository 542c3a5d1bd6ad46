"""Waiting for one job: a long poll, and a stream of events. Each waits in the backend, on one of a bounded number of threads.

So a process has at most MOST connections to the backend for those who wait.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from jobs_core import NotSupported
from jobs_core.backends.base import State

from ..errors import Refused
from ..live import require_streams
from ..visit import Visit
from . import jobs
from .bodies import answered
from .once import Answer
from .operation import Param, queried

MOST = 32
"""Most requests of one process that wait: each has a thread, and a connection to the backend."""

LONGEST = 60
"""Longest wait of a long poll, in seconds."""

SLICE = 1.0
"""Seconds between two looks at a job that has not ended: at its progress and log, or at whether the client is gone."""

LONGEST_STREAM = 3600.0
"""Seconds after which a stream of events ends; the browser's EventSource then connects again."""

WAIT = Param("wait", "Seconds to wait for the end of the job; the answer comes at once when it has ended.", 0, LONGEST, 0)

ENDED = {State.DONE.value, State.DEAD.value, State.CANCELLED.value}

T = TypeVar("T")


class Waiters:
    """The threads of those who wait. Any thread may use it."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._used = 0

    def __enter__(self) -> Waiters:
        with self._lock:
            self.check()
            self._used += 1
        return self

    def check(self) -> None:
        """Refuse one more, if there are as many as there may be."""
        if self._used >= MOST:
            raise Refused(
                503, f"{MOST} requests of this process wait for jobs already: try again later, or ask without waiting"
            )

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._used -= 1

    async def run(self, function: Callable[[], T]) -> T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MOST, thread_name_prefix="jobs-web-wait")
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


_waiters = Waiters()


def _wait(visit: Visit, job_id: str, seconds: float) -> None:
    """Wait until a job has ended, but no longer. A backend without results is asked once a slice."""
    try:
        visit.operate(lambda backend: backend.fetch_result(job_id, seconds))
    except NotSupported:
        time.sleep(seconds)


async def show(visit: Visit) -> Response:
    """Return a job; with `wait`, as soon as it has ended, or when the time is over."""
    query = queried(visit, (WAIT,))
    job_id = visit.path("id")
    data = await run_in_threadpool(_look, visit, job_id)
    end = time.monotonic() + query["wait"]
    if query["wait"] and data["state"] not in ENDED:
        with _waiters as waiters:
            while data["state"] not in ENDED and (left := end - time.monotonic()) > 0:
                await waiters.run(lambda left=left: _wait(visit, job_id, min(left, SLICE)))  # type: ignore[misc]
                if await visit.request.is_disconnected():
                    break
                data = await run_in_threadpool(_look, visit, job_id)
    return answered(Answer(200, data))


def _look(visit: Visit, job_id: str) -> dict[str, Any]:
    return jobs.view(visit, jobs.find(visit, job_id))


async def stream(visit: Visit) -> Response:
    """Return the events of a job as they come: `state`, `progress`, `log`; the stream ends with the job."""
    queried(visit, ())
    require_streams(visit)
    job_id = visit.path("id")
    first = await run_in_threadpool(_look, visit, job_id)
    _waiters.check()
    return StreamingResponse(
        _events(visit, job_id, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(visit: Visit, job_id: str, data: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield what is new, until the job has ended or is gone, or another one who waits was faster."""
    told = Told()
    end = time.monotonic() + LONGEST_STREAM
    yield b"retry: 2000\n\n"
    try:
        with _waiters as waiters:
            while True:
                for event in told.news(data):
                    yield event
                if data["state"] in ENDED or time.monotonic() >= end:
                    return
                await waiters.run(lambda: _wait(visit, job_id, SLICE))
                data = await run_in_threadpool(_look, visit, job_id)
                yield b": \n\n"  # so that a client that is gone is noticed
    except Refused as refused:  # done, and kept no result
        if refused.status == 404:
            yield _event("state", {"id": job_id, "state": State.UNKNOWN.value})


class Told:
    """What a stream has told already."""

    def __init__(self) -> None:
        self._state: Any = None
        self._progress: Any = None
        self._lines: list[Any] = []

    def news(self, data: dict[str, Any]) -> list[bytes]:
        """Return the events for what has changed."""
        found: list[bytes] = []
        for line in _after(self._lines, data.get("log", [])):
            found.append(_event("log", line))
        self._lines = data.get("log", [])
        if data.get("progress") != self._progress and data.get("progress") is not None:
            self._progress = data["progress"]
            found.append(_event("progress", self._progress))
        state = (data["state"], data.get("attempt"))
        if state != self._state:
            self._state = state
            found.append(
                _event("state", {key: data[key] for key in ("id", "state", "attempt", "reason", "result") if key in data})
            )
        return found


def _after(told: list[Any], lines: list[Any]) -> list[Any]:
    """Return the lines that come after those that were told; a job keeps its newest lines alone."""
    for overlap in range(min(len(told), len(lines)), 0, -1):
        if told[-overlap:] == lines[:overlap]:
            return lines[overlap:]
    return lines


def _event(kind: str, data: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
