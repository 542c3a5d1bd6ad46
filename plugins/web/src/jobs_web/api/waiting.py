"""Waiting for one job: a long poll, and a stream of events.

All clients that wait for one job share one wait in the backend. A process has up to THREADS such waits, which notice the end at
once; each has a thread and a connection to the backend. The jobs of further clients are looked at once a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from jobs_core import BackendUnavailable, NotSupported
from jobs_core.backends.base import JobRecord, State

from ..errors import Refused
from ..live import require_streams
from ..places import Places
from ..visit import Visit
from . import jobs
from .bodies import answered
from .once import Answer
from .operation import Param, queried

MOST = 500
"""Most requests of one process that wait."""

THREADS = 32
"""Most jobs for whose ends the backend is asked to wait; each has a thread, and a connection."""

LONGEST = 60
"""Longest wait of a long poll, in seconds."""

SLICE = 1.0
"""Seconds between two looks at a job that has not ended: at its progress and log, or at whether the client is gone."""

ALLOWED_FOR = 10.0
"""Seconds after which a stream of events looks whether its user is still the one whom it was opened for."""

LONGEST_STREAM = 3600.0
"""Seconds after which a stream of events ends; the browser's EventSource then connects again."""

WAIT = Param("wait", "Seconds to wait for the end of the job; the answer comes at once when it has ended.", 0, LONGEST, 0)

ENDED = {State.DONE.value, State.DEAD.value, State.CANCELLED.value}


class Waiters:
    """Those who wait, and the waits that they share. A wait belongs to one event loop."""

    def __init__(self) -> None:
        self.places = Places("waiting request")
        self._threads: ThreadPoolExecutor | None = None
        self._busy = 0  # threads
        self._shared: dict[tuple[object, object, str], asyncio.Task[JobRecord | None]] = {}  # by event loop, site and job

    async def until_changed(self, visit: Visit, job_id: str, seconds: float) -> JobRecord | None:
        """Wait until a job has ended, for SLICE or `seconds` if that is less, and return its record; None if there is none."""
        key = asyncio.get_running_loop(), visit.site, job_id
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = asyncio.create_task(self._wait(visit, job_id))
            shared.add_done_callback(lambda _: self._shared.pop(key, None))
        done, _ = await asyncio.wait((shared,), timeout=seconds)
        return shared.result() if done else await run_in_threadpool(visit.app.find, job_id)

    async def _wait(self, visit: Visit, job_id: str) -> JobRecord | None:
        if self._busy >= THREADS:
            await asyncio.sleep(SLICE)
            return await run_in_threadpool(visit.app.find, job_id)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="jobs-web-wait")
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, _ended, visit, job_id)
        finally:
            self._busy -= 1


_waiters = Waiters()


def _ended(visit: Visit, job_id: str) -> JobRecord | None:
    """Wait for the end of a job, and return its record. A backend without results is asked once a slice."""
    try:
        visit.operate(lambda backend: backend.fetch_result(job_id, SLICE))
    except NotSupported:
        time.sleep(SLICE)
    return visit.app.find(job_id)


async def show(visit: Visit) -> Response:
    """Return a job; with `wait`, as soon as it has ended, or when the time is over."""
    query = queried(visit, (WAIT,))
    job_id = visit.path("id")
    data = await run_in_threadpool(_look, visit, job_id)
    end = time.monotonic() + query["wait"]
    if query["wait"] and data["state"] not in ENDED:
        with _waiters.places.taken(visit.named, MOST):
            while data["state"] not in ENDED and (left := end - time.monotonic()) > 0 and not visit.site.live.is_closed:
                try:
                    record = await _waiters.until_changed(visit, job_id, left)
                    data = await run_in_threadpool(_shown, visit, job_id, record)
                except BackendUnavailable:  # perhaps it restarts
                    if left <= SLICE:
                        raise
                    await asyncio.sleep(SLICE)
                if await visit.request.is_disconnected():
                    break
    return answered(Answer(200, data))


def _look(visit: Visit, job_id: str) -> dict[str, Any]:
    return _shown(visit, job_id, visit.app.find(job_id))


def _shown(visit: Visit, job_id: str, record: JobRecord | None) -> dict[str, Any]:
    return jobs.view(visit, jobs.known(visit, job_id, record))


async def stream(visit: Visit) -> Response:
    """Return the events of a job as they come: `state`, `progress`, `log`; the stream ends with the job."""
    queried(visit, ())
    require_streams(visit)
    job_id = visit.path("id")
    first = await run_in_threadpool(_look, visit, job_id)
    _waiters.places.check(visit.named, MOST)
    return StreamingResponse(
        _events(visit, job_id, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(visit: Visit, job_id: str, data: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield what is new, until the job has ended or is gone, the server stops, or another one who waits was faster."""
    told = Told()
    end = time.monotonic() + LONGEST_STREAM
    allowed_until = time.monotonic() + ALLOWED_FOR
    yield b"retry: 2000\n\n"
    try:
        with _waiters.places.taken(visit.named, MOST):
            while True:
                for event in told.news(data):
                    yield event
                now = time.monotonic()
                if data["state"] in ENDED or now >= end or visit.site.live.is_closed:
                    return
                if now >= allowed_until:
                    if not await visit.is_still_allowed():
                        return
                    allowed_until = now + ALLOWED_FOR
                try:
                    record = await _waiters.until_changed(visit, job_id, 2 * SLICE)
                    data = await run_in_threadpool(_shown, visit, job_id, record)
                except BackendUnavailable:  # perhaps it restarts
                    await asyncio.sleep(SLICE)
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
