"""News for open pages: one reader of the backend for all who watch, and only while somebody does.

A page that is open in a browser holds a stream of server-sent events (`/live`). The reader takes the snapshot that all pages
share, once a second, and tells every stream when it has changed; the script of the page then fetches the page again, which is
made from the same snapshot. So the load on the backend is the same for one watcher and for two hundred.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from jobs_core.operating.snapshot import Snapshot

from .errors import Refused

if TYPE_CHECKING:
    from .visit import Visit

logger = logging.getLogger("jobs.web")

INTERVAL = 1.0
"""Seconds between two readings while somebody watches."""

QUIET = 10.0
"""Seconds after which streams are told even if nothing but ages has changed; also keeps connections through proxies open."""

LONGEST = 600.0
"""Seconds after which a stream ends: the browser opens another one, and its user is looked up again."""

MOST = 500
"""Most streams at once."""


class Live:
    """The streams and their reader. Only the event loop uses it; the reading itself is done on a thread."""

    def __init__(self, read: Callable[[], Snapshot]) -> None:
        self._read = read
        self._waiting: set[asyncio.Event] = set()
        self._reader: asyncio.Task[None] | None = None
        self._closed = False

    def close(self) -> None:
        """End all streams, because the server stops."""
        self._closed = True
        for news in self._waiting:
            news.set()

    @property
    def watchers(self) -> int:
        return len(self._waiting)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield an event for each change, until the stream is old."""
        news = asyncio.Event()
        self._waiting.add(news)
        if self._reader is None:
            self._reader = asyncio.create_task(self._follow())
        try:
            yield b"retry: 2000\n\n"
            until = time.monotonic() + LONGEST
            while time.monotonic() < until and not self._closed:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(news.wait(), QUIET)
                news.clear()
                if not self._closed:
                    yield b"event: change\ndata: \n\n"
        finally:
            self._waiting.discard(news)
            if not self._waiting and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def _follow(self) -> None:
        """Read as long as somebody watches, and tell all of them about each change."""
        last = b""
        while True:
            try:
                found = digest(await run_in_threadpool(self._read))
            except Exception:  # whatever is wrong, those who watch must not be left behind for ever
                logger.exception("the dashboard cannot be followed: the next reading is in %g s", INTERVAL)
                found = last
            if last and found != last:
                for news in self._waiting:
                    news.set()
            last = found
            await asyncio.sleep(INTERVAL)


def digest(snapshot: Snapshot) -> bytes:
    """Return what counts as a change of a snapshot: everything but times and ages, which change all the time."""
    still = replace(
        snapshot,
        at=0.0,
        topics={name: replace(counts, oldest_age=None) for name, counts in snapshot.topics.items()},
        flows=None if snapshot.flows is None else [replace(flow, broker_now=0.0) for flow in snapshot.flows],
        machines=None
        if snapshot.machines is None
        else [
            replace(machine, age=0.0, longest=[replace(run, seconds=0.0) for run in machine.longest])
            for machine in snapshot.machines
        ],
        limits=None
        if snapshot.limits is None
        else [replace(limit, opens_in=None, closed_for=float(limit.closed_for > 0)) for limit in snapshot.limits],
    )
    return msgspec.msgpack.encode(replace(still, paused=frozenset()), order="sorted") + repr(sorted(snapshot.paused)).encode()


async def stream(visit: Visit) -> Response:
    """Answer with the stream of changes."""
    live = visit.site.live
    if live.watchers >= MOST:
        raise Refused(503, f"{MOST} pages are watched already")
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return StreamingResponse(live.events(), media_type="text/event-stream", headers=headers)
