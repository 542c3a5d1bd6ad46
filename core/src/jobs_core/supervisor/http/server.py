"""A very small HTTP server: one thread, GET and HEAD, one response per connection, everything bounded.

The standard library's server costs 2 MB of imports, and a thread for every slow client; docs/transport.md has the figures.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from ...config_rules import parse_listen
from ...errors import ConfigError
from ...unix_sockets import at_path

MOST_CONNECTIONS = 64
"""Largest number of connections; a new one then replaces the oldest, so that slow clients cannot block a probe."""

LONGEST_REQUEST = 8192
REQUEST_PATIENCE = 5.0
ANSWER_PATIENCE = 10.0
_CHUNK = 65536
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


class ListenError(ConfigError):
    """Raised when `http.listen` is not a valid address, or cannot be used."""


class Request(Struct):
    """An HTTP request; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    def asks(self, flag: str) -> bool:
        """Return whether the query has a flag, with or without a value."""
        return any(part.partition("=")[0] == flag for part in self.query.split("&"))


class Response(Struct):
    """An HTTP response."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[Request], Response]


def listener(listen: str, base_dir: Path = Path()) -> socket.socket:
    """Return a listening socket for `HOST:PORT`, `[IPv6]:PORT` or `unix:PATH` (relative to `base_dir`).

    Raises ListenError. Only this user can connect to a unix socket; it replaces one on which no process listens any more.
    """
    try:
        address = parse_listen(listen)
    except ValueError as error:
        raise ListenError(f"http.listen: {error}") from None
    try:
        made = at_path(base_dir / address) if isinstance(address, Path) else _tcp(*address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenError(f"http.listen: {listen} cannot be used: {reason}: choose another address, or free this one") from None
    made.listen(socket.SOMAXCONN)
    made.setblocking(False)
    return made


def _tcp(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


class Server:
    """A server on a listening socket. `handlers` maps a path to the function that makes the response."""

    def __init__(self, listening: socket.socket, handlers: Mapping[str, Handler]) -> None:
        self._listening = listening
        self._handlers = handlers
        self._selector = selectors.DefaultSelector()
        self._connections: dict[_Connection, None] = {}  # oldest first
        self._selector.register(listening, selectors.EVENT_READ)

    def run(self) -> NoReturn:
        while True:
            for key, _ in self._selector.select(self._timeout()):
                if key.data is None:
                    self._accept()
                elif key.data in self._connections:
                    self._continue(key.data)
            self._drop_late()

    def _timeout(self) -> float | None:
        if not self._connections:
            return None
        return max(0.0, min(connection.deadline for connection in self._connections) - time.monotonic())

    def _accept(self) -> None:
        while len(self._connections) >= MOST_CONNECTIONS:
            self._drop(next(iter(self._connections)))
        try:
            accepted, _ = self._listening.accept()
        except OSError:  # the client has disconnected, or there are no descriptors left
            return
        accepted.setblocking(False)
        connection = _Connection(accepted)
        self._connections[connection] = None
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _continue(self, connection: _Connection) -> None:
        try:
            if connection.answering:
                if connection.send():
                    self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
                return
            if not connection.receive():
                self._drop(connection)
                return
            request = connection.request()
            if request is not None and not connection.done:
                connection.answer(
                    self._respond(request), with_body=not isinstance(request, Request) or request.method != "HEAD"
                )
                self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
        except OSError:
            self._drop(connection)

    def _respond(self, request: Request | int) -> Response:
        if isinstance(request, int):
            return Response(request, f"{_REASONS[request].lower()}\n")
        handler = self._handlers.get(request.path)
        if handler is None:
            return Response(404, f"not found; the paths are {', '.join(self._handlers)}\n")
        if request.method not in ("GET", "HEAD"):
            return Response(405, "only GET and HEAD are allowed\n")
        try:
            return handler(request)
        except Exception as error:
            return Response(500, f"{type(error).__name__}: {error}\n")

    def _drop_late(self) -> None:
        now = time.monotonic()
        for connection in [each for each in self._connections if each.deadline <= now]:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.socket)
        connection.socket.close()


class _Connection:
    """One client: its request is read, the response is written, then further input is read until the client disconnects.

    Closing with unread input would reset the connection, and the client might never see the response.
    """

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.deadline = time.monotonic() + REQUEST_PATIENCE
        self.answering = self.done = False
        self._received = bytearray()
        self._left = memoryview(b"")

    def receive(self) -> bool:
        """Read what has arrived; return False at the end."""
        try:
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return True
        if not self.done:
            self._received += data
        return bool(data)

    def request(self) -> Request | int | None:
        """Return the request once it is complete, the status of its error, or None while it is incomplete."""
        head, end, _ = bytes(self._received).partition(b"\r\n\r\n")
        if len(head) > LONGEST_REQUEST:
            return 431
        if not end:
            return None
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return 400
        path, _, query = words[1].partition("?")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return Request(words[0], path, query, headers)

    def answer(self, response: Response, *, with_body: bool) -> None:
        body = response.body.encode()
        head = (
            f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\n"
            f"Content-Type: {response.content_type}\r\n"
            f"Content-Length: {len(body)}\r\n"
            + ("Allow: GET, HEAD\r\n" if response.status == 405 else "")
            + "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        self._left = memoryview(head.encode("latin-1") + (body if with_body else b""))
        self.answering = True
        self.deadline = time.monotonic() + ANSWER_PATIENCE

    def send(self) -> bool:
        """Write as much as possible; return True once all is written."""
        try:
            self._left = self._left[self.socket.send(self._left) :]
        except BlockingIOError:
            return False
        if self._left:
            return False
        self.answering, self.done = False, True
        self.socket.shutdown(socket.SHUT_WR)
        self.deadline = time.monotonic() + 1.0
        return True
