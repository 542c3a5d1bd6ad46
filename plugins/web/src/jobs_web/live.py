"""News for open pages: one reader of the backend for all who watch, and only while somebody does.

A page that is open in a browser holds a stream of server-sent events (`/live`) about its subject: the snapshot that most pages
share, or one thing, such as a job. Once a second, the reader reads each subject that somebody watches, and tells its streams
when it has changed; the script of the page then fetches the page again, which is made from what the reader has found. So the
load on the backend is the same for one watcher and for two hundred. A subject beyond MOST_SUBJECTS is not read: its pages are
told when the snapshot changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from jobs_core import JobsError
from jobs_core.operating.snapshot import Snapshot

from .errors import Refused
from .places import Places

if TYPE_CHECKING:
    from .visit import Visit

logger = logging.getLogger("jobs.web")

INTERVAL = 1.0
"""Seconds between two readings while somebody watches."""

QUIET = 10.0
"""Seconds after which streams are told even if nothing but ages has changed; also keeps connections through proxies open."""

LONGEST = 600.0
"""Seconds after which a stream ends: the browser opens another one."""

ALLOWED_FOR = 10.0
"""Seconds after which a stream looks whether its user is still the one whom it was opened for."""

MOST = 500
"""Most streams at once."""

MOST_SUBJECTS = 32
"""Most subjects, beside the snapshot, that are read for those who watch."""

LONGEST_NAME = 300
"""Characters of the name of a subject."""

GOOD = 3.0
"""Seconds for which a page may be made from what the reader has found."""

SHARE = 4
"""How many times as long as it took to read a subject it is left alone, so that reading takes a fifth of the time at most."""


class Subject(NamedTuple):
    """What a page is about: its path, and which one of several."""

    page: str
    name: str


SNAPSHOT = Subject("", "")
"""What most pages are about."""


async def _always() -> bool:
    return True


class Live:
    """The streams and their reader. Only the event loop uses it, but for `found` and `forget`; reading is done on a thread.

    `read` returns what a page shows of a subject, and `still` what counts as a change of it.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        read: Callable[[Subject], object] = lambda subject: None,
        still: Callable[[Subject, object], bytes] = lambda subject, found: repr(found).encode(),
    ) -> None:
        self._snapshot = snapshot
        self._read = read
        self._still = still
        self._waiting: dict[Subject, set[asyncio.Event]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._closed = False
        self._places = Places("open stream")
        self._known: dict[Subject, bytes] = {}  # digests of what was read last
        self._found: dict[Subject, tuple[float, object]] = {}  # until when it is good, and what it is
        self._rests: dict[Subject, float] = {}  # until when a subject is not read
        self._changes = 0  # by users: what was being read meanwhile is out of date

    def close(self) -> None:
        """End all streams, because the server stops."""
        self._closed = True
        for watchers in self._waiting.values():
            for news in watchers:
                news.set()

    @property
    def is_closed(self) -> bool:
        """Return whether the server stops, so that nobody may wait any longer. Any thread may ask."""
        return self._closed

    @property
    def watchers(self) -> int:
        return sum(map(len, self._waiting.values()))

    def found(self, subject: Subject) -> object | None:
        """Return what the reader has found of a subject lately; None if it does not follow it. Any thread may ask."""
        until, value = self._found.get(subject, (0.0, None))
        return value if time.monotonic() < until else None

    def forget(self) -> None:
        """Forget what was found: a user has changed something. Any thread may call it."""
        self._changes += 1
        self._found = {}

    def check(self, user: str) -> None:
        """Refuse one more stream of a user, if there is no place for it."""
        self._places.check(user, MOST)

    async def events(
        self, subject: Subject = SNAPSHOT, user: str = "", is_allowed: Callable[[], Awaitable[bool]] = _always
    ) -> AsyncIterator[bytes]:
        """Yield an event for each change of a subject, until the stream is old, or its user may not watch any longer."""
        with contextlib.suppress(Refused), self._places.taken(user, MOST):  # another one who watches was faster
            async with contextlib.aclosing(self._events(subject, is_allowed)) as events:
                async for event in events:
                    yield event

    async def _events(self, subject: Subject, is_allowed: Callable[[], Awaitable[bool]]) -> AsyncGenerator[bytes, None]:
        if subject not in self._waiting and len(self._waiting.keys() - {SNAPSHOT}) >= MOST_SUBJECTS:
            subject = SNAPSHOT
        news = asyncio.Event()
        self._waiting.setdefault(subject, set()).add(news)
        if self._reader is None:
            self._reader = asyncio.create_task(self._follow())
        try:
            yield b"retry: 2000\n\n"
            until, allowed_until = time.monotonic() + LONGEST, time.monotonic() + ALLOWED_FOR
            while time.monotonic() < until and not self._closed:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(news.wait(), QUIET)
                news.clear()
                if time.monotonic() >= allowed_until:
                    if not await is_allowed():
                        return
                    allowed_until = time.monotonic() + ALLOWED_FOR
                if not self._closed:
                    yield b"event: change\ndata: \n\n"
        finally:
            self._leave(subject, news)

    def _leave(self, subject: Subject, news: asyncio.Event) -> None:
        self._waiting[subject].discard(news)
        if not self._waiting[subject]:
            del self._waiting[subject]
            self._known.pop(subject, None)
            self._found.pop(subject, None)
            self._rests.pop(subject, None)
        if not self._waiting and self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def _follow(self) -> None:
        """Read as long as somebody watches, and tell those who watch a subject about each change of it."""
        while True:
            for subject in list(self._waiting):
                if time.monotonic() >= self._rests.get(subject, 0.0):
                    await self._look(subject)
            await asyncio.sleep(INTERVAL)

    async def _look(self, subject: Subject) -> None:
        last, changes, began = self._known.get(subject, b""), self._changes, time.monotonic()
        try:
            value, found = await run_in_threadpool(self._reading, subject)
        except Exception:  # whatever is wrong, those who watch must not be left behind for ever
            logger.exception("the dashboard cannot be followed: the next reading is in %g s", INTERVAL)
            return
        if subject not in self._waiting:
            return
        now = time.monotonic()
        rest = SHARE * (now - began)
        self._known[subject], self._rests[subject] = found, now + rest
        if value is not None and changes == self._changes:
            self._found[subject] = now + max(GOOD, 2 * rest), value
        if last and found != last:
            for news in self._waiting[subject]:
                news.set()

    def _reading(self, subject: Subject) -> tuple[object, bytes]:
        """Read a subject; return what was found, and what counts as a change of it: an error, too, since the page tells it."""
        if subject == SNAPSHOT:
            return None, digest(self._snapshot())
        try:
            value = self._read(subject)
        except (Refused, JobsError) as error:
            return None, f"error: {error}".encode()
        return value, self._still(subject, value)


def packed(value: object) -> bytes:
    """Return a value as bytes that are the same for equal values."""
    return msgspec.msgpack.encode(value, enc_hook=repr, order="sorted")


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


def require_streams(visit: Visit) -> None:
    """Refuse a stream of events where the server (WSGI) would give a thread to each."""
    if not visit.site.streams:
        raise Refused(501, "this server (WSGI) has no streams of events: ask again after some seconds")


async def stream(visit: Visit) -> Response:
    """Answer with the stream of changes of what a page is about."""
    require_streams(visit)
    live, user = visit.site.live, visit.named
    live.check(user)
    subject = visit.site.subject(visit.query("page"), visit.query("name")[:LONGEST_NAME])
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return StreamingResponse(
        live.events(subject, user, visit.is_still_allowed), media_type="text/event-stream", headers=headers
    )
