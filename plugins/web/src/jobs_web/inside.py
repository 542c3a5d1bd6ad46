"""The dashboard inside a web framework: a view of the framework passes requests on, each with the user whom it has let in.

So the framework's own login, sessions and middleware stand before the dashboard. A server without an event loop (WSGI) gets one
on a thread of its own. Streams of events would hold one of its few threads each, so there are none: pages ask anew instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar
from urllib.parse import quote

from msgspec import Struct
from starlette.requests import Request
from starlette.types import Message

from jobs_core import App

from .api.bodies import LARGEST
from .roles import User
from .site import create

T = TypeVar("T")

USER = "jobs_web.user"
"""The key of the scope under which the view passes the user on."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

MOST_READ = LARGEST + 1
"""Bytes of a body that a view reads: of one that is larger, enough for the dashboard to refuse it."""

BUFFER = 16
"""Parts of an answer that wait for a slow client."""


class Asked(Struct, frozen=True):
    """A request, as a view knows it. `path` contains the prefix under which the dashboard is published."""

    method: str
    path: str
    prefix: str
    query: bytes
    headers: list[tuple[str, str]]
    scheme: str
    client: str
    body: bytes


class Answer(Struct, frozen=True):
    """An answer. Its body has to be read to its end, or closed."""

    status: int
    headers: list[tuple[str, str]]
    body: AsyncIterator[bytes]

    @property
    def is_stream(self) -> bool:
        """Return whether the body is a stream of events, which lasts."""
        return dict(self.headers).get("content-type", "").startswith("text/event-stream")

    async def whole(self) -> Whole:
        """Return the answer when all of it has arrived."""
        return Whole(self.status, self.headers, b"".join([part async for part in self.body]))


class Whole(Struct, frozen=True):
    """An answer whose body has arrived."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Inside:
    """The dashboard of an application, by default the current one. One event loop uses it."""

    def __init__(self, app: App | None = None, *, streams: bool) -> None:
        self._asgi = create(app, _user_of, streams=streams)

    async def ask(self, asked: Asked, user: User | None) -> Answer:
        """Pass a request on, and return the answer as soon as it begins."""
        messages: asyncio.Queue[Message | BaseException] = asyncio.Queue(BUFFER)

        async def serve() -> None:
            try:
                await self._asgi(_scope(asked, user), _receiver(asked.body), messages.put)
            except Exception as error:  # whoever waits for the next part must not wait for ever
                await messages.put(error)

        task = asyncio.create_task(serve())
        started = await messages.get()
        if isinstance(started, BaseException):
            raise started
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in started["headers"]]
        return Answer(started["status"], headers, _parts(messages, task))

    async def whole(self, asked: Asked, user: User | None) -> Whole:
        """Pass a request on, and return the answer when all of it has arrived."""
        return await (await self.ask(asked, user)).whole()


async def _user_of(request: Request) -> User | None:
    user: User | None = request.scope[USER]
    return user


def _scope(asked: Asked, user: User | None) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": asked.scheme,
        "path": asked.path,
        "raw_path": quote(asked.path).encode(),
        "root_path": asked.prefix,
        "query_string": asked.query,
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in asked.headers],
        "client": (asked.client, 0) if asked.client else None,
        "server": None,
        USER: user,
    }


def _receiver(body: bytes) -> Any:
    """Return what gives the application the body, and then nothing: the framework ends what its client has left."""
    left = [body]

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    return receive


async def _parts(messages: asyncio.Queue[Message | BaseException], task: asyncio.Task[None]) -> AsyncIterator[bytes]:
    """Yield the parts of a body. The application is ended when nobody reads any more."""
    try:
        while True:
            message = await messages.get()
            if isinstance(message, BaseException):
                raise message
            if message["body"]:
                yield message["body"]
            if not message.get("more_body"):
                return
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def without_threads() -> str:
    """Return why this process cannot contain the dashboard; "" if it can.

    Greenlets share the thread of the application. While an event loop runs in one of them, asyncio believes that it runs in all
    of them: every query of Django, and every `asyncio.run`, would fail from the first visit on.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        by = "gevent"
    elif eventlet is not None and eventlet.is_monkey_patched("thread"):
        by = "eventlet"
    else:
        return ""
    return (
        f"{by} has replaced the threads of this process, and the dashboard needs real ones: run `jobsctl web` beside the "
        "application, behind the same proxy, or serve the application with threads"
    )


class OwnLoop:
    """An event loop on a thread of this process, which begins with the first call. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and return its result. Blocks."""
        return asyncio.run_coroutine_threadsafe(work, self._running()).result()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():  # a server may fork after a request
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name="jobs-web", daemon=True).start()
            return self._loop
